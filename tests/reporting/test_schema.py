from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from spinemets.reporting.document import hash_identifier, report_document
from spinemets.reporting.schema import ReportDocument, json_schema_text

GOLDEN = Path(__file__).parent / "golden" / "report.json"
SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"
IDENTIFYING = ("1.2.840.99", "PATIENT-4711", "20240229", "DOE_JANE", "somewhere")


def test_the_published_schema_is_current():
    assert SCHEMA.read_text(encoding="utf-8") == json_schema_text(), "run scripts/write_report_schema.py"


def test_the_published_schema_names_its_draft():
    assert json.loads(json_schema_text())["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_document_survives_writing_and_reading(report):
    document = report_document(report)
    assert ReportDocument.model_validate_json(document.model_dump_json()) == document


def test_the_document_is_the_golden_one(report):
    text = report_document(report, key=b"golden").model_dump_json(indent=2) + "\n"
    if os.environ.get("SPINEMETS_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert json.loads(text) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_document_has_every_field_that_readers_rely_on(report):
    written = json.loads(report_document(report).model_dump_json())
    assert {
        "schema_version",
        "disclaimer",
        "study",
        "summary",
        "levels",
        "findings",
        "cautions",
        "provenance",
    } == set(written)
    assert {
        "lesion",
        "level",
        "levels",
        "region",
        "compartment",
        "compartment_probabilities",
        "volume_mm3",
        "longest_diameter_mm",
        "centroid_mm",
        "confidence",
        "signal",
        "needs_review",
    } <= set(written["findings"][0])
    assert {"level", "confidence", "alternatives", "centroid_mm", "fully_visible"} <= set(
        written["levels"][0]
    )


def test_an_unknown_field_is_refused(report):
    written = json.loads(report_document(report).model_dump_json())
    with pytest.raises(ValidationError, match="surprise"):
        ReportDocument.model_validate({**written, "surprise": 1})


def test_a_document_cannot_be_changed(report):
    with pytest.raises(ValidationError, match="frozen"):
        report_document(report).cautions = ()


@pytest.mark.parametrize("secret", IDENTIFYING)
def test_hashed_documents_hold_no_identifier(report, secret):
    assert secret not in report_document(report, "hash").model_dump_json()


def test_kept_identifiers_are_kept(report):
    study = report_document(report, "keep").study
    assert (study.identifier, study.patient_id, study.date) == ("1.2.840.99.1", "PATIENT-4711", "20240229")
    assert [series.source for series in study.series] == ["3", "4"]


def test_the_same_study_has_the_same_hash_and_another_study_another():
    assert hash_identifier("1.2.3", b"key") == hash_identifier("1.2.3", b"key")
    assert hash_identifier("1.2.3", b"key") != hash_identifier("1.2.4", b"key")


def test_who_knows_a_uid_but_not_the_key_cannot_find_its_study(report):
    plain = hashlib.sha256(report.study.uid.encode()).hexdigest()[:10]
    first, again, other = (report_document(report, key=key).study for key in (b"a", b"a", b"b"))
    assert first == again
    assert first.identifier != other.identifier
    assert first.series[0].identifier != other.series[0].identifier
    assert report_document(report).study.identifier != report_document(report).study.identifier
    for study in (first, other, report_document(report).study):
        assert plain not in study.model_dump_json()


def test_the_summary_counts_what_the_findings_hold(report):
    document = report_document(report)
    assert document.summary.lesions == len(document.findings) == 4
    assert sum(document.summary.by_compartment.values()) == 4
    assert document.summary.total_volume_mm3 == pytest.approx(sum(f.volume_mm3 for f in document.findings))
    assert document.summary.needs_review == 1


def test_volumes_are_those_of_the_masks(report):
    for finding, record in zip(report.findings, report_document(report).findings, strict=True):
        voxels = finding.lesion.mask().sum() * report.segmentation.grid.voxel_volume_mm3
        assert record.volume_mm3 == pytest.approx(voxels, abs=1e-3)
        assert record.volume_ml == pytest.approx(voxels / 1000, abs=1e-6)


def test_uncertainty_follows_the_configured_bound(report):
    uncertain = [record.level.value for record in report_document(report).levels if record.uncertain]
    assert uncertain == ["L5"]
