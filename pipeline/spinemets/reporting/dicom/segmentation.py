"""Levels, anatomy and lesions as DICOM segmentations (SEG)."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import highdicom
import numpy as np
import numpy.typing as npt
from highdicom.seg import SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from spinemets import __version__
from spinemets.anatomy import Structure
from spinemets.findings import Provenance, StudyReport
from spinemets.reporting.dicom.concepts import LESION, STRUCTURES, level_concept
from spinemets.reporting.dicom.equipment import MANUFACTURER, SERIES_NUMBERS
from spinemets.reporting.dicom.identifiers import Identifiers, uid_of
from spinemets.reporting.dicom.source import SourceSeries
from spinemets.reporting.palette import COMPARTMENT_COLOURS, CORD_COLOUR, SAC_COLOUR
from spinemets.reporting.words import finding_label

__all__ = ["SegmentationType", "lesion_name", "make_segmentations"]

SegmentationType = Literal["binary", "labelmap"]

_STRUCTURE_COLOURS = {
    Structure.VERTEBRAL_BODY: (215, 190, 150),
    Structure.POSTERIOR_ELEMENTS: (170, 140, 105),
    Structure.DISC: (110, 170, 215),
    Structure.THECAL_SAC: SAC_COLOUR,
    Structure.CORD: CORD_COLOUR,
    Structure.SACRUM: (190, 150, 170),
}
# Neighbouring levels differ most where the hue turns by the golden angle.
_GOLDEN_TURN = 0.381966


@dataclass(frozen=True, slots=True)
class _Segment:
    """One segment before it has a number.

    Attributes
    ----------
    value
        Its value in the array that it is taken from.
    site
        The level it lies at, for what is not itself a level.
    """

    value: int
    label: str
    category: Code
    kind: Code
    colour: tuple[float, ...]
    site: Code | None = None


def lesion_name(number: int) -> str:
    """The name by which a lesion is tracked in every object.

    >>> lesion_name(2)
    'lesion 2'
    """
    return f"lesion {number}"


def make_segmentations(
    report: StudyReport, source: SourceSeries, identifiers: Identifiers, kind: SegmentationType = "binary"
) -> dict[str, Dataset]:
    """The segmentations of a report by name: "levels", "anatomy" and "lesions".

    One of which nothing was found is left out, as a segmentation cannot be empty. Segments are
    numbered 1..n in the order of the report; lesions carry their number of the report.

    Parameters
    ----------
    kind
        "binary" has one bit per voxel and segment and is read everywhere; "labelmap" is
        smaller and newer.
    """
    segmentation = report.segmentation
    lesions = np.zeros(segmentation.grid.shape, dtype=np.uint16)
    for finding in report.findings:
        lesions[tuple(finding.lesion.voxels.T)] = finding.lesion.number
    parts: dict[str, tuple[npt.NDArray[np.integer], list[_Segment]]] = {
        "levels": (segmentation.vertebrae, _level_segments(report)),
        "anatomy": (segmentation.anatomy, _anatomy_segments(report)),
        "lesions": (lesions, _lesion_segments(report)),
    }
    return {
        name: _segmentation(name, _renumbered(array, segments), segments, (report, source, identifiers, kind))
        for name, (array, segments) in parts.items()
        if segments
    }


def _level_segments(report: StudyReport) -> list[_Segment]:
    present = set(np.unique(report.segmentation.vertebrae).tolist())
    return [
        _Segment(
            vertebra.instance,
            vertebra.level.value,
            codes.SCT.AnatomicalStructure,
            level_concept(vertebra.level),
            colorsys.hls_to_rgb(vertebra.level.position * _GOLDEN_TURN % 1.0, 0.62, 0.75),
        )
        for vertebra in report.vertebrae
        if vertebra.instance in present
    ]


def _anatomy_segments(report: StudyReport) -> list[_Segment]:
    present = set(np.unique(report.segmentation.anatomy).tolist())
    return [
        _Segment(
            int(structure),
            structure.name.lower().replace("_", " "),
            *concepts,
            tuple(part / 255 for part in _STRUCTURE_COLOURS[structure]),
        )
        for structure, concepts in STRUCTURES.items()
        if int(structure) in present
    ]


def _lesion_segments(report: StudyReport) -> list[_Segment]:
    return [
        _Segment(
            finding.lesion.number,
            finding_label(finding),
            codes.SCT.MorphologicallyAbnormalStructure,
            LESION,
            tuple(part / 255 for part in COMPARTMENT_COLOURS[finding.compartment]),
            level_concept(finding.main_level) if finding.main_level else codes.SCT.Spine,
        )
        for finding in report.findings
    ]


def _renumbered(array: npt.NDArray[np.integer], segments: Sequence[_Segment]) -> npt.NDArray[np.uint16]:
    """The array with each segment's value replaced by its number; anything else becomes 0."""
    numbers = np.zeros(int(array.max(initial=0)) + 1, dtype=np.uint16)
    for number, segment in enumerate(segments, start=1):
        numbers[segment.value] = number
    return np.asarray(numbers[array])


