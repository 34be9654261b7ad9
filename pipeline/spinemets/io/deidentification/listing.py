"""A listed study as its de-identified copy: every name, path, identifier and sentence made anew.

What reads the copy's listing cannot pass on what identifies, since it never meets it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from spinemets.errors import InputError, UnsupportedInputError
from spinemets.io.archives import unpacked
from spinemets.io.deidentification.dicom_copy import copy_dicom
from spinemets.io.deidentification.header import Disguise
from spinemets.io.deidentification.image_copy import copy_image, copy_suffix
from spinemets.io.deidentification.pseudonyms import Pseudonyms
from spinemets.io.files import is_dicom_series, is_image_file
from spinemets.io.listing import Rejection, SeriesListing, StudyListing
from spinemets.volume import Series, Weighting

__all__ = ["Deidentifier", "deidentified_copy", "recognised_words"]

# Read again, each gives the weighting it stands for.
_WEIGHTING_WORDS = {
    Weighting.T2_FS: "T2 FS",
    Weighting.T1_GD: "T1 Gd",
    Weighting.T1_FS_GD: "T1 FS Gd",
    Weighting.PD_FS: "PD FS",
    Weighting.DIXON_WATER: "Dixon water",
    Weighting.DIXON_FAT: "Dixon fat",
    Weighting.DIXON_IN_PHASE: "Dixon in phase",
    Weighting.DIXON_OUT_OF_PHASE: "Dixon opposed phase",
    Weighting.UNKNOWN: "",
}
# Times alone would make a T1 of these: what spoke against it must be said again.
_UNKNOWN_WORDS = {"T1": "T1 FS native", "T2star": "T2star"}
# What else is read again for what it was, by the reason for which it is not used.
_KIND_WORDS = {
    "a projection": "MIP",
    "a reformatted image": "reformatted",
    "a subtraction": "subtraction",
    "a diffusion map": "ADC",
    "a parameter map": "T2 map",
    "diffusion-weighted": "diffusion",
    "perfusion": "perfusion",
    "functional": "fMRI",
    "flow or angiography": "flow",
    "a myelography": "myelography",
    "magnetisation transfer": "MTS",
    "FLAIR": "FLAIR",
    "a localiser": "localiser",
}
_KINDS = (Rejection.LOCALISER, Rejection.DERIVED, Rejection.CONTRAST)


@dataclass(frozen=True, slots=True)
class Deidentifier:
    """How studies are de-identified.

    Attributes
    ----------
    retain
        Options of the profile: "dates" (shifted), "device".
    """

    pseudonyms: Pseudonyms
    retain: frozenset[str] = frozenset()

    def study_name(self, listing: StudyListing) -> str:
        """The folder's name of a study: the same wherever its files lie."""
        return self.pseudonyms.study_name(listing.study_uid)


def deidentified_copy(
    listing: StudyListing, folder: Path, deidentifier: Deidentifier, *, everything: bool = False
) -> StudyListing:
    """Copy the images of a study without identifiers, and list the copy.

    The copy's series keep weighting, plane and place as they were recognised, and the reasons for
    which others are not used, in general words.

    Parameters
    ----------
    folder
        Each series gets a folder of its own in it.
    everything
        Whether localisers and other images that are never analysed are copied too.

    Returns
    -------
    StudyListing
        Its series that could not be copied are rejected, and nothing is left of them.

    Raises
    ------
    OutputError
        The copy cannot be written.
    """
    copier = _Copier(listing, folder, deidentifier)
    with unpacked(listing) as at_hand:
        series = tuple(copier.copy(entry, everything=everything) for entry in at_hand.series)
    return StudyListing(
        study_uid=deidentifier.pseudonyms.uid(listing.study_uid),
        description="",
        series=series,
        patient_id=deidentifier.pseudonyms.patient(listing.patient_id or listing.study_uid),
        study_date=copier.study_date,
        source=Path(deidentifier.study_name(listing)),
        damaged=listing.damaged,
    )


