"""Results and truths read from their folders: the one place of the evaluation that touches the disk.

A folder holds any of ``anatomy.nii.gz``, ``levels.nii.gz`` and ``lesions.nii.gz`` (values as
``spinemets detect`` writes them), and ``report.json`` or ``truth.json`` with the ``levels``
and ``findings`` of a report, of which ``level``, ``centroid_mm``, ``lesion``, ``compartment``,
``region`` and ``confidence`` are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.errors import GeometryError, NoUsableInputError, UnreadableFileError
from spinemets.evaluation.results import FindingFacts, StudyResult
from spinemets.evaluation.spider import SpiderPrediction
from spinemets.findings import PointMm
from spinemets.io.label_values import VERSE_LABELS
from spinemets.volume import Grid

__all__ = ["read_label_map", "read_spider_prediction", "read_study_result"]

_MAPS = ("anatomy", "levels", "lesions")
_LEVELS = {number: level for level, number in VERSE_LABELS.items()}


def read_label_map(path: Path) -> tuple[npt.NDArray[np.integer], Grid]:
    """A NIfTI label map as integers in the file's own axis order, and its grid.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is damaged or no NIfTI.
    """
    try:
        image = nibabel.Nifti1Image.from_filename(path)
        labels = np.asanyarray(image.dataobj)
    except (OSError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise UnreadableFileError(f"{path}: is no readable NIfTI file ({error})") from error
    return np.rint(labels).astype(np.int32), Grid(labels.shape, np.asarray(image.affine, dtype=np.float64))


def read_spider_prediction(folder: Path) -> tuple[SpiderPrediction, Grid]:
    """The label maps of one result folder.

    Raises
    ------
    UnreadableFileError
        A label map is missing or damaged.
    """
    (anatomy, grid), (levels, _), (lesions, _) = (read_label_map(folder / f"{name}.nii.gz") for name in _MAPS)
    return SpiderPrediction(anatomy, levels, _LEVELS, lesions), grid


def read_study_result(folder: Path) -> StudyResult:
    """Whatever one folder holds.

    Raises
    ------
    NoUsableInputError
        It holds no label map.
    GeometryError
        Its label maps lie on different grids.
    UnreadableFileError
        A file is damaged.
    """
    maps = {name: read_label_map(path) for name in _MAPS if (path := folder / f"{name}.nii.gz").is_file()}
    if not maps:
        raise NoUsableInputError(f"{folder}: holds none of {', '.join(f'{name}.nii.gz' for name in _MAPS)}")
    grid = next(iter(maps.values()))[1]
    if any(not other.is_close(grid) for _, other in maps.values()):
        raise GeometryError(f"{folder}: its label maps lie on different grids")
    document = _document(folder)
    try:
        centres = {
            VertebralLevel(one["level"]): _point(one["centroid_mm"]) for one in document.get("levels", ())
        }
        sureness = {
            VertebralLevel(one["level"]): float(one.get("confidence", 1))
            for one in document.get("levels", ())
        }
        findings = {int(one["lesion"]): _facts(one) for one in document.get("findings", ())}
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            f"{folder}: its report lacks a value or holds a wrong one: {error!r}"
        ) from error
    arrays = {name: array for name, (array, _) in maps.items()}
    if not centres and "levels" in arrays:
        centres = _centres_mm(arrays["levels"], arrays.get("anatomy"), grid)
    return StudyResult(
        folder.name, grid, arrays.get("anatomy"), arrays.get("lesions"), centres, sureness, findings
    )


def _document(folder: Path) -> dict[str, Any]:
    for name in ("report.json", "truth.json"):
        path = folder / name
        if path.is_file():
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UnreadableFileError(f"{path}: is not JSON ({error})") from error
            return document if isinstance(document, dict) else {}
    return {}


def _facts(finding: dict[str, Any]) -> FindingFacts:
    compartment, region = finding.get("compartment"), finding.get("region")
    return FindingFacts(
        confidence=float(finding.get("confidence", 1)),
        compartment=Compartment(compartment) if compartment else None,
        region=SpineRegion(region) if region else None,
    )


def _point(values: Any) -> PointMm:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _centres_mm(
    levels: npt.NDArray[np.integer], anatomy: npt.NDArray[np.integer] | None, grid: Grid
) -> dict[VertebralLevel, PointMm]:
    """Centres of the named bodies; of the whole vertebrae where no body is labelled."""
    bodies = levels if anatomy is None else np.where(anatomy == Structure.VERTEBRAL_BODY, levels, 0)
    centres = {}
    for number in np.unique(levels[levels > 0]).tolist():
        voxels = np.argwhere(bodies == number)
        if not len(voxels):
            voxels = np.argwhere(levels == number)
        if number in _LEVELS:
            centres[_LEVELS[number]] = _point(grid.to_world(voxels.mean(axis=0)))
    return centres
