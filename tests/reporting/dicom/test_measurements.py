"""The structured report says what the report says, and points at the same things."""

from __future__ import annotations

from dataclasses import replace

import highdicom
import pydicom
import pytest
from pydicom.sr.codedict import codes

from spinemets.anatomy import Compartment
from spinemets.config import ReportConfig
from spinemets.reporting.dicom import write_dicom
from spinemets.reporting.dicom.concepts import compartment_concept, probability_concept
from spinemets.reporting.document import report_document


@pytest.fixture(scope="module", params=["sagittal", "enhanced", "gap"])
def made(request, case):
    return case(request.param, "dicom-seg", "dicom-sr")


@pytest.fixture(scope="module")
def groups(made):
    document = highdicom.sr.srread(made.objects / "findings.sr.dcm")
    return document.content.get_volumetric_roi_measurement_groups()


def test_measurements_are_those_of_the_json_report(made, groups):
    findings = report_document(made.report).findings
    assert len(groups) == len(findings) == 2
    for group, finding in zip(groups, findings, strict=True):
        values = {item.name.meaning: item.value for item in group.get_measurements()}
        assert values["Volume"] == finding.volume_mm3
        assert values["Long axis"] == finding.longest_diameter_mm
        assert values["Confidence that this is a lesion"] == finding.confidence
        for compartment, probability in finding.compartment_probabilities.items():
            assert values[probability_concept(compartment).meaning] == probability


def test_evaluations_tell_compartment_region_level_and_doubt(groups):
    told = [
        {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}
        for group in groups
    ]
    assert told[0]["Compartment"] == "extradural"
    assert told[0]["Spinal region"] == "Thoracic spine"
    assert told[0]["Vertebral level"] == "T12 vertebra"
    assert [entry["Needs review"] for entry in told] == ["No", "Yes"]
    assert [entry.get("What the review is about") for entry in told] == [None, "compartment"]


def test_the_side_is_that_of_the_json_report(made, groups):
    words = {"Right": "right", "Left": "left", "Midline": "midline", "Bilateral": "both"}
    told = [
        {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}
        for group in groups
    ]
    sides = [finding.side for finding in report_document(made.report).findings]
    assert None not in sides
    assert [words[entry["Side of the midline"]] for entry in told] == sides


def test_each_lesion_is_sited_at_its_level(groups):
    sites = [group.finding_sites[0].value.meaning for group in groups]
    assert sites == ["T12 vertebra", "L1 vertebra"]


def test_tracking_uids_are_those_of_the_segments(made, groups):
    segmentation = pydicom.dcmread(made.objects / "lesions.seg.dcm")
    assert [group.tracking_uid for group in groups] == [
        segment.TrackingUID for segment in segmentation.SegmentSequence
    ]
    for number, group in enumerate(groups, start=1):
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert list(reference.referenced_segment_numbers) == [number]


def test_report_is_partial_preliminary_and_unverified(made):
    dataset = pydicom.dcmread(made.objects / "findings.sr.dcm")
    assert (dataset.CompletionFlag, dataset.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert dataset.PreliminaryFlag == "PRELIMINARY"


def test_image_library_lists_every_source_image(made):
    dataset = pydicom.dcmread(made.objects / "findings.sr.dcm")
    source = {pydicom.dcmread(path).SOPInstanceUID for path in made.source.iterdir()}
    listed = set()

    def collect(_part, element):
        if element.keyword == "ReferencedSOPInstanceUID":
            listed.add(element.value)

    (library,) = (
        item
        for item in dataset.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImageLibrary.value
    )
    library.walk(collect)
    assert listed == source


def test_report_alone_brings_the_segmentation_that_it_refers_to(case):
    alone = case("sagittal", "dicom-sr")
    assert {path.name for path in alone.objects.iterdir()} == {"findings.sr.dcm", "lesions.seg.dcm"}


def test_study_without_a_lesion_counts_none(case):
    made = case("sagittal", "dicom-sr", lesions=0)
    document = highdicom.sr.srread(made.objects / "findings.sr.dcm")
    (group,) = document.content.get_image_measurement_groups()
    (count,) = group.get_measurements()
    assert (count.name, count.value) == (codes.SCT.NumberOfLesions, 0)
    assert vertebrae_found(document) == codes.SCT.Yes


def vertebrae_found(document):
    (group,) = document.content.get_image_measurement_groups()
    told = {item.name.meaning: item.value for item in group.get_qualitative_evaluations()}
    return told["Vertebrae were recognised"]


def test_a_count_of_none_where_no_vertebra_was_recognised_says_so(case, tmp_path):
    report = replace(case("sagittal", "dicom-sr", lesions=0).report, vertebrae=())
    (path,) = write_dicom(report, tmp_path, ReportConfig(formats=("dicom-sr",)))
    assert vertebrae_found(highdicom.sr.srread(path)) == codes.SCT.No


def test_cautions_are_comments(case, tmp_path):
    cautions = ("Levels were counted from the sacrum.", "Größe ungenau.")
    for lesions in (0, 2):
        report = replace(case("sagittal", "dicom-sr", lesions=lesions).report, cautions=cautions)
        paths = write_dicom(report, tmp_path / str(lesions), ReportConfig(formats=("dicom-sr",)))
        (path,) = (path for path in paths if path.name == "findings.sr.dcm")
        dataset = pydicom.dcmread(path)
        said = [
            item.TextValue
            for item in dataset.ContentSequence
            if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.Comment.value
        ]
        assert said == list(cautions)
        assert highdicom.sr.srread(path).content.get_image_measurement_groups() or lesions


def test_report_of_a_labelmap_refers_to_its_segments(case):
    made = case("sagittal", "dicom-sr", segmentation_type="labelmap")
    document = highdicom.sr.srread(made.objects / "findings.sr.dcm")
    segmentation = pydicom.dcmread(made.objects / "lesions.seg.dcm")
    for group in document.content.get_volumetric_roi_measurement_groups():
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID


def test_own_codes_are_distinct():
    concepts = [*map(compartment_concept, Compartment), *map(probability_concept, Compartment)]
    assert len({concept.value for concept in concepts}) == 2 * len(Compartment)
    assert all(len(concept.value) <= 16 for concept in concepts)
