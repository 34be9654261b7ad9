"""A data set without identifiers: the basic profile, and more where the profile would let text through.

Beyond the table: attributes that no edition of the standard knows, free text that is not on a
short list of technical attributes, binary values other than pixels, and codes of private schemes
are removed, on every level of every sequence; every UID that the standard does not define is
mapped; and what is kept is searched for the words that name this patient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from spinemets import __version__
from spinemets.io.deidentification.dates import DATE_VRS, shift_dates
from spinemets.io.deidentification.profile import BIRTH, DEVICE, action_of
from spinemets.io.deidentification.pseudonyms import Pseudonyms
from spinemets.io.dicom_headers import DAMAGE_ERRORS
from spinemets.io.weighting import names_agent

__all__ = ["Disguise", "clean_header"]

_TEXT_VRS = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBER_VRS = frozenset({"DS", "IS"})
_BYTES_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "UN"})
_TECHNICAL = frozenset({
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SequenceName", "PulseSequenceName",
    "ImagedNucleus", "RescaleType", "CodingSchemeDesignator", "CodingSchemeVersion",
})  # fmt: skip
# Required to be there, but not to hold anything.
_MAY_BE_EMPTY = frozenset({
    "Manufacturer", "PositionReferenceIndicator", "ReceiveCoilManufacturerName",
    "TransmitCoilManufacturerName",
})  # fmt: skip
_PUBLIC_SCHEMES = frozenset(
    {"DCM", "SCT", "SRT", "SNM3", "SNOMED-RT", "UCUM", "LN", "FMA", "RADLEX", "NCIt", "UMLS"}
)
# Whatever the patient is called.
_BODY_PARTS = frozenset({
    "SPINE", "CSPINE", "TSPINE", "LSPINE", "SSPINE", "WHOLESPINE", "CTSPINE", "TLSPINE", "LSSPINE", "SACRUM",
    "NECK", "HEAD", "BACK",
})  # fmt: skip
_PIXEL_DATA = 0x7FE00010
_DUMMIES = {"AS": "000Y", "DA": "19000101", "TM": "000000", "DT": "19000101000000", "DS": "0", "IS": "0"}
_DUMMY_TEXT = "ANONYMIZED"
# A code of a public scheme is kept; its meaning in words can be looked up there.
_CODE_VALUE = re.compile(r"(?=.*\d)[0-9A-Za-z.-]{1,16}")
_WITHHELD_MEANING = "see coding scheme"
_CODE_STRING = re.compile(r"[A-Z0-9 _]{0,16}")
_WITHHELD_CODE = "OTHER"
_SHORTEST_WORD = 4


@dataclass(frozen=True, slots=True)
class _Rules:
    """How the data sets of one file are cleaned."""

    pseudonyms: Pseudonyms
    retain: Collection[str]
    shift: timedelta
    words: frozenset[str]
    enhanced: bool


@dataclass(frozen=True, slots=True)
class Disguise:
    """What a data set is given in place of what it has.

    Attributes
    ----------
    retain
        "dates": shifted by an amount that is the same for all studies of the patient.
        "device": serial number, station and the like stay.
    patient
        What tells the patient from others, from which the pseudonym follows.
    description
        The series' new description, made of nothing but recognised words.
    """

    pseudonyms: Pseudonyms
    retain: Collection[str]
    patient: str
    description: str


def clean_header(dataset: Dataset, disguise: Disguise) -> None:
    """Take everything that identifies out of a data set, in place.

    Parameters
    ----------
    dataset
        An image with its pixels or without; its file meta information is not touched.
    """
    rules = _Rules(
        disguise.pseudonyms,
        disguise.retain,
        disguise.pseudonyms.shift(disguise.patient),
        _words_of(dataset),
        "PerFrameFunctionalGroupsSequence" in dataset,
    )
    _clean_level(dataset, rules, nested=False)
    dataset.PatientName = dataset.PatientID = disguise.pseudonyms.patient(disguise.patient)
    dataset.SeriesDescription = disguise.description
    dataset.SpecificCharacterSet = "ISO_IR 192"
    _declare(dataset, disguise.retain)


def _declare(dataset: Dataset, retain: Collection[str]) -> None:
    """Say what was done, as the profile asks."""
    # A long dictionary, which a detection that de-identifies nothing does without.
    from pydicom.sr.codedict import codes

    methods = [codes.DCM.BasicApplicationConfidentialityProfile, codes.DCM.CleanDescriptorsOption]
    if "dates" in retain:
        methods.append(codes.DCM.RetainLongitudinalTemporalInformationModifiedDatesOption)
    if "device" in retain:
        methods.append(codes.DCM.RetainDeviceIdentityOption)
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"spinemets {__version__}, DICOM PS3.15 Annex E"
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if "dates" in retain else "REMOVED"
    dataset.DeidentificationMethodCodeSequence = []
    for method in methods:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = method.value, method.scheme_designator
        item.CodeMeaning = method.meaning
        dataset.DeidentificationMethodCodeSequence.append(item)


def _words_of(dataset: Dataset) -> frozenset[str]:
    """The parts of the names and identifiers in a data set, in lower case."""
    texts = [
        str(dataset.get(keyword) or "") for keyword in ("PatientID", "OtherPatientIDs", "AccessionNumber")
    ]
    for tag in list(dataset.keys()):
        element = _element(dataset, tag)
        if element is not None and element.VR == "PN":
            texts.append(str(element.value))
    words = {word.casefold() for text in texts for word in re.split(r"[\^=,\s\\\[\]']+", text)}
    return frozenset(word for word in words if len(word) >= _SHORTEST_WORD)


def _element(dataset: Dataset, tag: Any) -> DataElement | None:
    """The element, converted from its bytes; None where they are malformed."""
    try:
        element: DataElement = dataset[tag]
        return element
    except DAMAGE_ERRORS:
        return None


def _clean_level(dataset: Dataset, rules: _Rules, *, nested: bool) -> None:
    for tag in list(dataset.keys()):
        element = _element(dataset, tag)
        if element is None or tag.is_private or not _is_standard(element):
            del dataset[tag]
    if "dates" in rules.retain:
        shift_dates(dataset, rules.shift)
    for element in list(dataset):
        if not _clean_element(element, rules, nested=nested):
            del dataset[element.tag]


def _is_standard(element: DataElement) -> bool:
    """Whether the standard knows the element, and as what it is said to be."""
    tag = element.tag
    return dictionary_has_tag(tag) and element.VR in dictionary_VR(tag).split(" or ")


def _clean_element(element: DataElement, rules: _Rules, *, nested: bool) -> bool:
    """Clean one element in place; False for one that is to be removed."""
    tag, vr = int(element.tag), element.VR
    if vr in DATE_VRS and "dates" in rules.retain and tag not in BIRTH:
        return True
    if tag in DEVICE and "device" in rules.retain:
        return not _holds_word(element.value, rules.words)
    action = action_of(tag, enhanced=rules.enhanced)
    if action == "remove":
        return False
    if vr == "SQ":
        return _clean_sequence(element, action, rules)
    if action == "empty":
        element.value = empty_value_for_VR(vr)
        return True
    if vr == "UI":
        element.value = _mapped(element.value, rules.pseudonyms)
        return True
    if action == "replace":
        return _replace(element)
    return _clean_unlisted(element, rules, nested=nested)


def _clean_sequence(element: DataElement, action: str, rules: _Rules) -> bool:
    if action in ("replace", "empty"):
        # A made-up item would say something that is not so.
        element.value = DicomSequence()
        return action == "empty"
    for item in element.value:
        _clean_level(item, rules, nested=True)
    kept = [item for item in element.value if item.get("CodingSchemeDesignator", "DCM") in _PUBLIC_SCHEMES]
    emptied = bool(element.value) and not kept
    element.value = DicomSequence(kept)
    return not emptied


def _mapped(value: Any, pseudonyms: Pseudonyms) -> str | list[str]:
    if value is None or value == "":
        return ""
    if isinstance(value, str):
        return pseudonyms.uid(value)
    return [pseudonyms.uid(str(uid)) for uid in value]


def _replace(element: DataElement) -> bool:
    if element.keyword == "ContrastBolusAgent" and not names_agent(str(element.value or "")):
        # A replacement would say that there was an agent.
        element.value = ""
    elif element.VR in _TEXT_VRS or element.VR == "CS":
        element.value = _DUMMY_TEXT
    elif element.VR in _DUMMIES:
        element.value = _DUMMIES[element.VR]
    else:
        return False
    return True


def _clean_unlisted(element: DataElement, rules: _Rules, *, nested: bool) -> bool:
    """Clean an element of which the profile says nothing."""
    vr, keyword = element.VR, element.keyword
    if vr in DATE_VRS or vr == "AS":
        return False
    if vr in _BYTES_VRS:
        return int(element.tag) == _PIXEL_DATA and not nested
    if vr == "CS":
        if keyword == "BodyPartExamined" and element.value in _BODY_PARTS:
            return True
        element.value = _clean_codes(element.value, rules.words)
        return True
    if vr in _NUMBER_VRS:
        return _is_number(element.value)
    if vr not in _TEXT_VRS:
        return True
    if keyword in _TECHNICAL and not _holds_word(element.value, rules.words):
        return True
    if keyword in _MAY_BE_EMPTY:
        # Enhanced images must name their maker.
        element.value = _DUMMY_TEXT if rules.enhanced and not nested else ""
        return True
    if keyword == "CodeValue":
        return bool(_CODE_VALUE.fullmatch(str(element.value))) and not _holds_word(element.value, rules.words)
    if keyword == "CodeMeaning":
        element.value = _WITHHELD_MEANING
        return True
    # Labels of stacks and coils, which enhanced images require.
    if nested and vr in ("LO", "SH") and element.VM == 1:
        element.value = rules.pseudonyms.label(str(element.value))
        return True
    return False


def _is_number(value: Any) -> bool:
    """Whether a decimal or integer string is one: malformed, it is text that was read leniently."""
    values = [value] if value is None or isinstance(value, str | float | int) else value
    try:
        return all(math.isfinite(float(one or 0)) for one in values)
    except ValueError:
        return False


def _clean_codes(value: Any, words: frozenset[str]) -> Any:
    """Code strings, those replaced that are none or name the patient."""

    def cleaned(code: str) -> str:
        sound = _CODE_STRING.fullmatch(code) and not _holds_word(code, words)
        return code if sound else _WITHHELD_CODE

    if value is None or isinstance(value, str):
        return cleaned(value or "")
    return [cleaned(str(code)) for code in value]


def _holds_word(value: Any, words: frozenset[str]) -> bool:
    text = str(value).casefold()
    return any(word in text for word in words)
