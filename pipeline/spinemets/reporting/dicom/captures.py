"""Outlined slices through each lesion as Secondary Captures, for archives that show pictures only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from highdicom.sc import SCImage
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from spinemets import __version__
from spinemets.findings import StudyReport
from spinemets.reporting.dicom.equipment import MANUFACTURER, SERIES_NUMBERS, study_attributes
from spinemets.reporting.dicom.identifiers import Identifiers
from spinemets.reporting.dicom.segmentation import lesion_name
from spinemets.reporting.dicom.source import SourceSeries
from spinemets.reporting.document import review_confidence
from spinemets.reporting.overlays import KeyImage, draw_key_images
from spinemets.volume import Plane

__all__ = ["make_captures"]

# Where growing columns and growing rows lead.
_ORIENTATION = {Plane.SAGITTAL: ("P", "F"), Plane.CORONAL: ("L", "F"), Plane.AXIAL: ("L", "P")}


def make_captures(report: StudyReport, source: SourceSeries, identifiers: Identifiers) -> Iterator[Dataset]:
    """A sagittal and an axial picture of each lesion, in the order of the report."""
    number = 0
    for lesion, pictures in draw_key_images(report, review_confidence(report)).items():
        for picture in pictures:
            number += 1
            yield _capture(lesion, number, picture, (source, identifiers))


def _capture(
    lesion: int, number: int, picture: KeyImage, context: tuple[SourceSeries, Identifiers]
) -> Dataset:
    source, identifiers = context
    kind, pixel_mm = picture.plane.kind, round(picture.plane.pixel_mm, 6)
    dataset: Dataset = SCImage(
        **study_attributes(source),
        pixel_array=np.asarray(picture.image.convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=identifiers.series("key"),
        series_number=SERIES_NUMBERS["key"],
        sop_instance_uid=identifiers.instance("key", number),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        pixel_spacing=(pixel_mm, pixel_mm),
        patient_orientation=_ORIENTATION[kind],
        series_description="spinemets key images, research use",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
    )
    dataset.copy_patient_and_study_information(source.headers[0])
    dataset.ImageComments = f"{lesion_name(lesion)}, {kind.value}; found by software, research use only"
    # Drawn by software; highdicom says DI, for a frame that came over a digital interface (PS3.3 C.8.6.1).
    dataset.ConversionType = "WSD"
    # The spine has no side, so that none need be given.
    dataset.BodyPartExamined = "SPINE"
    dataset.BurnedInAnnotation = "NO"
    return dataset
