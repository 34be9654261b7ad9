"""Every study and series of an input, from headers alone."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from spinemets.config import ReadingConfig
from spinemets.errors import NoUsableInputError, UnreadableFileError
from spinemets.io.archives import packed
from spinemets.io.dicom_headers import InstanceHeader, has_dicom_preamble, read_instance
from spinemets.io.dicom_series import list_dicom_series
from spinemets.io.file_series import list_file_studies
from spinemets.io.files import is_dicom_series, is_image_file
from spinemets.io.listing import IgnoredFile, StudyListing
from spinemets.io.selection import select_series
from spinemets.io.sources import InputFiles, open_files
from spinemets.io.weighting import native_if_silent

__all__ = ["discover"]

_log = logging.getLogger(__name__)

_OWN_RESULT = "a result of spinemets"
# As reporting/dicom writes it; what is in an archive may come back with the study it was made of.
_OWN_MANUFACTURER = "spinemets"
# Names under which DICOM files without the DICM preamble are met.
_BARE_DICOM_SUFFIXES = {"", ".dcm", ".dicom", ".ima"}
_KNOWN_OTHERS = {
    ".zip": "an archive within the input; pass it by itself",
    ".hdr": "Analyze or a NIfTI pair; convert it to .nii.gz",
    ".img": "Analyze or a NIfTI pair; convert it to .nii.gz",
    ".raw": "the voxels of another file",
    ".zraw": "the voxels of another file",
}


def discover(path: Path, config: ReadingConfig | None = None) -> tuple[StudyListing, ...]:
    """List every study of a file, a folder tree or a ``.zip``, and say which series are used.

    Only headers are read. DICOM series are parted and judged as ``dicom_series`` says, other files
    make up studies as ``file_names`` says, and ``selection`` chooses among the series of a study.

    Parameters
    ----------
    config
        What counts as too few slices, and so on; the defaults where it is None.

    Returns
    -------
    tuple of StudyListing
        Ordered by place. Series that are used come first in each, best first. Every study
        names the ignored files of the whole input, results of spinemets among them. The files
        of a ``.zip`` are not there any more; ``read_study`` unpacks what it needs.

    Raises
    ------
    NoUsableInputError
        There is no such input, or no image in it.
    UnreadableFileError
        A single file that is damaged or of no known format; an archive that is damaged.
    UnsupportedInputError
        An archive that is encrypted, too large or unsafe.
    """
    config = config or ReadingConfig()
    with open_files(path) as source:
        return _discover(path, source, config)


def _discover(path: Path, source: InputFiles, config: ReadingConfig) -> tuple[StudyListing, ...]:
    instances: list[InstanceHeader] = []
    images: list[Path] = []
    ignored = [IgnoredFile(folder, _OWN_RESULT) for folder in source.results]
    ignored += [IgnoredFile(folder, reason) for folder, reason in source.not_entered]
    for file in source.paths:
        if _is_no_stored_file(file):
            ignored.append(IgnoredFile(file, "a pipe, a socket or a device"))
            continue
        if is_image_file(file):
            images.append(file)
            continue
        try:
            reason = _not_dicom_reason(file)
            instance = None if reason else read_instance(file)
        except (UnreadableFileError, OSError) as error:
            ignored.append(IgnoredFile(file, str(error), damaged=_is_marked_dicom(file)))
            continue
        if instance is None:
            ignored.append(IgnoredFile(file, reason))
        elif instance.manufacturer == _OWN_MANUFACTURER:
            ignored.append(IgnoredFile(file, _OWN_RESULT))
        else:
            instances.append(instance)
    file_studies, labels = list_file_studies(images, config)
    ignored += labels
    studies = [*_list_dicom_studies(instances, config), *file_studies]
    if not studies:
        raise _nothing_found(path, ignored)
    _log.info("%d studies found, %d files ignored", len(studies), len(ignored))
    for reason, count in Counter(reason for _, reason in source.not_entered).items():
        _log.warning("%d part(s) of the input were not looked into: %s", count, reason)
    damaged = _damaged_beside(studies, [entry.path for entry in ignored if entry.damaged])
    listings = (
        replace(
            study,
            series=select_series(study.series, config),
            ignored=tuple(ignored),
            damaged=damaged[study.study_uid],
        )
        for study in studies
    )
    if source.unpacked is None:
        return tuple(listings)
    return tuple(packed(listing, path, source.unpacked) for listing in listings)


def _damaged_beside(studies: Sequence[StudyListing], files: Sequence[Path]) -> Counter[str]:
    """How many damaged files each DICOM study may have lost: those in its folders, or else below them."""
    folders = {
        study.study_uid: {file.parent for entry in study.series for file in entry.series.files}
        for study in studies
        if any(is_dicom_series(entry.series) for entry in study.series)
    }
    beside: Counter[str] = Counter()
    stray = 0
    for file in files:
        near = [uid for uid, own in folders.items() if file.parent in own] or [
            uid for uid, own in folders.items() if file.is_relative_to(os.path.commonpath(own))
        ]
        beside.update(near)
        stray += not near
    if stray:
        _log.warning("%d unreadable DICOM file(s) lie beside no study that was found", stray)
    return beside


def _is_no_stored_file(path: Path) -> bool:
    """Whether it is a pipe or the like, whose reading may never end; False for what is not there."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _not_dicom_reason(path: Path) -> str:
    """Why a file is passed over; empty for one to be read as DICOM."""
    if path.name.upper() == "DICOMDIR":
        return "a DICOM directory; the files themselves are read"
    if has_dicom_preamble(path):
        return ""
    suffix = path.suffix.lower()
    if suffix in _BARE_DICOM_SUFFIXES:
        return "" if path.stat().st_size > 256 else "too small for an image"
    return _KNOWN_OTHERS.get(suffix, "not a medical image")


