"""What was found in an input: studies, their series, and why each is kept or rejected."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Literal

from spinemets.errors import (
    GeometryError,
    InputError,
    NoUsableInputError,
    UnreadableFileError,
    UnsupportedInputError,
)
from spinemets.io.dicom_geometry import SliceStack
from spinemets.volume import Series

__all__ = ["IgnoredFile", "PackedFiles", "Rejection", "SeriesListing", "StudyListing", "describe"]


class Rejection(Enum):
    """The kinds of reason for not using a series."""

    NOT_AN_IMAGE = "not an image"
    MODALITY = "modality"
    LOCALISER = "localiser"
    DERIVED = "derived"
    CONTRAST = "contrast"
    UNSUPPORTED = "unsupported"
    GEOMETRY = "geometry"
    MISSING_SLICES = "missing slices"
    TOO_FEW_SLICES = "too few slices"
    UNREADABLE = "unreadable"
    PLANE = "plane"
    STATION = "station"
    DUPLICATE = "duplicate"
    LIMIT = "limit"

    @property
    def error(self) -> type[InputError]:
        """The error to raise where this is why nothing of a study can be used."""
        return _ERRORS.get(self, NoUsableInputError)

    @property
    def is_choice(self) -> bool:
        """Whether the series is sound and only gives way to another of its study."""
        return self in (Rejection.PLANE, Rejection.STATION, Rejection.DUPLICATE, Rejection.LIMIT)


_ERRORS = {
    Rejection.GEOMETRY: GeometryError,
    Rejection.MISSING_SLICES: GeometryError,
    Rejection.UNSUPPORTED: UnsupportedInputError,
    Rejection.MODALITY: UnsupportedInputError,
    Rejection.UNREADABLE: UnreadableFileError,
}


@dataclass(frozen=True, slots=True)
class SeriesListing:
    """One series as its headers describe it, and whether it is used.

    Attributes
    ----------
    shape
        Voxels along the array axes; empty where the geometry is unknown.
    spacing_mm
        Distance between voxels along the same axes, in mm; empty where unknown.
    slices
        Images (DICOM) or planes across the widest spacing (NIfTI and the like).
    reason
        Why it is rejected, in words; empty for a kept series.
    extent_mm
        Head-foot range covered by voxel centres, RAS+ mm; None where unknown.
    contrast
        What a Dixon or unknown weighting leaves unsaid, as ``underlying_contrast`` gives it.
    stack
        The slices of a DICOM series in spatial order; None for other files.
    """

    series: Series
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    slices: int = 0
    kept: bool = True
    reason: str = ""
    rejection: Rejection | None = None
    extent_mm: tuple[float, float] | None = None
    contrast: str = ""
    stack: SliceStack | None = field(default=None, repr=False, compare=False)

    @property
    def is_sound(self) -> bool:
        """Whether it can be used, though another of its study may be preferred."""
        return self.kept or (self.rejection is not None and self.rejection.is_choice)

    def rejected(self, rejection: Rejection, reason: str) -> SeriesListing:
        """The same series, rejected."""
        return replace(self, kept=False, rejection=rejection, reason=reason)

    def accepted(self) -> SeriesListing:
        """The same series, kept."""
        return replace(self, kept=True, rejection=None, reason="")


@dataclass(frozen=True, slots=True)
class IgnoredFile:
    """A file that belongs to no series; ``damaged`` where it might have been one of an image."""

    path: Path
    reason: str
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """What is known of the files of a study in a ``.zip``, which are not at their paths any more.

    Attributes
    ----------
    path
        The archive.
    folder
        With which the files' paths begin; what follows is their place in the archive.
    sizes
        Of each file, bytes.
    words
        Of the headers, as ``private_words`` gives them.
    """

    path: Path
    folder: Path
    sizes: Mapping[Path, int] = field(default_factory=dict, repr=False)
    words: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class StudyListing:
    """One examination and every series found of it.

    Attributes
    ----------
    source
        The file, folder or archive it was found in.
    patient_id, study_date
        As the headers give them; never logged.
    ignored
        Files of the same input that belong to no series of any study.
    damaged
        How many of them may have been images of this study.
    archive
        Where its files are if they lie in a ``.zip``; see ``archives``. None for others.
    """

    study_uid: str
    description: str
    series: tuple[SeriesListing, ...]
    patient_id: str = ""
    study_date: str = ""
    source: Path = Path()
    ignored: tuple[IgnoredFile, ...] = ()
    damaged: int = 0
    archive: PackedFiles | None = field(default=None, repr=False)


def describe(
    listing: StudyListing, identifiers: Literal["keep", "hash"] = "hash", key: bytes | None = None
) -> dict[str, object]:
    """A study as plain JSON-serialisable data.

    With ``identifiers="hash"`` the patient's identifier and all UIDs become keyed hashes, and the
    date of the study is left out. File names are kept: they are how a user knows the study.

    Parameters
    ----------
    key
        Of the hashes, so that studies of one patient are told together; None for a new one.
    """
    secret = secrets.token_bytes() if key is None else key

    def hidden(text: str) -> str:
        if identifiers == "keep" or not text:
            return text
        return f"hmac-sha256:{hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()[:16]}"

    return {
        "study_uid": hidden(listing.study_uid),
        "patient_id": hidden(listing.patient_id),
        "study_date": listing.study_date if identifiers == "keep" else "",
        "description": listing.description,
        "source": str(listing.source),
        "series": [_describe_series(entry, hidden(entry.series.series_uid)) for entry in listing.series],
        "ignored": [{"file": entry.path.name, "reason": entry.reason} for entry in listing.ignored],
    }


def _describe_series(entry: SeriesListing, series_uid: str) -> dict[str, object]:
    return {
        "series_uid": series_uid,
        "number": entry.series.number,
        "description": entry.series.description,
        "modality": entry.series.modality,
        "weighting": entry.series.weighting.value,
        "plane": entry.series.plane.value,
        "shape": list(entry.shape),
        "spacing_mm": [round(spacing, 4) for spacing in entry.spacing_mm],
        "slices": entry.slices,
        "files": len(entry.series.files),
        "kept": entry.kept,
        "rejection": entry.rejection.value if entry.rejection else None,
        "reason": entry.reason,
        "cautions": list(entry.series.cautions),
    }