class _Copier:
    """Copies one study, every file of it once."""

    def __init__(self, listing: StudyListing, folder: Path, deidentifier: Deidentifier) -> None:
        self._folder, self._deidentifier = folder, deidentifier
        self._patient = listing.patient_id or listing.study_uid
        self._copies: dict[Path, Path] = {}
        self._counts: Counter[Path] = Counter()
        self._names: set[tuple[str, str]] = set()
        self.study_date = ""

    def copy(self, entry: SeriesListing, *, everything: bool) -> SeriesListing:
        """The entry of the copy; rejected, and without files, where there is none."""
        series = self._described(entry)
        bare = replace(entry, series=series, reason=_reason(entry), stack=None)
        if not (entry.is_sound or (everything and is_dicom_series(entry.series))):
            return bare
        try:
            self._copy_files(entry.series.files, series)
        except InputError as error:
            kind = Rejection.UNSUPPORTED if isinstance(error, UnsupportedInputError) else Rejection.UNREADABLE
            return bare.rejected(kind, str(error))
        files = tuple(self._copies[path] for path in entry.series.files)
        stack = entry.stack
        if stack is not None:
            slices = tuple(
                None if header is None else replace(header, path=self._copies[header.path], sop_uid="")
                for header in stack.slices
            )
            stack = replace(stack, slices=slices)
        source = files[0] if len(files) == 1 else files[0].parent
        return replace(bare, series=replace(series, files=files, source=source), stack=stack)

    def _copy_files(self, files: Iterable[Path], series: Series) -> None:
        """Copy what is not there yet; all of a series or nothing of it."""
        copies: dict[Path, Path] = {}
        dates: list[str] = []
        try:
            for path in files:
                if path not in self._copies:
                    copies[path] = self._target(path, series)
                    dates.append(self._copy_file(path, copies[path], series))
        except InputError:
            for target in copies.values():
                target.unlink(missing_ok=True)
                if target.parent.is_dir() and not any(target.parent.iterdir()):
                    target.parent.rmdir()
            raise
        self._copies |= copies
        self.study_date = next(filter(None, dates), self.study_date)

    def _target(self, path: Path, series: Series) -> Path:
        """Where a file's copy goes: a place that no other copy has."""
        if is_image_file(path):
            # Files of one study lie in one folder, and their names tell the weighting.
            stem = self._folder / "series-images" / re.sub(r"\W+", "_", _recognised(series))
            self._counts[stem] += 1
            return stem.with_name(f"{stem.name}_{self._counts[stem]}{copy_suffix(path)}")
        number = series.number if series.number is not None else 0
        folder = self._folder / f"series-{number:02d}-{series.series_uid[-6:]}"
        self._counts[folder] += 1
        return folder / f"{self._counts[folder]:04d}.dcm"

    def _copy_file(self, path: Path, target: Path, series: Series) -> str:
        """Copy one file; the copy's Study Date, where it has one."""
        if is_image_file(path):
            copy_image(path, target)
            return ""
        pseudonyms, retain = self._deidentifier.pseudonyms, self._deidentifier.retain
        return copy_dicom(path, target, Disguise(pseudonyms, retain, self._patient, _recognised(series)))

    def _described(self, entry: SeriesListing) -> Series:
        """The series with nothing but what was recognised of it, told apart from its likes."""
        series, pseudonyms = entry.series, self._deidentifier.pseudonyms
        uid = pseudonyms.uid(series.series_uid)
        words = recognised_words(entry)
        description, part = words, 1
        while (uid, description) in self._names:
            part += 1
            description = f"{words} [part {part}]"
        self._names.add((uid, description))
        frame = series.frame_of_reference_uid
        return Series(
            study_uid=pseudonyms.uid(series.study_uid),
            series_uid=uid,
            description=description,
            number=series.number,
            weighting=series.weighting,
            plane=series.plane,
            frame_of_reference_uid=pseudonyms.uid(frame) if frame else "",
            modality=series.modality,
            frames=series.frames,
            cautions=series.cautions,
        )


def _recognised(series: Series) -> str:
    """A series' new description without what tells it from its likes."""
    return series.description.split(" [")[0]


def recognised_words(entry: SeriesListing) -> str:
    """A description from what was recognised, which reading it again recognises too."""
    if entry.rejection in _KINDS:
        return next((word for kind, word in _KIND_WORDS.items() if kind in entry.reason), "other")
    weighting = entry.series.weighting
    words = _WEIGHTING_WORDS.get(weighting, weighting.value)
    if weighting is Weighting.UNKNOWN:
        words = _UNKNOWN_WORDS.get(entry.contrast, words)
    elif words.startswith("Dixon"):
        words = f"{entry.contrast} {words}".strip()
    return f"{words} {entry.series.plane.value}".strip()


def _reason(entry: SeriesListing) -> str:
    """Why a series is not used, without the words of its header."""
    return "" if entry.rejection is None else entry.rejection.value