def _segmentation(
    name: str,
    array: npt.NDArray[np.uint16],
    segments: Sequence[_Segment],
    context: tuple[StudyReport, SourceSeries, Identifiers, SegmentationType],
) -> Dataset:
    """One segmentation object, on every slice of the source that holds part of it."""
    report, source, identifiers, kind = context
    descriptions = [
        _description(number, segment, report.provenance, identifiers)
        for number, segment in enumerate(segments, start=1)
    ]
    instance = f"{name} {kind}"
    dataset: Dataset = highdicom.seg.Segmentation(
        source_images=source.headers,
        pixel_array=array,
        segmentation_type=kind.upper(),
        segment_descriptions=descriptions,
        series_instance_uid=identifiers.series(instance),
        series_number=SERIES_NUMBERS[name],
        sop_instance_uid=identifiers.instance(instance),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number=report.provenance.model_sha256[:16],
        content_label=name.upper(),
        content_description=f"{name} found by software; research use only",
        series_description=f"spinemets {name}",
        transfer_syntax_uid=RLELossless if kind == "labelmap" else ExplicitVRLittleEndian,
        plane_positions=[
            highdicom.PlanePositionSequence("PATIENT", [round(float(x), 6) for x in position])
            for position in source.positions_mm
        ],
        specific_character_set="ISO_IR 192",
    )
    _fix_organisation(dataset, uid_of(identifiers.instance(instance), "dimension organisation"))
    _drop_unused_frames(dataset, source)
    return dataset


def _description(
    number: int, segment: _Segment, provenance: Provenance, identifiers: Identifiers
) -> SegmentDescription:
    tracked = segment.label.split(",")[0]
    return SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=segment.category,
        segmented_property_type=segment.kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=provenance.model,
            family=codes.DCM.ArtificialIntelligence,
            version=provenance.model_version,
            source=f"{MANUFACTURER} {provenance.version}",
            parameters={"weights_sha256": provenance.model_sha256},
        ),
        tracking_uid=identifiers.tracking(tracked),
        tracking_id=tracked,
        anatomic_regions=[segment.site] if segment.site else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*(255 * part for part in segment.colour)),
    )


def _fix_organisation(dataset: Dataset, uid: str) -> None:
    """Give the dimension organisation, which is made at random, a UID that follows from the content."""
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _drop_unused_frames(dataset: Dataset, source: SourceSeries) -> None:
    """Refer to the frames that were used only: a file may hold several echoes of each place."""
    if not source.is_multiframe:
        return
    used = {entry[1] + 1 for entry in source.slices if entry is not None}
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in groups.get("DerivationImageSequence", []):
            derivation.SourceImageSequence = [
                image for image in derivation.SourceImageSequence if image.ReferencedFrameNumber in used
            ]
