"""What PS3.15 Annex E says of an attribute: Table E.1-1, from the package dicom-anonymizer.

The columns of the two options are short enough to be stated here. *Retain longitudinal temporal
information with modified dates* holds for every date and time of the table but those of the
patient's birth. *Retain device identity* holds for the attributes listed below.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from pydicom.datadict import tag_for_keyword

from spinemets.errors import ConfigError

__all__ = ["BIRTH", "DEVICE", "Action", "action_of", "check_table"]

Action = Literal["remove", "empty", "replace", "uid", "clean", "none"]

_EDITION = "dicomfields_2026c"
# Of a classic image, what may be absent is removed and what may be empty is emptied. Enhanced images
# require more, so that there a replacement is written wherever the table allows one.
_ACTIONS: Mapping[str, tuple[Action, Action]] = {
    "D_TAGS": ("replace", "replace"),
    "Z_TAGS": ("empty", "empty"),
    "X_TAGS": ("remove", "remove"),
    "U_TAGS": ("uid", "uid"),
    "Z_D_TAGS": ("empty", "replace"),
    "X_Z_TAGS": ("remove", "empty"),
    "X_D_TAGS": ("remove", "replace"),
    "X_Z_D_TAGS": ("remove", "replace"),
    "X_Z_U_STAR_TAGS": ("clean", "clean"),
}
BIRTH = frozenset({0x00100030, 0x00100032})
DEVICE = frozenset(
    tag
    for keyword in (
        "CassetteID", "DetectorID", "DeviceDescription", "DeviceLabel", "DeviceSerialNumber", "DeviceUID",
        "GantryID", "GeneratorID", "ManufacturerDeviceClassUID", "ManufacturerDeviceIdentifier",
        "PerformedStationAETitle", "PerformedStationName", "PlateID", "ScheduledProcedureStepLocation",
        "ScheduledStationAETitle", "ScheduledStationName", "ScheduledStudyLocation",
        "ScheduledStudyLocationAETitle", "StationName", "UniqueDeviceIdentifier",
    )
    if (tag := tag_for_keyword(keyword)) is not None
)  # fmt: skip


def check_table() -> None:
    """Make sure that the table is there before any study is begun.

    Raises
    ------
    ConfigError
        The package that holds it is not installed, or does not hold this edition.
    """
    try:
        _table()
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"de-identification needs the table of dicom-anonymizer ({error}); "
            "install the extra with pip install 'spinemets[deid]'"
        ) from error


def action_of(tag: int, *, enhanced: bool) -> Action:
    """What the basic profile asks for; "none" for what it does not mention.

    Groups of curves and overlays are removed as a whole: without their data they mean nothing.

    >>> action_of(0x00100010, enhanced=False), action_of(0x00081030, enhanced=False)
    ('empty', 'remove')
    """
    group = tag >> 16
    if group in (0x0000, 0x0002, 0xFFFA, 0xFFFC) or 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF:
        return "remove"
    letters = _table().get(tag)
    return _ACTIONS[letters][enhanced] if letters else "none"


@cache
def _table() -> Mapping[int, str]:
    """The letters of the table by tag."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    database = dicom_anonymization_database_selector(_EDITION)
    return {
        entry[0] << 16 | entry[1]: letters
        for letters in _ACTIONS
        for entry in database[letters]
        # The longer ones are masks: curves and overlays.
        if len(entry) == 2
    }
