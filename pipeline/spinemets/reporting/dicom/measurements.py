"""The findings as a DICOM structured report of template 1500 (SR), one group for each lesion."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from spinemets import __version__
from spinemets.anatomy import SpineRegion
from spinemets.findings import Provenance, Side, StudyReport
from spinemets.reporting.dicom.concepts import (
    LESION,
    OWN_SCHEME,
    REGIONS,
    compartment_concept,
    level_concept,
    own_concept,
    probability_concept,
)
from spinemets.reporting.dicom.equipment import MANUFACTURER, SERIES_NUMBERS
from spinemets.reporting.dicom.identifiers import Identifiers, uid_of
from spinemets.reporting.dicom.segmentation import lesion_name
from spinemets.reporting.dicom.source import SourceSeries
from spinemets.reporting.document import report_document
from spinemets.reporting.schema import FindingRecord

__all__ = ["make_measurement_report"]

_CONFIDENCE = own_concept("confidence", "Confidence that this is a lesion")
_LEVEL_CONFIDENCE = own_concept("level-confidence", "Confidence of the level")
_COMPARTMENT = own_concept("compartment", "Compartment")
_REVIEW = own_concept("needs-review", "Needs review")
_REVIEW_TOPIC = own_concept("review-topic", "What the review is about")
_LEVEL = own_concept("level", "Vertebral level")
_REGION = own_concept("region", "Spinal region")
_SIDE = own_concept("side", "Side of the midline")
_SIDES: dict[Side, Code] = {
    "right": codes.SCT.Right,
    "left": codes.SCT.Left,
    "midline": codes.SCT.Midline,
    "both": codes.SCT.Bilateral,
}
_VERTEBRAE_FOUND = own_concept("vertebrae-found", "Vertebrae were recognised")


def make_measurement_report(
    report: StudyReport, source: SourceSeries, identifiers: Identifiers, lesions: Dataset | None
) -> Dataset:
    """The structured report of a study: partial, preliminary and unverified.

    Numbers are those of ``report.json``. A study without a lesion has one group that counts none,
    and says whether vertebrae were recognised. Cautions follow as comments, by which the standard
    lets template 1500 be extended.

    Parameters
    ----------
    lesions
        The segmentation that the groups refer to; None where no lesion was found.
    """
    provenance = report.provenance
    images = _flat_headers(source)
    # A report that refers to another kind of segmentation is another report.
    name = "report" if lesions is None else f"report {lesions.SOPInstanceUID}"
    content = sr.MeasurementReport(
        observation_context=_observer(provenance),
        procedure_reported=codes.cid100.MRIUnspecifiedBodyRegion,
        imaging_measurements=_groups(report, identifiers, lesions),
        referenced_images=images,
    )
    content[0].ContentSequence.extend(_cautions(report))
    dataset: Dataset = sr.Comprehensive3DSR(
        evidence=images if lesions is None else [*images, lesions],
        content=content[0],
        series_instance_uid=identifiers.series(name),
        series_number=SERIES_NUMBERS["report"],
        sop_instance_uid=identifiers.instance(name),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number=provenance.model_sha256[:16],
        is_complete=False,
        is_final=False,
        is_verified=False,
        coding_schemes=[CodingSchemeIdentificationItem(OWN_SCHEME, name="spinemets")],
        series_description="spinemets findings, research use",
        specific_character_set="ISO_IR 192",
    )
    return dataset


def _flat_headers(source: SourceSeries) -> tuple[Dataset, ...]:
    """The source's headers with the plane at their root, also where it is a multi-frame file."""
    if not source.is_multiframe:
        return source.headers
    (header,) = source.headers
    shared = header.SharedFunctionalGroupsSequence[0]
    flat = Dataset()
    flat.update({element.tag: element for element in header if "FunctionalGroups" not in element.keyword})
    flat.ImagePositionPatient = [round(float(x), 6) for x in source.positions_mm[0]]
    flat.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    flat.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
    flat.SliceThickness = shared.PixelMeasuresSequence[0].SliceThickness
    return (flat,)


def _observer(provenance: Provenance) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of(MANUFACTURER, provenance.version, provenance.model_sha256),
        name=provenance.model,
        manufacturer_name=MANUFACTURER,
        model_name=f"{MANUFACTURER} {provenance.version}",
        serial_number=provenance.model_sha256[:16],
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=device)
    )


