"""What a result follows from, as checksums: the study's content, the model, the settings.

DICOM studies are told by their identifiers and file sizes, image files by every byte.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets import __version__
from spinemets.batch.records import Stamp
from spinemets.errors import SpinemetsError

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
        return _checksum([study.source.name, *_sizes([study.source])])
    series = sorted(_series_checksum(entry) for entry in study.found.series)
    return _checksum([study.found.study_uid, *series])


def _series_checksum(entry: SeriesListing) -> str:
    files = entry.series.files
    if entry.stack is None and len(files) == 1:
        # An image file has no identifier of its own; a changed voxel need not change its size.
        return _checksum([entry.series.description, _file_checksum(files[0])])
    return _checksum([entry.series.series_uid, entry.series.description, *_sizes(files)])


def _sizes(files: tuple[Path, ...] | list[Path]) -> list[str]:
    return [str(file.stat().st_size) if file.is_file() else "" for file in files]


def _file_checksum(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _checksum(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