def _is_marked_dicom(path: Path) -> bool:
    try:
        return has_dicom_preamble(path)
    except OSError:
        return True


def _list_dicom_studies(instances: Sequence[InstanceHeader], config: ReadingConfig) -> Iterable[StudyListing]:
    studies: dict[str, dict[str, list[InstanceHeader]]] = {}
    for instance in instances:
        studies.setdefault(instance.study_uid, {}).setdefault(instance.series_uid, []).append(instance)
    for study_uid, found in studies.items():
        groups = _with_study_contrast(found.values())
        ordered = sorted(groups, key=lambda group: (group[0].series_number is None, group[0].series_number))
        members = [instance for group in ordered for instance in group]
        yield StudyListing(
            study_uid=study_uid,
            description=next((one.study_description for one in members if one.study_description), ""),
            series=tuple(listing for group in ordered for listing in list_dicom_series(group, config)),
            patient_id=members[0].patient_id,
            study_date=members[0].study_date,
            source=_common_folder([instance.path for instance in members]),
        )


def _with_study_contrast(groups: Iterable[list[InstanceHeader]]) -> Iterable[list[InstanceHeader]]:
    """The series of a study, each told what the others say of contrast agent."""
    native = native_if_silent(instance.acquisition for group in groups for instance in group)
    return [
        [
            replace(instance, acquisition=replace(instance.acquisition, contrast_named_in_study=True))
            if instance.acquisition in native
            else instance
            for instance in group
        ]
        for group in groups
    ]


def _common_folder(paths: Sequence[Path]) -> Path:
    if len(paths) == 1:
        return paths[0]
    return Path(os.path.commonpath([str(path.parent) for path in paths]))


def _nothing_found(path: Path, ignored: Sequence[IgnoredFile]) -> NoUsableInputError | UnreadableFileError:
    if any(entry.reason == _OWN_RESULT for entry in ignored):
        return NoUsableInputError(f"{path}: holds results of spinemets only; pass the scans themselves")
    if len(ignored) == 1 and ignored[0].path == path:
        return UnreadableFileError(f"{path}: {ignored[0].reason}; a DICOM, NIfTI, NRRD or MHA file is needed")
    reasons = Counter(entry.reason.split(": ")[-1] for entry in ignored)
    words = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5)) or "it is empty"
    return NoUsableInputError(f"{path}: no DICOM, NIfTI, NRRD or MHA image found ({words})")
