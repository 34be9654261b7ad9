"""Image files to series and studies, by their names, headers and BIDS sidecars."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError, UnreadableFileError, UnsupportedInputError
from spinemets.io.dicom_series import too_few_reason
from spinemets.io.exclusions import exclusion
from spinemets.io.file_names import FileName, case_of_structure, image_stem, parse_file_name
from spinemets.io.files import is_label_map_by_header, read_image_header
from spinemets.io.listing import IgnoredFile, Rejection, SeriesListing, StudyListing
from spinemets.io.plain_words import plain_words
from spinemets.io.selection import head_foot_extent
from spinemets.io.weighting import (
    AcquisitionHeader,
    native_if_silent,
    underlying_contrast,
    weighting_from_header,
)
from spinemets.volume import Grid, Series

__all__ = ["list_file_studies"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    name: FileName
    uid: str


def list_file_studies(
    paths: Sequence[Path], config: ReadingConfig
) -> tuple[list[StudyListing], list[IgnoredFile]]:
    """List the studies that image files make up by the rules of ``file_names``.

    Label maps and files of a BIDS ``derivatives`` folder are ignored, unless that is all there is.
    """
    ignored = []
    images = []
    raw_exists = any("derivatives" not in path.parts for path in paths)
    names = {path: parse_file_name(path) for path in paths}
    cases: set[tuple[Path, str | None]] = {
        (path.parent, case) for path, name in names.items() for case in _case_names(path, name)
    }
    for path, name in names.items():
        if name.is_label_map or (path.parent, case_of_structure(path)) in cases:
            ignored.append(IgnoredFile(path, "a label map by its name"))
        elif "labels" in _sidecar(path):
            ignored.append(IgnoredFile(path, "a label map by its sidecar"))
        elif is_label_map_by_header(path, names_structure=case_of_structure(path) is not None):
            ignored.append(IgnoredFile(path, "a label map by its header"))
        elif raw_exists and "derivatives" in path.parts:
            ignored.append(IgnoredFile(path, "a BIDS derivative"))
        else:
            try:
                images.append(_Entry(path, name, _content_uid(path)))
            except OSError as error:
                ignored.append(IgnoredFile(path, f"{path.name}: cannot be read ({error.strerror})"))
    studies: dict[tuple[str, ...], list[_Entry]] = {}
    for image in images:
        studies.setdefault(image.name.study, []).append(image)
    return [_list_study(entries, config) for entries in studies.values()], ignored


def _case_names(path: Path, name: FileName) -> tuple[str, ...]:
    """What files of structures may begin with beside this image: "case01_T1", "case01"."""
    stem = image_stem(path)
    return stem, stem.removesuffix(name.contrast).strip("_- .")


def _content_uid(path: Path) -> str:
    """A UID made from every byte of the file; equal files have equal UIDs."""
    with path.open("rb") as file:
        return _uid(hashlib.file_digest(file, "sha256").digest())


def _uid(digest: bytes) -> str:
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _list_study(entries: Sequence[_Entry], config: ReadingConfig) -> StudyListing:
    study_uid = _uid(hashlib.sha256("".join(sorted(entry.uid for entry in entries)).encode()).digest())
    acquisitions = [_acquisition(entry) for entry in entries]
    native = native_if_silent(acquisitions)
    return StudyListing(
        study_uid=study_uid,
        description=entries[0].name.title,
        series=tuple(
            _list_file(
                entry,
                replace(acquisition, contrast_named_in_study=acquisition in native),
                study_uid,
                config,
            )
            for entry, acquisition in zip(entries, acquisitions, strict=True)
        ),
        source=_source([entry.path for entry in entries]),
    )


def _source(paths: Sequence[Path]) -> Path:
    """The file of a study of one; else the subject's folder, or the folder of the files."""
    if len(paths) == 1:
        return paths[0]
    subject = next((folder for folder in paths[0].parents if folder.name.startswith("sub-")), None)
    return subject or paths[0].parent


