"""Results and truths read from their folders: the one place of the evaluation that touches the disk.

A study is a folder that holds any of ``anatomy.nii.gz``, ``levels.nii.gz`` and
``lesions.nii.gz`` (values as ``spinemets detect`` writes them), and ``report.json`` or
``truth.json``; or files beside each other, as in ``case_anatomy.nii.gz`` with ``case.json``.
Of the document ``levels`` and ``findings`` (or ``lesions``) are read: ``level``,
``centroid_mm``, ``lesion``, ``compartment``, ``compartment_probabilities``, ``region``,
``confidence`` and ``needs_review``; of a truth also ``structure`` and ``signal_ratio``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.batch import study_key
from spinemets.errors import GeometryError, NoUsableInputError, UnreadableFileError, UnsupportedInputError
from spinemets.evaluation.results import FindingFacts, StudyResult
from spinemets.evaluation.spider import SpiderPrediction
from spinemets.io.files import NIFTI_DAMAGE_ERRORS, read_image_header
from spinemets.io.label_values import VERSE_LABELS
from spinemets.volume import Grid, PointMm

__all__ = [
    "StudyFiles",
    "belongs_to",
    "find_studies",
    "folder_beginning",
    "read_label_map",
    "read_spider_prediction",
    "read_study_result",
    "result_named",
]

_MAPS = ("anatomy", "levels", "lesions")
_DOCUMENTS = ("report.json", "truth.json")
_LEVELS = {number: level for level, number in VERSE_LABELS.items()}


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """Where one study's label maps (by "anatomy", "levels", "lesions") and its document lie."""

    study: str
    maps: Mapping[str, Path]
    document: Path | None


def belongs_to(result: str, study: str) -> bool:
    """Whether a result is a study's, by their names; a folder of several files stands before them.

    >>> belongs_to("studies_sub-055_ses-0", "sub-055_ses-0"), belongs_to("case_1_T2", "case 1_T2")
    (True, True)
    """
    return any(result == name or result.endswith(f"_{name}") for name in _names_of(study))


def _names_of(study: str) -> tuple[str, ...]:
    """A study's name, and as results have it, whose folders have no spaces, brackets or umlauts."""
    return study, study_key(Path(study))


def result_named(study: str, found: Mapping[str, StudyFiles], results: Path) -> StudyFiles:
    """The result of a study whose whole name is known; those of a BIDS dataset begin with the dataset's.

    A result that only begins with the name is none: where that of ``sub-1`` failed, ``sub-1_ses-2``
    would be scored in its place.

    Raises
    ------
    NoUsableInputError
        There is none, or more than one.
    """
    fitting = [files for own, files in found.items() if belongs_to(own, study)]
    if study in found or len(fitting) == 1:
        return found.get(study, fitting[0])
    raise NoUsableInputError(
        f"{results}: holds no result for {study}, only for {', '.join(found)}; "
        "detect names results as their scans with --identifiers keep"
    )


def folder_beginning(results: Path, beginning: str) -> Path:
    """The folder of results that is called so, else the one that begins so, best before an underscore.

    For what knows the beginning of a name alone: a subject of SPIDER, a mask of one structure.

    Raises
    ------
    NoUsableInputError
        There is none, or more than one.
    """
    folders = {folder.name: folder for folder in sorted(results.iterdir()) if folder.is_dir()}
    names = _names_of(beginning)
    whole = [name for name in names if name in folders][:1]
    begun = [own for own in folders if own.startswith(tuple(f"{name}_" for name in names))]
    # case10 is not one of case1.
    either = "|".join(map(re.escape, names))
    others = [own for own in folders if re.match(rf"(?:{either})(?!(?<=\d)\d)", own)]
    fitting = whole or begun or others
    if len(fitting) != 1:
        raise NoUsableInputError(
            f"{results}: holds {len(fitting)} folders that begin with {beginning}; expected one"
        )
    return folders[fitting[0]]


def read_label_map(path: Path) -> tuple[npt.NDArray[np.integer], Grid]:
    """A NIfTI label map as integers in the file's own axis order, and its grid.

    Values below 0 and those that are no numbers, as some tools write where nothing is labelled, are 0.

    Raises
    ------
    UnreadableFileError
        There is no such file, or it is damaged or no NIfTI.
    UnsupportedInputError
        It is not 3-D; further axes of length 1 do no harm. Or it holds colours or complex values.
    GeometryError
        Its affine is not one.
    """
    try:
        labels = np.asanyarray(nibabel.Nifti1Image.from_filename(path).dataobj)
    except NIFTI_DAMAGE_ERRORS as error:
        raise UnreadableFileError(f"{path}: is no readable NIfTI file ({error})") from error
    while labels.ndim > 3 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.ndim != 3:
        raise UnsupportedInputError(f"{path}: holds an image of shape {labels.shape}; a 3-D one is needed")
    try:
        # As a detection takes it: where a header tells no orientation, nibabel assumes another one.
        grid = read_image_header(path).grid
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    return np.rint(np.where(labels > 0, labels, 0)).astype(np.int32), grid


