"""The PDF: what poppler's tools say of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zlib
from contextlib import suppress
from dataclasses import replace

import pytest

from spinemets.anatomy import Compartment
from spinemets.config import ReportConfig
from spinemets.errors import OutputError
from spinemets.findings import ReviewTopic, SequenceSignal
from spinemets.reporting import write_report
from spinemets.reporting.document import report_document
from spinemets.reporting.words import volume_text


def poppler(tool: str, *arguments: object) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"tool missing: {tool}")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def pdf(report, tmp_path_factory):
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"tool missing: WeasyPrint with Pango ({error})")
    usual = replace(report, findings=report.findings[:2])
    return write_report(usual, tmp_path_factory.mktemp("pdf"), ReportConfig(formats=("pdf",))).pdf


def test_usual_study_takes_three_tagged_pages(pdf):
    told = dict(line.split(":", 1) for line in poppler("pdfinfo", pdf).splitlines() if ":" in line)
    assert told["Pages"].strip() == "3"
    assert told["Tagged"].strip() == "yes"
    assert told["Title"].strip() == "Spine MRI lesion report"
    assert told["JavaScript"].strip() == "no"


@pytest.mark.usefixtures("pdf")
def test_doubtful_study_with_cautions_and_three_sequences_takes_three_pages_too(report, tmp_path):
    signals = tuple(
        SequenceSignal(f"series {number} ({name} TSE sag)", name, -4.2, "dark")
        for number, name in enumerate(("T2", "T1", "STIR/T2FS"), start=2)
    )
    reasons = (
        "The level's name T9 is uncertain (confidence 0.55); it may be T10.",
        "The evidence that this is a lesion is weak (confidence 0.67).",
        "The lesion reaches the image's border, so its size is a lower limit.",
    )
    doubtful = tuple(
        replace(
            finding,
            lesion=replace(finding.lesion, signals=signals),
            needs_review=True,
            review_reasons=reasons,
        )
        for finding in report.findings[:2]
    )
    cautions = (
        "The numbering of T7 to L5 is uncertain (lowest confidence 0.54); T8 to L6 is next.",
        "Series 4 does not share the frame of reference of the others and was registered to them.",
    )
    study = replace(report, findings=doubtful, cautions=cautions)
    path = write_report(study, tmp_path, ReportConfig(formats=("pdf",))).pdf
    assert re.search(r"Pages:\s+3\n", poppler("pdfinfo", path))


@pytest.mark.parametrize("third", ["STIR/T2FS", "Dixon-out-of-phase"])
@pytest.mark.usefixtures("pdf")
def test_findings_table_with_three_sequences_keeps_to_its_margins(report, tmp_path, third):
    signals = tuple(SequenceSignal(f"series {name}", name, 123.4, "bright") for name in ("T2", "T1", third))
    findings = tuple(
        replace(
            finding,
            lesion=replace(finding.lesion, signals=signals),
            compartment=Compartment.INTRADURAL_EXTRAMEDULLARY,
            needs_review=True,
            review_topics=(ReviewTopic.LEVEL, ReviewTopic.EVIDENCE),
        )
        for finding in report.findings
    )
    study = replace(report, findings=findings)
    path = write_report(study, tmp_path, ReportConfig(formats=("pdf",))).pdf
    page = poppler("pdftotext", "-l", 1, "-bbox", path, "-")
    ends_mm = [float(end) * 25.4 / 72 for end in re.findall(r'xMax="([\d.]+)', page)]
    assert "evidence" in page
    assert max(ends_mm) <= 210 - 13 + 0.1


@pytest.mark.usefixtures("pdf")
def test_name_of_a_series_that_is_one_long_word_keeps_to_the_margins(make_report, tmp_path):
    path = write_report(
        make_report(description="T2_" + 61 * "W"), tmp_path, ReportConfig(formats=("pdf",))
    ).pdf
    text = poppler("pdftotext", "-bbox", path, "-")
    assert "WWWW" in text
    assert max(float(end) * 25.4 / 72 for end in re.findall(r'xMax="([\d.]+)', text)) <= 210 - 13 + 0.1


def test_words_of_the_series_table_s_head_stay_whole_beside_a_long_name(make_report, tmp_path):
    report = make_report(description="T2 [hidden] cervical spine/upper back")
    text = poppler(
        "pdftotext", "-layout", write_report(report, tmp_path, ReportConfig(formats=("pdf",))).pdf, "-"
    )
    assert "Weighting" in text


def test_every_font_is_embedded(pdf):
    fonts = poppler("pdffonts", pdf).splitlines()[2:]
    assert fonts
    # The columns from the right: object and its generation, Unicode map, subset, embedded.
    assert all(line.split()[-5] == "yes" for line in fonts)


def test_text_says_what_the_report_says(pdf, report):
    text = " ".join(poppler("pdftotext", "-layout", pdf, "-").split())
    assert "Research use only. Not a medical device." in text
    assert "2 lesions were found" in text
    for finding in report_document(report).findings[:2]:
        assert volume_text(finding.volume_mm3) in text
        assert finding.compartment.value in text
    assert "PATIENT-4711" not in text


def test_every_figure_has_an_alternative_text_as_pdf_ua_asks(pdf):
    content = pdf.read_bytes()
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        with suppress(zlib.error):
            # A last byte that reads like the end of a line may be cut off.
            content += zlib.decompressobj().decompress(packed)
    elements = content.split(b"/Type /StructElem")[1:]
    figures = [element for element in elements if element.startswith(b"/S /Figure")]
    # A bar and a picture of each lesion, the overview, and the colours of three compartments.
    assert len(figures) == 8
    assert [figure for figure in figures if b"/Alt" not in figure] == []


def test_pictures_are_in_it(pdf):
    # Two lesions and the overview.
    assert len(poppler("pdfimages", "-list", pdf).splitlines()[2:]) >= 3


def test_pictures_of_lesions_are_large_enough_to_be_read(pdf):
    """Columns 5 and 13 of poppler's list: pixels down, and how many of them come to an inch."""
    rows = [line.split() for line in poppler("pdfimages", "-f", 3, "-list", pdf).splitlines()[2:]]
    pictures = [row for row in rows if row[2] == "image"]
    assert len(pictures) == 2
    for row in pictures:
        width_mm, height_mm = (25.4 * int(row[3]) / int(row[12]), 25.4 * int(row[4]) / int(row[13]))
        assert height_mm > 100 or width_mm > 120


def test_levels_with_their_other_names_and_rejected_series_are_printed(pdf):
    text = " ".join(poppler("pdftotext", "-layout", pdf, "-").split())
    assert "L5? 61 %, or L6 37 %" in text
    assert "series 1 (localizer)" in text
    assert "not used: a localiser" in text


def test_a_lesions_place_in_the_series_is_printed(pdf):
    text = " ".join(poppler("pdftotext", pdf, "-").split())
    assert "slices 3-7 of 15, left of the midline" in text


def test_missing_weasyprint_is_an_output_error_that_says_what_to_do(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(OutputError, match=r"spinemets\[pdf\]"):
        write_report(replace(report, findings=()), tmp_path, ReportConfig(formats=("pdf",)))
