"""The files of one study's result: the report, and label maps on the reference series' grid."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.config import ReportConfig
from spinemets.findings import LesionFinding, StudyReport
from spinemets.io import (
    ANATOMY_LABELS,
    LEVEL_LABELS,
    VERSE_LABELS,
    is_dicom_series,
    write_label_map,
    write_probability_map,
)
from spinemets.reporting import write_report

__all__ = ["MAP_NAMES", "lesion_map", "level_map", "write_results"]

_log = logging.getLogger(__name__)

_ANATOMY, _LEVELS, _LESIONS = "anatomy.nii.gz", "levels.nii.gz", "lesions.nii.gz"
_PROBABILITY = "lesion_probability.nii.gz"
MAP_NAMES = frozenset({_ANATOMY, _LEVELS, _LESIONS, _PROBABILITY})
"""The images that a result folder may hold."""


def write_results(report: StudyReport, folder: Path, config: ReportConfig) -> None:
    """Write whatever the configuration asks for into a folder.

    Raises
    ------
    OutputError
        A file could not be written.
    """
    segmentation = report.segmentation
    if "nifti" in config.formats:
        write_label_map(folder / _ANATOMY, segmentation.anatomy, segmentation.grid, ANATOMY_LABELS)
        write_label_map(folder / _LEVELS, level_map(report), segmentation.grid, LEVEL_LABELS)
        names = {finding.lesion.number: _lesion_name(finding) for finding in report.findings}
        write_label_map(folder / _LESIONS, lesion_map(report), segmentation.grid, names)
    if config.save_probabilities:
        write_probability_map(folder / _PROBABILITY, segmentation.lesion_probability, segmentation.grid)
    written = write_report(report, folder, config)
    if any(name.startswith("dicom-") for name in config.formats):
        _write_dicom(report, folder, config, written.pdf)


def _write_dicom(report: StudyReport, folder: Path, config: ReportConfig, pdf: Path | None) -> None:
    if not is_dicom_series(report.study.reference.series):
        _log.warning("no DICOM objects are written: the study was not read from DICOM files")
        return
    from spinemets.reporting.dicom import write_dicom

    write_dicom(report, folder, config, pdf)


def level_map(report: StudyReport) -> npt.NDArray[np.uint8]:
    """Every vertebra by its VerSe number, shape of the reference grid; 0 where none is named."""
    numbers = np.zeros(256, dtype=np.uint8)
    for vertebra in report.vertebrae:
        numbers[vertebra.instance] = VERSE_LABELS[vertebra.level]
    return numbers[report.segmentation.vertebrae]


def lesion_map(report: StudyReport) -> npt.NDArray[np.uint16]:
    """Every lesion by its number in the report, shape of the reference grid."""
    numbers = np.zeros(report.segmentation.grid.shape, dtype=np.uint16)
    for finding in report.findings:
        numbers[tuple(finding.lesion.voxels.T)] = finding.lesion.number
    return numbers


def _lesion_name(finding: LesionFinding) -> str:
    """A label's name in a viewer, as in "lesion 2, T11, extradural"."""
    level = finding.main_level.value if finding.main_level else "no level"
    return f"lesion {finding.lesion.number}, {level}, {finding.compartment.value}"