def read_spider_prediction(folder: Path) -> tuple[SpiderPrediction, Grid]:
    """The label maps of one result folder.

    Raises
    ------
    UnreadableFileError
        A label map is missing or damaged.
    """
    (anatomy, grid), (levels, _), (lesions, _) = (read_label_map(folder / f"{name}.nii.gz") for name in _MAPS)
    return SpiderPrediction(anatomy, levels, _LEVELS, lesions), grid


def find_studies(root: Path) -> dict[str, StudyFiles]:
    """The studies of a folder by name, those in folders of their own and those in files side by side.

    Raises
    ------
    NoUsableInputError
        There is none.
    """
    studies: dict[str, StudyFiles] = {}
    for path in sorted(root.glob("*/*.nii.gz")) + sorted(root.glob("*.nii.gz")):
        prefix, kind = "", path.name.removesuffix(".nii.gz")
        if path.parent == root:
            prefix, _, kind = kind.rpartition("_")
        name = prefix or path.parent.name
        if kind not in _MAPS or (path.parent == root and not prefix):
            continue
        documents = [root / f"{name}.json"] if prefix else [path.parent / one for one in _DOCUMENTS]
        document = next((one for one in documents if one.is_file()), None)
        known = studies[name].maps if name in studies else {}
        studies[name] = StudyFiles(name, {**known, kind: path}, document)
    if not studies:
        raise NoUsableInputError(
            f"{root}: holds no study; expected folders with {', '.join(f'{kind}.nii.gz' for kind in _MAPS)}"
        )
    return studies


def read_study_result(files: StudyFiles) -> StudyResult:
    """Whatever the files of one study hold.

    Raises
    ------
    GeometryError
        Its label maps lie on different grids.
    UnreadableFileError
        A file is damaged, or the document tells a lesion of which the label map has no voxel.
    """
    maps = {kind: read_label_map(path) for kind, path in files.maps.items()}
    grid = next(iter(maps.values()))[1]
    if any(not other.is_close(grid) for _, other in maps.values()):
        raise GeometryError(f"{files.study}: its label maps lie on different grids")
    document = {} if files.document is None else _document(files.document)
    levels, lesions = document.get("levels", ()), document.get("findings", document.get("lesions", ()))
    try:
        centres = {VertebralLevel(one["level"]): _point(one["centroid_mm"]) for one in levels}
        sureness = {VertebralLevel(one["level"]): _probability(one.get("confidence", 1)) for one in levels}
        findings = {int(one["lesion"]): _facts(one) for one in lesions}
        weightings = tuple(str(one["weighting"]) for one in document.get("study", {}).get("series", ()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            f"{files.document}: lacks a value or holds a wrong one: {error!r}"
        ) from error
    arrays = {kind: array for kind, (array, _) in maps.items()}
    undrawn = (
        sorted(set(findings) - set(np.unique(arrays["lesions"]).tolist())) if "lesions" in arrays else ()
    )
    if undrawn:
        # It would be neither found nor missed.
        raise UnreadableFileError(
            f"{files.document}: tells of lesion {undrawn[0]}, of which {files.maps['lesions'].name} has no "
            "voxel; give each lesion's voxels its number, or leave it out"
        )
    if not centres and "levels" in arrays:
        centres = _centres_mm(arrays["levels"], arrays.get("anatomy"), grid)
    return StudyResult(
        files.study,
        grid,
        arrays.get("anatomy"),
        arrays.get("lesions"),
        centres,
        sureness,
        findings,
        weightings,
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnreadableFileError(f"{path}: is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UnreadableFileError(f"{path}: holds no JSON object; expected one with levels and findings")
    return document


def _facts(finding: dict[str, Any]) -> FindingFacts:
    compartment, region = finding.get("compartment"), finding.get("region")
    probabilities = finding.get("compartment_probabilities")
    return FindingFacts(
        confidence=_probability(finding.get("confidence", 1)),
        compartment=Compartment(compartment) if compartment else None,
        region=SpineRegion(region) if region else None,
        structure=Structure[finding["structure"].upper()] if finding.get("structure") else None,
        signal_ratio=_only_ratio(finding.get("signal_ratio")),
        compartment_confidence=max(map(_probability, probabilities.values())) if probabilities else None,
        needs_review=bool(finding.get("needs_review", False)),
        review_topics=frozenset(finding.get("review_topics", ())),
    )


def _only_ratio(by_sequence: Any) -> float | None:
    """That of the one sequence which shows a true lesion; of several, each has its own."""
    if not isinstance(by_sequence, dict) or len(by_sequence) != 1:
        return None
    return float(next(iter(by_sequence.values())))


def _probability(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} is no probability; expected 0 to 1")
    return number


def _point(values: Any) -> PointMm:
    x, y, z = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, z))):
        raise ValueError(f"{x}, {y}, {z} is no place")
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
