"""A report on the disk: ``report.json``, ``report.html``, ``report.pdf``, pictures, FHIR."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from spinemets.atomic import atomic_write_bytes, atomic_write_text
from spinemets.config import ReportConfig
from spinemets.findings import StudyReport
from spinemets.reporting.document import (
    OVERVIEW_NAME,
    overlay_name,
    report_document,
    review_confidence,
)
from spinemets.reporting.fhir import fhir_bundle
from spinemets.reporting.html import Pictures, render_html
from spinemets.reporting.overlays import draw_overlays
from spinemets.reporting.pdf import render_pdf
from spinemets.reporting.viewer import viewer_data

__all__ = ["WrittenReport", "write_report"]

_log = logging.getLogger(__name__)

# The object in DICOM holds the file.
_PDF_FORMATS = frozenset({"pdf", "dicom-pdf"})


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Where the parts of a report lie; None or empty for what was not asked for.

    Attributes
    ----------
    study
        What the report calls the study.
    report
        As it was written: with a caution for each picture that is missing.
    """

    study: str
    report: StudyReport
    json: Path | None
    html: Path | None
    pdf: Path | None
    overview: Path | None
    overlays: tuple[Path, ...]


def write_report(
    report: StudyReport, folder: Path, config: ReportConfig, key: bytes | None = None
) -> WrittenReport:
    """Write the report in every format of the configuration but the label maps and DICOM.

    Each file appears whole or not at all; the page comes last. A picture that cannot be drawn is
    missing, and a caution of the report says so.

    Parameters
    ----------
    key
        Of the hashes that stand for UIDs; None for a new one.

    Raises
    ------
    OutputError
        A file cannot be written, or what makes a PDF is not installed.
    """
    wanted = set(config.formats)
    json_path = html_path = pdf_path = overview_path = None
    overlays: tuple[Path, ...] = ()
    pictures, undrawn = Pictures(b"", {}), frozenset[int]()
    if wanted & {"png", "html", *_PDF_FORMATS}:
        pictures = _pictures(report)
        undrawn = frozenset(finding.lesion.number for finding in report.findings) - set(pictures.lesions)
        report = replace(report, cautions=(*report.cautions, *_missing(pictures, undrawn)))
    document = report_document(
        report, config.identifiers, with_pictures="png" in wanted, undrawn=undrawn, key=key
    )
    if "png" in wanted:
        if pictures.overview:
            overview_path = folder / OVERVIEW_NAME
            atomic_write_bytes(overview_path, pictures.overview)
        overlays = tuple(folder / overlay_name(number) for number in pictures.lesions)
        for path, content in zip(overlays, pictures.lesions.values(), strict=True):
            atomic_write_bytes(path, content)
    if "json" in wanted:
        json_path = folder / "report.json"
        atomic_write_text(json_path, document.model_dump_json(indent=2) + "\n")
    if wanted & _PDF_FORMATS:
        pdf_path = folder / "report.pdf"
        atomic_write_bytes(pdf_path, render_pdf(document, pictures))
    if "fhir" in wanted:
        atomic_write_text(folder / "report.fhir.json", fhir_bundle(document))
    if "html" in wanted:
        html_path = folder / "report.html"
        atomic_write_text(html_path, render_html(document, pictures, viewer_data(report, document)))
    _log.info("report with %d findings written to %s", len(report.findings), folder)
    return WrittenReport(
        document.study.identifier, report, json_path, html_path, pdf_path, overview_path, overlays
    )


def _pictures(report: StudyReport) -> Pictures:
    overlays = draw_overlays(report, review_confidence(report))
    return Pictures(
        overview=_png(overlays.overview) if overlays.overview else b"",
        lesions={number: _png(image) for number, image in overlays.lesions.items()},
    )


def _missing(pictures: Pictures, undrawn: frozenset[int]) -> Iterator[str]:
    """A caution for each picture that could not be drawn."""
    if not pictures.overview:
        yield "The overview could not be drawn."
    for number in sorted(undrawn):
        yield f"No picture of lesion {number} could be drawn; look at its slices in the images themselves."


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
