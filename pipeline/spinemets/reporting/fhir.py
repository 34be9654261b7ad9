"""The report as a FHIR R4 bundle: a diagnostic report, its imaging study, one observation per lesion.

Says what ``report.json`` says, with its identifiers kept or hashed as there. Codes are those of
the DICOM objects.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import date
from typing import TYPE_CHECKING, Any

from spinemets.anatomy import VertebralLevel
from spinemets.reporting.schema import DISCLAIMER, FindingRecord, ReportDocument
from spinemets.reporting.words import level_name, level_names

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

__all__ = ["fhir_bundle"]

Resource = dict[str, Any]

_SNOMED, _UCUM = "http://snomed.info/sct", "http://unitsofmeasure.org"
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_SECTIONS, _CATEGORIES = (
    f"http://terminology.hl7.org/CodeSystem/{name}" for name in ("v2-0074", "observation-category")
)
_MR = {"system": _DICOM, "code": "MR", "display": "Magnetic Resonance"}


def fhir_bundle(document: ReportDocument) -> str:
    """The bundle's JSON; equal documents, their timings aside, have equal bundles."""
    untimed = document.provenance.model_copy(update={"timings_s": {}})
    content = document.model_copy(update={"provenance": untimed}).model_dump_json()
    digest = hashlib.sha256(content.encode()).hexdigest()
    names = ["report", "study", *(f"lesion {finding.lesion}" for finding in document.findings)]
    urls = {name: f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{digest} {name}')}" for name in names}
    resources = {"report": _report(document, urls), "study": _study(document)}
    for finding in document.findings:
        resources[f"lesion {finding.lesion}"] = _observation(document, finding, urls)
    entries = [{"fullUrl": urls[name], "resource": resource} for name, resource in resources.items()]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}, indent=2) + "\n"


def _subject(document: ReportDocument) -> Resource:
    patient = document.study.patient_id
    return {"identifier": {"value": patient}} if patient else {"display": "patient not stated"}


def _report(document: ReportDocument, urls: dict[str, str]) -> Resource:
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "category": [{"coding": [{"system": _SECTIONS, "code": "RAD", "display": "Radiology"}]}],
        "code": {"text": "Lesions in spine MRI, found by software"},
        "subject": _subject(document),
        "imagingStudy": [{"reference": urls["study"]}],
        "conclusion": " ".join((*document.summary.sentences, *document.cautions, DISCLAIMER)),
    }
    results = [{"reference": urls[f"lesion {finding.lesion}"]} for finding in document.findings]
    return {**report, **_date(document, "effectiveDateTime"), **({"result": results} if results else {})}


def _date(document: ReportDocument, element: str) -> Resource:
    """The day of the examination, or its month or year alone, where the report names it.

    Anonymisers put zeros for the day and the month; FHIR leaves out what is not known.
    """
    digits = document.study.date or ""
    if len(digits) != 8 or not digits.isdecimal():
        return {}
    known = f"{digits[:4]}-{digits[4:6]}-{digits[6:]}".removesuffix("-00").removesuffix("-00")
    try:
        date.fromisoformat(f"{known}-01-01"[:10])
    except ValueError:
        return {}
    return {element: known}


def _study(document: ReportDocument) -> Resource:
    identifier = document.study.identifier
    kept = document.study.identifiers == "keep"
    value = {"system": "urn:dicom:uid", "value": f"urn:oid:{identifier}"} if kept else {"value": identifier}
    study: Resource = {
        "resourceType": "ImagingStudy",
        "identifier": [value],
        "status": "available",
        "modality": [_MR],
        "subject": _subject(document),
        **_date(document, "started"),
    }
    if kept:
        study["series"] = [
            {"uid": series.identifier, "modality": _MR, "description": series.name}
            for series in document.study.series
        ]
    description = document.study.description.strip()
    return {**study, "description": description} if description else study


def _observation(document: ReportDocument, finding: FindingRecord, urls: dict[str, str]) -> Resource:
    from spinemets.reporting.dicom.concepts import LESION

    provenance = document.provenance
    observation: Resource = {
        "resourceType": "Observation",
        "status": "preliminary",
        "category": [{"coding": [{"system": _CATEGORIES, "code": "imaging", "display": "Imaging"}]}],
        "code": _coded(LESION),
        "subject": _subject(document),
        "derivedFrom": [{"reference": urls["study"]}],
        **_date(document, "effectiveDateTime"),
        "method": {"text": f"spinemets {provenance.version}, {provenance.model} {provenance.model_version}"},
        "component": _components(finding),
        "bodySite": _site(finding.level),
    }
    notes = [{"text": reason} for reason in finding.review_reasons]
    return {**observation, "note": notes} if notes else observation


def _components(finding: FindingRecord) -> list[Resource]:
    from pydicom.sr.codedict import codes

    side = [{"code": {"text": "Side of the midline"}, "valueString": finding.side}] if finding.side else []
    return [
        {"code": {"text": "Lesion number"}, "valueInteger": finding.lesion},
        {"code": _coded(codes.SCT.Volume), "valueQuantity": _quantity(finding.volume_mm3, "mm3")},
        {"code": _coded(codes.SCT.LongAxis), "valueQuantity": _quantity(finding.longest_diameter_mm, "mm")},
        {"code": {"text": "Confidence"}, "valueQuantity": _quantity(finding.confidence, "1")},
        {"code": {"text": "Compartment"}, "valueCodeableConcept": {"text": finding.compartment.value}},
        {
            "code": {"text": "Probability of the compartment"},
            "valueQuantity": _quantity(finding.compartment_probabilities[finding.compartment], "1"),
        },
        {
            "code": {"text": "Level"},
            "valueString": level_name(finding.level, ()) if finding.level else "none",
        },
        {"code": {"text": "Levels touched"}, "valueString": level_names(finding, ())},
        {
            "code": {"text": "Confidence of the level"},
            "valueQuantity": _quantity(finding.level_confidence, "1"),
        },
        *side,
        {"code": {"text": "Region"}, "valueString": finding.region.value if finding.region else "none"},
        {"code": {"text": "Needs review"}, "valueBoolean": finding.needs_review},
    ]


def _site(level: VertebralLevel | None) -> Resource:
    from pydicom.sr.codedict import codes

    from spinemets.reporting.dicom.concepts import level_concept

    return _coded(codes.SCT.Spine if level is None else level_concept(level))


def _coded(concept: Code) -> Resource:
    coding = {"system": _SNOMED, "code": concept.value, "display": concept.meaning}
    return {"coding": [coding], "text": concept.meaning}


def _quantity(value: float, unit: str) -> Resource:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}
