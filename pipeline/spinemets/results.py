"""The files of one study's result: the report, and label maps on the reference series' grid."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.atomic import atomic_write_text
from spinemets.config import ReportConfig
from spinemets.findings import StudyReport
from spinemets.io import (
    ANATOMY_LABELS,
    LEVEL_LABELS,
    VERSE_LABELS,
    bids_description,
    bids_stem,
    is_dicom_series,
    write_label_map,
    write_probability_map,
)
from spinemets.reporting import WrittenReport, write_report
from spinemets.reporting.words import finding_label

__all__ = ["MAP_NAMES", "lesion_map", "level_map", "write_results"]

_log = logging.getLogger(__name__)

_ANATOMY, _LEVELS, _LESIONS = "anatomy.nii.gz", "levels.nii.gz", "lesions.nii.gz"
_PROBABILITY = "lesion_probability.nii.gz"
_CONTENTS = {
    _LEVELS: "every vertebra by its VerSe number",
    _ANATOMY: "vertebral bodies, posterior elements, discs, thecal sac, cord, sacrum",
    _LESIONS: "every lesion by its number in the study's report",
}
_BIDS_README = (
    "Label maps of spine MRI, made by spinemets. Research use only, not a medical device.\n\n"
    + "".join(f"- `desc-{name.split('.')[0]}`: {content}\n" for name, content in _CONTENTS.items())
    + "\nThe `.tsv` beside each image names the numbers.\n"
)
MAP_NAMES = frozenset({_ANATOMY, _LEVELS, _LESIONS, _PROBABILITY})
"""The images that a result folder may hold."""


def write_results(
    report: StudyReport, folder: Path, config: ReportConfig, key: bytes | None = None
) -> StudyReport:
    """Write whatever the configuration asks for into a folder.

    Parameters
    ----------
    key
        Of the hashes that stand for UIDs; None for a new one.

    Returns
    -------
    StudyReport
        As it was written: with a caution for each picture that could not be drawn.

    Raises
    ------
    OutputError
        A file could not be written.
    """
    key = secrets.token_bytes() if key is None else key
    segmentation = report.segmentation
    if "nifti" in config.formats:
        _write_label_maps(report, {name: folder / name for name in (_ANATOMY, _LEVELS, _LESIONS)})
    if "bids" in config.formats:
        _write_bids(report, folder / "bids", key)
    if config.save_probabilities:
        write_probability_map(folder / _PROBABILITY, segmentation.lesion_probability, segmentation.grid)
    written = write_report(report, folder, config, key)
    if any(name.startswith("dicom-") for name in config.formats):
        _write_dicom(report, folder, config, written)
    return written.report


def _write_label_maps(report: StudyReport, paths: Mapping[str, Path]) -> None:
    """Write each of the three maps to its path, with what BIDS recommends to say of it."""
    segmentation = report.segmentation
    names = {finding.lesion.number: finding_label(finding) for finding in report.findings}
    maps: dict[str, tuple[npt.NDArray[np.integer], Mapping[int, str]]] = {
        _ANATOMY: (segmentation.anatomy, ANATOMY_LABELS),
        _LEVELS: (level_map(report), LEVEL_LABELS),
        _LESIONS: (lesion_map(report), names),
    }
    for name, (array, labels) in maps.items():
        # "orig" is BIDS' word for the grid of the source.
        said = {"Description": _CONTENTS[name], "SpatialReference": "orig"}
        write_label_map(paths[name], array, segmentation.grid, labels, said)


def _write_bids(report: StudyReport, root: Path, key: bytes) -> None:
    """Write the maps as a BIDS derivative dataset of one study."""
    stem = root / bids_stem(report.study.reference.series, key)
    parts = {name: name.removesuffix(".nii.gz") for name in (_ANATOMY, _LEVELS, _LESIONS)}
    _write_label_maps(
        report,
        {name: stem.with_name(f"{stem.name}_desc-{part}_dseg.nii.gz") for name, part in parts.items()},
    )
    provenance = report.provenance
    description = bids_description(provenance.version, provenance.model, provenance.model_version)
    atomic_write_text(root / "dataset_description.json", description)
    atomic_write_text(root / "README.md", _BIDS_README)


def _write_dicom(report: StudyReport, folder: Path, config: ReportConfig, written: WrittenReport) -> None:
    if not is_dicom_series(report.study.reference.series):
        _log.warning("no DICOM objects are written: the study was not read from DICOM files")
        return
    from spinemets.reporting.dicom import write_dicom

    write_dicom(report, folder, config, written.pdf, written.study)


def level_map(report: StudyReport) -> npt.NDArray[np.uint8]:
    """Every vertebra by its VerSe number, shape of the reference grid; 0 where none is named."""
    numbers = np.zeros(256, dtype=np.uint8)
    for vertebra in report.vertebrae:
        numbers[vertebra.instance] = VERSE_LABELS[vertebra.level]
    return np.take(numbers, report.segmentation.vertebrae)


def lesion_map(report: StudyReport) -> npt.NDArray[np.uint16]:
    """Every lesion by its number in the report, shape of the reference grid."""
    numbers = np.zeros(report.segmentation.grid.shape, dtype=np.uint16)
    for finding in report.findings:
        numbers[tuple(finding.lesion.voxels.T)] = finding.lesion.number
    return numbers
