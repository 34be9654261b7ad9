"""What in a study's headers identifies a person, so that names and messages can be kept free of it."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from spinemets.io.dicom_headers import lenient_headers
from spinemets.io.files import is_dicom_series
from spinemets.io.listing import StudyListing

__all__ = ["private_words"]

_TAGS = [
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthDate",
    "AccessionNumber",
]
_SHORTEST = 2
# In every report's sentences; as a part of a name, as in "Phantom^Spine", it tells nobody apart.
_SAYS_NOTHING = "spine"


def private_words(listing: StudyListing) -> frozenset[str]:
    """The parts of the patient's names, identifiers and birth date, and all UIDs of a study.

    Files other than DICOM carry none, so for them only made-up UIDs are given.
    """
    if listing.archive is not None:
        return listing.archive.words
    words = {listing.study_uid, *(entry.series.series_uid for entry in listing.series)}
    for entry in listing.series:
        if is_dicom_series(entry.series):
            words |= _words_of(entry.series.files[0])
            break
    return frozenset(word for word in words if len(word) >= _SHORTEST and word.casefold() != _SAYS_NOTHING)


def _words_of(path: Path) -> set[str]:
    try:
        with lenient_headers():
            dataset = pydicom.dcmread(path, specific_tags=[*_TAGS], stop_before_pixels=True, force=True)
            texts = {tag: str(dataset.get(tag) or "") for tag in _TAGS}
    except (OSError, InvalidDicomError, ValueError):
        return set()
    words: set[str] = set()
    for tag in ("PatientName", "OtherPatientNames", "OtherPatientIDs", "PatientID", "AccessionNumber"):
        words |= set(re.split(r"[\^=,\s\\\[\]']+", texts[tag])) | {texts[tag]}
    born = texts["PatientBirthDate"]
    if re.fullmatch(r"\d{8}", born):
        year, month, day = born[:4], born[4:6], born[6:]
        for separator in ("", "-", ".", "_"):
            words |= {separator.join((year, month, day)), separator.join((day, month, year))}
    return words
