from __future__ import annotations

import json

import pytest
from PIL import Image

from spinemets.config import ReportConfig
from spinemets.errors import OutputError
from spinemets.reporting import overlays, write_report
from spinemets.reporting.overlays import draw_lesion
from spinemets.reporting.schema import ReportDocument


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    return write_report(report, tmp_path_factory.mktemp("out") / "study", ReportConfig(), b"key")


def test_everything_that_is_promised_is_written_and_nothing_else(written):
    folder = written.html.parent
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    lesions = {f"overlays/lesion-0{number}.png" for number in (1, 2, 3, 4)}
    assert found == {"report.json", "report.html", "overview.png"} | lesions
    assert {path.name for path in written.overlays} == {name.removeprefix("overlays/") for name in lesions}


def test_the_json_is_a_valid_document_that_names_existing_pictures(written):
    document = ReportDocument.model_validate_json(written.json.read_text(encoding="utf-8"))
    for finding in document.findings:
        with Image.open(written.json.parent / finding.overlay) as image:
            assert image.format == "PNG"


def test_the_page_is_small_enough_to_send(written):
    assert written.html.stat().st_size < 8_000_000


def test_writing_twice_makes_the_same_files(report, written, tmp_path):
    again = write_report(report, tmp_path, ReportConfig(), b"key")
    assert again.html.read_bytes() == written.html.read_bytes()
    assert again.json.read_bytes() == written.json.read_bytes()


def test_only_the_wanted_formats_are_written(report, tmp_path):
    written = write_report(report, tmp_path, ReportConfig(formats=("json",)))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (written.html, written.overview, written.overlays) == (None, None, ())
    assert json.loads(written.json.read_text(encoding="utf-8"))["findings"][0]["overlay"] is None


def test_the_configuration_decides_about_identifiers(report, tmp_path):
    written = write_report(report, tmp_path, ReportConfig(formats=("json",), identifiers="keep"))
    assert "PATIENT-4711" in written.json.read_text(encoding="utf-8")


@pytest.fixture
def undrawable(monkeypatch):
    """Neither the overview nor lesion 2 can be drawn."""

    def draw(scene, finding):
        if finding.lesion.number == 2:
            raise IndexError("index 7 is out of bounds for axis 0 with size 7")
        return draw_lesion(scene, finding)

    def fail(_scene):
        raise ValueError("zero-size array to reduction operation")

    monkeypatch.setattr(overlays, "draw_lesion", draw)
    monkeypatch.setattr(overlays, "draw_overview", fail)


@pytest.mark.usefixtures("undrawable")
def test_a_picture_that_cannot_be_drawn_costs_itself_and_not_the_report(report, tmp_path, caplog):
    formats = ("json", "html", "png", "fhir")
    written = write_report(report, tmp_path, ReportConfig(formats=formats))
    assert written.overview is None
    assert [path.name for path in written.overlays] == ["lesion-01.png", "lesion-03.png", "lesion-04.png"]
    said = (
        "The overview could not be drawn.",
        "No picture of lesion 2 could be drawn; look at its slices in the images themselves.",
    )
    document = ReportDocument.model_validate_json(written.json.read_text(encoding="utf-8"))
    assert document.cautions == (*report.cautions, *said)
    assert [finding.overlay is None for finding in document.findings] == [False, True, False, False]
    page = written.html.read_text(encoding="utf-8")
    assert page.count('<img class="picture" src="data:image/png;base64,') == 3
    assert "Its picture could not be drawn." in page
    assert all(caution in (tmp_path / "report.fhir.json").read_text(encoding="utf-8") for caution in said)
    assert "out of bounds" not in " ".join(r.getMessage() for r in caplog.records if r.levelname == "WARNING")


@pytest.mark.usefixtures("undrawable")
def test_without_pictures_none_is_missing(report, tmp_path):
    written = write_report(report, tmp_path, ReportConfig(formats=("json",)))
    document = ReportDocument.model_validate_json(written.json.read_text(encoding="utf-8"))
    assert document.cautions == report.cautions


def test_a_place_that_cannot_be_written_is_an_output_error(report, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(OutputError, match="taken"):
        write_report(report, tmp_path / "taken", ReportConfig(formats=("json",)))


def test_logging_names_no_patient(report, tmp_path, caplog):
    caplog.set_level("DEBUG")
    write_report(report, tmp_path, ReportConfig(formats=("json",)))
    assert "PATIENT" not in caplog.text
    assert "1.2.840.99" not in caplog.text
