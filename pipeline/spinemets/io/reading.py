"""From a listed study to its volumes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError, InputError, UnreadableFileError, UnsupportedInputError
from spinemets.io.archives import unpacked
from spinemets.io.dicom_pixels import read_stack
from spinemets.io.files import read_image
from spinemets.io.listing import Rejection, SeriesListing, StudyListing
from spinemets.io.selection import select_series, share_frame
from spinemets.volume import Plane, Study, Volume

__all__ = ["read_study"]

_log = logging.getLogger(__name__)

_Key = tuple[tuple[Path, ...], tuple[int, ...]]


def read_study(listing: StudyListing, config: ReadingConfig) -> Study:
    """Read the series of a study that are used, best first.

    The choice is made again under ``config``, so a listing made with other settings may be given.
    A series that turns out unreadable gives way to the next best of its kind. What lies in a
    ``.zip`` is unpacked for as long as it is read.

    Raises
    ------
    GeometryError
        Nothing is usable, and a series was refused for its geometry (missing slices, ...).
    UnsupportedInputError, UnreadableFileError, NoUsableInputError
        Nothing is usable for another reason; the message names every series.
    """
    with unpacked(listing) as at_hand:
        return _read_study(at_hand, config)


def _read_study(listing: StudyListing, config: ReadingConfig) -> Study:
    entries = tuple(_judged_again(entry, config) for entry in listing.series)
    volumes: dict[_Key, Volume] = {}
    while True:
        entries = select_series(entries, config)
        unread = next((entry for entry in entries if entry.kept and _key(entry) not in volumes), None)
        if unread is None:
            break
        try:
            volumes[_key(unread)] = _read_series(unread)
        except InputError as error:
            _log.warning("%s is not used: %s", unread.series.name, error)
            entries = tuple(
                entry.rejected(_kind_of(error), str(error)) if entry is unread else entry for entry in entries
            )
    kept = [entry for entry in entries if entry.kept]
    if not kept:
        raise _nothing_usable(listing, entries)
    return Study(
        uid=listing.study_uid,
        volumes=tuple(volumes[_key(entry)] for entry in kept),
        description=listing.description,
        patient_id=listing.patient_id,
        study_date=listing.study_date,
        rejected=tuple((entry.series.name, entry.reason) for entry in entries if not entry.kept),
        cautions=_study_cautions(listing, entries),
    )


def _judged_again(entry: SeriesListing, config: ReadingConfig) -> SeriesListing:
    """The entry under these settings, which may allow what the listing's did not."""
    if entry.rejection is Rejection.MISSING_SLICES and config.allow_missing:
        return entry.accepted()
    if entry.kept and entry.stack is not None and entry.stack.missing and not config.allow_missing:
        return entry.rejected(Rejection.MISSING_SLICES, f"{entry.stack.gaps}; pass --allow-missing")
    return entry


def _key(entry: SeriesListing) -> _Key:
    """What no two series share; a mixed series UID and its description may be those of several."""
    return entry.series.files, entry.series.frames


def _read_series(entry: SeriesListing) -> Volume:
    if entry.stack is None:
        array, header = read_image(entry.series.files[0])
        return Volume(array, header.grid, replace(entry.series, cautions=header.cautions))
    array, cautions = read_stack(entry.stack)
    if float(array.min()) == float(array.max()):
        raise UnsupportedInputError(
            f"{entry.series.name}: every pixel has the same value; there is nothing to see"
        )
    if not np.isfinite(array).all():
        raise UnreadableFileError(f"{entry.series.name}: its pixels are not all finite numbers")
    return Volume(array, entry.stack.grid, replace(entry.series, cautions=entry.series.cautions + cautions))


def _kind_of(error: InputError) -> Rejection:
    if isinstance(error, GeometryError):
        return Rejection.GEOMETRY
    return Rejection.UNSUPPORTED if isinstance(error, UnsupportedInputError) else Rejection.UNREADABLE


def _study_cautions(listing: StudyListing, entries: Sequence[SeriesListing]) -> tuple[str, ...]:
    cautions = []
    if listing.damaged:
        cautions.append(
            f"{listing.damaged} unreadable DICOM file(s) beside its own were left out; slices may be missing"
        )
    stations = [entry.series.name for entry in entries if entry.rejection is Rejection.STATION]
    if stations:
        cautions.append(
            f"other parts of the spine were imaged but are not part of this report: {', '.join(stations)}"
        )
    reference = entries[0].series
    elsewhere = [
        entry.series.name
        for entry in entries
        if entry.rejection is Rejection.DUPLICATE and not share_frame(entry.series, reference)
    ]
    if elsewhere:
        cautions.append(
            f"not part of this report, and may show another part of the spine: {', '.join(elsewhere)} "
            "(another frame of reference)"
        )
    if reference.plane is not Plane.SAGITTAL:
        cautions.append(
            f"no sagittal series: the {reference.plane.value} one is used, which shows levels less well"
        )
    return tuple(cautions)


def _nothing_usable(listing: StudyListing, entries: Sequence[SeriesListing]) -> InputError:
    """The error to raise, of the kind of the fault that stands nearest to a usable series."""
    order = list(Rejection)
    causes = [Rejection.MISSING_SLICES, Rejection.GEOMETRY, Rejection.UNREADABLE, Rejection.UNSUPPORTED]
    ranked = sorted(
        entries,
        key=lambda entry: (
            causes.index(entry.rejection) if entry.rejection in causes else 9 + order.index(_kind(entry))
        ),
    )
    reasons = "; ".join(f"{entry.series.name}: {entry.reason}" for entry in ranked) or "no series"
    kind = _kind(ranked[0]).error if ranked else InputError
    return kind(f"{listing.source.name}: no usable series ({reasons})" if len(ranked) != 1 else reasons)


def _kind(entry: SeriesListing) -> Rejection:
    return entry.rejection or Rejection.UNREADABLE
