"""The DICOM objects of a report on the disk."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from pydicom.dataset import Dataset

from spinemets.atomic import atomic_write_bytes
from spinemets.config import ReportConfig
from spinemets.findings import StudyReport
from spinemets.reporting.dicom.captures import make_captures
from spinemets.reporting.dicom.deidentified import follow_deidentification
from spinemets.reporting.dicom.documents import make_document
from spinemets.reporting.dicom.identifiers import Identifiers, report_identifiers
from spinemets.reporting.dicom.measurements import make_measurement_report
from spinemets.reporting.dicom.segmentation import make_segmentations
from spinemets.reporting.dicom.source import SourceSeries, lenient_values, read_source
from spinemets.reporting.dicom.structures import make_structure_set

__all__ = ["write_dicom"]

_log = logging.getLogger(__name__)


def write_dicom(
    report: StudyReport,
    folder: Path,
    config: ReportConfig,
    pdf: Path | None = None,
    study: str = "",
) -> tuple[Path, ...]:
    """Write the DICOM objects that the configuration asks for into ``folder/dicom``.

    The reference series must have been read from DICOM files, which are still in place: their
    headers give the objects their patient, study, frame of reference and geometry.

    Parameters
    ----------
    pdf
        The report as a PDF, for the object that holds it.
    study
        What the PDF calls the study.

    Raises
    ------
    OutputError
        The source's headers cannot be used, or a file cannot be written.
    """
    with lenient_values():
        source = read_source(report.study.reference)
        identifiers = report_identifiers(report, source.headers)
        objects: dict[str, Dataset] = {}
        if {"dicom-seg", "dicom-sr"} & set(config.formats):
            objects |= _measured_objects(report, source, identifiers, config)
        contours = (
            make_structure_set(report, source, identifiers) if "dicom-rtstruct" in config.formats else None
        )
        if contours is not None:
            objects["contours.rtstruct.dcm"] = contours
        if "dicom-pdf" in config.formats and pdf is not None:
            objects["report.pdf.dcm"] = make_document(pdf.read_bytes(), study, source, identifiers)
        if "dicom-sc" in config.formats:
            captures = make_captures(report, source, identifiers)
            objects |= {f"key-image-{rank:02d}.sc.dcm": image for rank, image in enumerate(captures, start=1)}
        paths = []
        for name, dataset in objects.items():
            follow_deidentification(dataset, source.headers[0])
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            atomic_write_bytes(folder / "dicom" / name, buffer.getvalue())
            paths.append(folder / "dicom" / name)
    _log.info("%d DICOM objects written", len(paths))
    return tuple(paths)


def _measured_objects(
    report: StudyReport, source: SourceSeries, identifiers: Identifiers, config: ReportConfig
) -> dict[str, Dataset]:
    """The segmentations, and the structured report with the segmentation that it refers to."""
    segmentations = make_segmentations(report, source, identifiers, config.segmentation_type)
    lesions = segmentations.get("lesions")
    objects: dict[str, Dataset] = {}
    if "dicom-seg" in config.formats:
        objects |= {f"{name}.seg.dcm": dataset for name, dataset in segmentations.items()}
    if "dicom-sr" in config.formats:
        objects["findings.sr.dcm"] = make_measurement_report(report, source, identifiers, lesions)
        if lesions is not None:
            objects["lesions.seg.dcm"] = lesions
    return objects
