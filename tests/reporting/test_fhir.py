"""The FHIR bundle, read by fhir.resources."""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B.bundle import Bundle

from spinemets.anatomy import VertebralLevel
from spinemets.config import ReportConfig
from spinemets.reporting import write_report
from spinemets.reporting.document import report_document
from spinemets.reporting.fhir import fhir_bundle


@pytest.fixture(scope="module")
def document(report):
    return report_document(report)


@pytest.fixture(scope="module")
def resources(document) -> dict[str, object]:
    """Every resource of the bundle by its address, as the model library reads it."""
    bundle = Bundle.model_validate_json(fhir_bundle(document))
    return {str(entry.fullUrl): entry.resource for entry in bundle.entry}


def only(resources, kind) -> list:
    return [resource for resource in resources.values() if type(resource).__name__ == kind]


def test_report_is_preliminary_and_refers_to_every_lesion(resources, document):
    (diagnostic,) = only(resources, "DiagnosticReport")
    assert diagnostic.status == "preliminary"
    assert [resources[result.reference] for result in diagnostic.result] == only(resources, "Observation")
    assert len(diagnostic.result) == len(document.findings) == 4
    assert "Research use only" in diagnostic.conclusion


def test_observations_say_what_the_report_says(resources, document):
    for observation, finding in zip(only(resources, "Observation"), document.findings, strict=True):
        told = {component.code.text: component for component in observation.component}
        assert float(told["Volume"].valueQuantity.value) == finding.volume_mm3
        assert told["Volume"].valueQuantity.code == "mm3"
        assert float(told["Long axis"].valueQuantity.value) == finding.longest_diameter_mm
        assert told["Compartment"].valueCodeableConcept.text == finding.compartment.value
        assert told["Level"].valueString == finding.level.value
        assert told["Lesion number"].valueInteger == finding.lesion
        assert float(told["Confidence of the level"].valueQuantity.value) == finding.level_confidence
        assert told["Side of the midline"].valueString == finding.side
        assert told["Needs review"].valueBoolean is finding.needs_review
        assert observation.bodySite.coding[0].display == f"{finding.level.value} vertebra"
        assert observation.bodySite.coding[0].system == "http://snomed.info/sct"
        (study,) = observation.derivedFrom
        assert resources[study.reference] == only(resources, "ImagingStudy")[0]


def test_every_level_that_a_lesion_touches_is_named_and_the_sacrum_is_one(document):
    sacral = {"level": VertebralLevel.S1, "levels": (VertebralLevel.L5, VertebralLevel.S1)}
    finding = document.findings[0].model_copy(update=sacral)
    written = fhir_bundle(document.model_copy(update={"findings": (finding, document.findings[2])}))
    told = [
        {
            component["code"]["text"]: component.get("valueString")
            for component in entry["resource"]["component"]
        }
        for entry in json.loads(written)["entry"]
        if entry["resource"]["resourceType"] == "Observation"
    ]
    assert [one["Level"] for one in told] == ["sacrum", "L3"]
    assert [one["Levels touched"] for one in told] == ["L5 and sacrum", "L3 and L4"]


def test_a_lesion_whose_side_is_unknown_has_none(document):
    finding = document.findings[0].model_copy(update={"side": None})
    bundle = Bundle.model_validate_json(fhir_bundle(document.model_copy(update={"findings": (finding,)})))
    assert "Side of the midline" not in {part.code.text for part in bundle.entry[-1].resource.component}


def test_identifiers_are_hashed_unless_they_are_kept(report, resources):
    assert "PATIENT-4711" not in fhir_bundle(report_document(report))
    assert only(resources, "ImagingStudy")[0].identifier[0].value.startswith("hmac-sha256:")
    kept = fhir_bundle(report_document(report, "keep"))
    assert "PATIENT-4711" in kept
    assert f"urn:oid:{report.study.uid}" in kept


def test_every_reference_leads_to_a_resource_of_the_bundle(resources):
    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["reference"]] if "reference" in value else []
            return own + [found for part in value.values() for found in references(part)]
        return [found for part in value for found in references(part)] if isinstance(value, list) else []

    named = [
        found
        for resource in resources.values()
        for found in references(json.loads(resource.model_dump_json()))
    ]
    assert len(named) == 1 + 4 + 4
    assert set(named) <= set(resources)


def test_kept_identifiers_lead_to_the_study_its_series_and_its_day(report):
    bundle = Bundle.model_validate_json(fhir_bundle(report_document(report, "keep")))
    diagnostic, study, observation = (entry.resource for entry in bundle.entry[:3])
    assert study.identifier[0].value == f"urn:oid:{report.study.uid}"
    assert [series.uid for series in study.series] == [
        volume.series.series_uid for volume in report.study.volumes
    ]
    assert {series.modality.code for series in study.series} == {"MR"}
    days = (study.started, diagnostic.effectiveDateTime, observation.effectiveDateTime)
    assert {str(day)[:10] for day in days} == {"2024-02-29"}


@pytest.mark.parametrize(
    ("date", "written"),
    [
        ("20240229", "2024-02-29"),
        ("20240200", "2024-02"),
        ("19600000", "1960"),
        ("20230229", None),
        ("20240015", None),
        ("00000000", None),
    ],
)
def test_dates_are_written_as_far_as_they_are_known(report, date, written):
    document = report_document(report, "keep")
    dated = document.model_copy(update={"study": document.study.model_copy(update={"date": date})})
    text = fhir_bundle(dated)
    Bundle.model_validate_json(text)
    diagnostic, study, observation = (entry["resource"] for entry in json.loads(text)["entry"][:3])
    days = (study.get("started"), diagnostic.get("effectiveDateTime"), observation.get("effectiveDateTime"))
    assert set(days) == {written}


def test_hashed_identifiers_name_no_day_and_no_series(resources):
    (study,) = only(resources, "ImagingStudy")
    assert (study.started, study.series) == (None, None)


def test_the_series_of_the_study_are_not_counted_since_not_all_are_used(report, resources):
    assert report.study.rejected
    assert only(resources, "ImagingStudy")[0].numberOfSeries is None


def test_study_without_a_lesion_has_no_observation(make_report):
    bundle = Bundle.model_validate_json(fhir_bundle(report_document(make_report(lesions=False))))
    kinds = [type(entry.resource).__name__ for entry in bundle.entry]
    assert kinds == ["DiagnosticReport", "ImagingStudy"]


def test_bundle_is_written_on_request(report, tmp_path):
    write_report(report, tmp_path, ReportConfig(formats=("fhir",)), b"key")
    (path,) = tmp_path.iterdir()
    assert path.name == "report.fhir.json"
    assert json.loads(path.read_text()) == json.loads(
        fhir_bundle(report_document(report, with_pictures=False, key=b"key"))
    )