def _list_file(
    entry: _Entry, acquisition: AcquisitionHeader, study_uid: str, config: ReadingConfig
) -> SeriesListing:
    series = Series(
        study_uid=study_uid,
        series_uid=entry.uid,
        description=image_stem(entry.path),
        weighting=weighting_from_header(acquisition),
        source=entry.path,
        files=(entry.path,),
    )
    # Only words that stand out as a contrast are judged: a case may be called "sub_01" or "flow 7".
    # A protocol's name may be that of the whole examination, so what describes the series comes first.
    described = acquisition.original_description or acquisition.protocol
    words = f"{entry.name.contrast} {described}"
    excluded = _exclusion(replace(acquisition, description=words))
    if excluded:
        return SeriesListing(series).rejected(*excluded)
    try:
        header = read_image_header(entry.path)
    except UnsupportedInputError as error:
        return SeriesListing(series).rejected(Rejection.UNSUPPORTED, str(error))
    except GeometryError as error:
        return SeriesListing(series).rejected(Rejection.GEOMETRY, str(error))
    except UnreadableFileError as error:
        return SeriesListing(series).rejected(Rejection.UNREADABLE, str(error))
    grid = header.grid
    listing = SeriesListing(
        series=_placed(series, grid, header.cautions),
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        slices=grid.shape[grid.slice_axis],
        extent_mm=head_foot_extent(grid),
        contrast=underlying_contrast(acquisition),
    )
    if listing.slices < config.minimum_slices:
        return listing.rejected(Rejection.TOO_FEW_SLICES, too_few_reason(listing.slices, config))
    return listing


def _placed(series: Series, grid: Grid, cautions: tuple[str, ...]) -> Series:
    return replace(series, plane=grid.plane, cautions=cautions)


def _exclusion(acquisition: AcquisitionHeader) -> tuple[Rejection, str] | None:
    if "ct" in plain_words(acquisition.description).split():
        return Rejection.MODALITY, "modality CT by its name; only MR is analysed"
    return exclusion(acquisition)


def _acquisition(entry: _Entry) -> AcquisitionHeader:
    """The words of the name, with what a BIDS sidecar adds."""
    sidecar = _sidecar(entry.path)
    return AcquisitionHeader(
        description=entry.name.contrast or image_stem(entry.path),
        original_description=str(sidecar.get("SeriesDescription", "")),
        protocol=str(sidecar.get("ProtocolName", "")),
        image_type=_texts(sidecar.get("ImageType")),
        scanning_sequence=_texts(sidecar.get("ScanningSequence")),
        sequence_variant=_texts(sidecar.get("SequenceVariant")),
        scan_options=_texts(sidecar.get("ScanOptions")),
        repetition_time_ms=_milliseconds(sidecar.get("RepetitionTime")),
        echo_time_ms=_milliseconds(sidecar.get("EchoTime")),
        inversion_time_ms=_milliseconds(sidecar.get("InversionTime")),
        flip_angle_deg=_number(sidecar.get("FlipAngle")),
        contrast_agent=str(sidecar.get("ContrastBolusIngredient", "")),
    )


def _sidecar(path: Path) -> Mapping[str, object]:
    """The BIDS sidecar's fields; none where there is no sidecar or it is damaged."""
    sidecar = path.with_name(image_stem(path) + ".json")
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        _log.warning("a damaged sidecar was passed over: %s", sidecar)
        return {}
    return content if isinstance(content, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    """BIDS writes several values as a list, or joined as in "SE_IR" or "SE\\\\IR"."""
    if isinstance(value, str):
        return tuple(value.replace("\\", "_").split("_"))
    return tuple(str(part) for part in value) if isinstance(value, list) else ()


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:
        return None


def _milliseconds(value: object) -> float | None:
    seconds = _number(value)
    return None if seconds is None else 1000.0 * seconds
