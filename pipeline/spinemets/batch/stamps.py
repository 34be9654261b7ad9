"""What a result follows from, as checksums: the study's content, the model, the settings.

DICOM studies are told by their identifiers and file sizes, image files by every byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets import __version__
from spinemets.batch.records import Stamp
from spinemets.errors import SpinemetsError
from spinemets.io import is_dicom_series

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy
    from spinemets.config import DetectionConfig
    from spinemets.io import SeriesListing

__all__ = ["stamp_of"]


def stamp_of(study: PlannedStudy, model_sha256: str, config: DetectionConfig) -> Stamp:
    """The stamp that a study's result will have under this model and these settings."""
    # The device decides where a result is computed, not what it is.
    settings = config.model_dump_json(exclude={"segmentation": {"device"}})
    return Stamp(
        input=_input_checksum(study),
        model=model_sha256,
        settings=hashlib.sha256(settings.encode()).hexdigest(),
        version=__version__,
    )


def _input_checksum(study: PlannedStudy) -> str:
    if isinstance(study.found, SpinemetsError):
        return _checksum([study.source.name, *_sizes([study.source], {})])
    sizes = study.found.archive.sizes if study.found.archive else {}
    series = sorted(_series_checksum(entry, sizes) for entry in study.found.series)
    return _checksum([study.found.study_uid, *series])


def _series_checksum(entry: SeriesListing, sizes: Mapping[Path, int]) -> str:
    # The identifier of an image file is made from every byte of it.
    files = entry.series.files if is_dicom_series(entry.series) else ()
    return _checksum([entry.series.series_uid, entry.series.description, *_sizes(files, sizes)])


def _sizes(files: Iterable[Path], known: Mapping[Path, int]) -> list[str]:
    """The sizes of files; of those in an archive, as they were when it was looked through."""
    return [str(known.get(file) or _size(file)) for file in files]


def _size(file: Path) -> str:
    """Of a file; empty where there is none, or its disk does not say."""
    try:
        return str(file.stat().st_size) if file.is_file() else ""
    except OSError:
        return ""


def _checksum(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
