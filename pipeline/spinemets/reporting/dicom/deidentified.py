"""What objects made from a de-identified source must say and must not say."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

__all__ = ["STATEMENTS", "follow_deidentification"]

STATEMENTS = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)
"""What a source says of its de-identification, and all objects made from it."""
_OF_WRITING = (
    "InstanceCreation{}", "Content{}", "Series{}", "StructureSet{}", "PresentationCreation{}",
    "{}OfSecondaryCapture",
)  # fmt: skip
_NO_DATE, _NO_TIME = "19000101", "000000"


def follow_deidentification(dataset: Dataset, source: Dataset) -> None:
    """Carry over that identity was removed, and hide when the object was written.

    A study is often analysed on the day of the examination, so the day of writing would give
    away what was removed or shifted. The study's own date, as far as it is there, stands instead.
    Objects of a source that is not marked as de-identified stay as they are.
    """
    if source.get("PatientIdentityRemoved") != "YES":
        return
    for keyword in STATEMENTS:
        if keyword in source:
            setattr(dataset, keyword, source[keyword].value)
    if "BurnedInAnnotation" in dataset:
        # The text of documents and pictures is that of the report.
        dataset.BurnedInAnnotation = "NO"
    if source.get("LongitudinalTemporalInformationModified") not in ("REMOVED", "MODIFIED"):
        return
    date, time = source.get("StudyDate") or _NO_DATE, source.get("StudyTime") or _NO_TIME
    for event in _OF_WRITING:
        for keyword, value in ((event.format("Date"), date), (event.format("Time"), time)):
            if dataset.get(keyword):
                setattr(dataset, keyword, value)
    if dataset.get("ObservationDateTime"):
        dataset.ObservationDateTime = date + time
    for equipment in dataset.get("ContributingEquipmentSequence", ()):
        # The scanner's own, where it is told, is the acquisition's, as the copy of the source has it.
        (purpose,) = equipment.PurposeOfReferenceCodeSequence
        if purpose.CodeValue == codes.DCM.ProcessingEquipment.value:
            equipment.ContributionDateTime = date + time
