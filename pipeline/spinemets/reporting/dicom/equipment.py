"""What the series of every object say of themselves: maker, numbers, and the study they join."""

from __future__ import annotations

from collections.abc import Mapping

from highdicom.base import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from spinemets import __version__
from spinemets.reporting.dicom.identifiers import Identifiers
from spinemets.reporting.dicom.source import SourceSeries

__all__ = ["MANUFACTURER", "SERIES_NUMBERS", "new_object", "study_attributes"]

MANUFACTURER = "spinemets"
SERIES_NUMBERS = {
    "levels": 9601,
    "anatomy": 9602,
    "lesions": 9603,
    "report": 9604,
    "document": 9605,
    "key": 9606,
    "contours": 9607,
}
"""Beyond what scanners number; one series for each kind of object."""


def study_attributes(source: SourceSeries) -> Mapping[str, object]:
    """Patient and study of the source, as keyword arguments of highdicom's constructors."""
    header = source.headers[0]
    return {
        "study_instance_uid": header.StudyInstanceUID,
        "patient_id": header.PatientID,
        "patient_name": header.PatientName,
        "patient_birth_date": header.PatientBirthDate or None,
        "patient_sex": header.PatientSex,
        "study_id": header.StudyID,
        "accession_number": header.AccessionNumber,
        "study_date": header.StudyDate or None,
        "study_time": header.StudyTime or None,
        "referring_physician_name": header.ReferringPhysicianName,
    }


def new_object(
    kind: str,
    sop_class_uid: str,
    modality: str,
    source: SourceSeries,
    identifiers: Identifiers,
    name: str = "",
) -> Dataset:
    """An object of the source's study with nothing but its identity.

    Parameters
    ----------
    kind
        Of ``SERIES_NUMBERS``.
    name
        What its UIDs follow from, where that is more than its kind.
    """
    name = name or kind
    dataset: Dataset = SOPClass(
        **study_attributes(source),
        series_instance_uid=identifiers.series(name),
        series_number=SERIES_NUMBERS[kind],
        sop_instance_uid=identifiers.instance(name),
        sop_class_uid=sop_class_uid,
        instance_number=1,
        modality=modality,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        series_description=f"spinemets {kind}, research use",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
    )
    dataset.copy_patient_and_study_information(source.headers[0])
    return dataset
