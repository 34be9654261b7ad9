"""The DICOM objects of a report on the disk."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from pydicom.dataset import Dataset

from spinemets.atomic import atomic_write_bytes
from spinemets.config import ReportConfig
from spinemets.findings import StudyReport
from spinemets.reporting.dicom.identifiers import report_identifiers
from spinemets.reporting.dicom.measurements import make_measurement_report
from spinemets.reporting.dicom.segmentation import make_segmentations
from spinemets.reporting.dicom.source import lenient_values, read_source

__all__ = ["DICOM_FORMATS", "write_dicom"]

_log = logging.getLogger(__name__)

DICOM_FORMATS = frozenset({"dicom-seg", "dicom-sr"})
"""The formats of the configuration that are written here."""


def write_dicom(report: StudyReport, folder: Path, config: ReportConfig) -> tuple[Path, ...]:
    """Write the DICOM objects that the configuration asks for into ``folder/dicom``.

    The reference series must have been read from DICOM files, which are still in place: their
    headers give the objects their patient, study, frame of reference and geometry.

    Raises
    ------
    OutputError
        The source's headers cannot be used, or a file cannot be written.
    """
    with lenient_values():
        source = read_source(report.study.reference)
        identifiers = report_identifiers(report)
        objects: dict[str, Dataset] = {}
        segmentations = make_segmentations(report, source, identifiers, config.segmentation_type)
        if "dicom-seg" in config.formats:
            objects |= {f"{name}.seg.dcm": dataset for name, dataset in segmentations.items()}
        if "dicom-sr" in config.formats:
            lesions = segmentations.get("lesions")
            objects["findings.sr.dcm"] = make_measurement_report(report, source, identifiers, lesions)
            if lesions is not None:
                # The report refers to it.
                objects["lesions.seg.dcm"] = lesions
        paths = []
        for name, dataset in objects.items():
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            atomic_write_bytes(folder / "dicom" / name, buffer.getvalue())
            paths.append(folder / "dicom" / name)
    _log.info("%d DICOM objects written", len(paths))
    return tuple(paths)