def _groups(report: StudyReport, identifiers: Identifiers, lesions: Dataset | None) -> list[sr.Template]:
    algorithm = sr.AlgorithmIdentification(
        name=report.provenance.model, version=report.provenance.model_version, manufacturer=MANUFACTURER
    )
    findings = report_document(report, "keep", with_pictures=False).findings
    if lesions is None:
        # Where no spine was recognised, that no lesion was found says nothing.
        found = codes.SCT.Yes if report.vertebrae else codes.SCT.No
        return [
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=_tracking("spine", identifiers),
                finding_type=codes.SCT.Lesion,
                algorithm_id=algorithm,
                finding_sites=[sr.FindingSite(codes.SCT.Spine)],
                measurements=[sr.Measurement(codes.SCT.NumberOfLesions, 0, codes.UCUM.NoUnits)],
                qualitative_evaluations=[sr.QualitativeEvaluation(_VERTEBRAE_FOUND, found)],
            )
        ]
    return [
        sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(lesion_name(finding.lesion), identifiers),
            referenced_segment=_segment(lesions, number),
            finding_category=codes.SCT.MorphologicallyAbnormalStructure,
            finding_type=LESION,
            algorithm_id=algorithm,
            finding_sites=_sites(finding),
            measurements=_measurements(finding),
            qualitative_evaluations=_evaluations(finding),
        )
        for number, finding in enumerate(findings, start=1)
    ]


def _cautions(report: StudyReport) -> list[sr.TextContentItem]:
    """What a reader must know of the study as a whole."""
    return [
        sr.TextContentItem(codes.DCM.Comment, caution, sr.RelationshipTypeValues.CONTAINS)
        for caution in report.cautions
    ]


def _segment(lesions: Dataset, number: int) -> sr.ReferencedSegment:
    return sr.ReferencedSegment(
        lesions.SOPClassUID,
        lesions.SOPInstanceUID,
        number,
        source_series=sr.SourceSeriesForSegmentation(lesions.ReferencedSeriesSequence[0].SeriesInstanceUID),
    )


def _tracking(name: str, identifiers: Identifiers) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=identifiers.tracking(name), identifier=name)


def _sites(finding: FindingRecord) -> list[sr.FindingSite]:
    """The levels it touches, the one that holds most of it first; the spine where there is none."""
    levels = sorted(finding.levels, key=lambda level: level is not finding.level)
    concepts = dict.fromkeys(level_concept(level) for level in levels) or [codes.SCT.Spine]
    return [sr.FindingSite(concept) for concept in concepts]


def _measurements(finding: FindingRecord) -> list[sr.Measurement]:
    probabilities = [
        sr.Measurement(probability_concept(compartment), probability, codes.UCUM.NoUnits)
        for compartment, probability in finding.compartment_probabilities.items()
    ]
    return [
        sr.Measurement(codes.SCT.Volume, finding.volume_mm3, codes.UCUM.CubicMillimeter),
        sr.Measurement(codes.SCT.LongAxis, finding.longest_diameter_mm, codes.UCUM.Millimeter),
        sr.Measurement(_CONFIDENCE, finding.confidence, codes.UCUM.NoUnits),
        sr.Measurement(_LEVEL_CONFIDENCE, finding.level_confidence, codes.UCUM.NoUnits),
        *probabilities,
    ]


def _evaluations(finding: FindingRecord) -> Sequence[sr.QualitativeEvaluation]:
    review = codes.SCT.Yes if finding.needs_review else codes.SCT.No
    evaluations = [
        sr.QualitativeEvaluation(_COMPARTMENT, compartment_concept(finding.compartment)),
        sr.QualitativeEvaluation(_REVIEW, review),
        *(
            sr.QualitativeEvaluation(_REVIEW_TOPIC, own_concept(topic.value, topic.value))
            for topic in finding.review_topics
        ),
    ]
    if finding.level is not None:
        # Names T13 and L6, too, which have no code of their own; the sacrum is not divided.
        sacral = finding.region is SpineRegion.SACRAL
        meaning = "Sacrum, S1 or below" if sacral else f"{finding.level.value} vertebra"
        level = own_concept(finding.level.value, meaning)
        evaluations.append(sr.QualitativeEvaluation(_LEVEL, level))
    if finding.region is not None:
        evaluations.append(sr.QualitativeEvaluation(_REGION, REGIONS[finding.region]))
    if finding.side is not None:
        evaluations.append(sr.QualitativeEvaluation(_SIDE, _SIDES[finding.side]))
    return evaluations
