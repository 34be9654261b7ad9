"""Labelled scans prepared once and kept on disk, read again when a sample is drawn from them.

Public data sets do not fit into memory, and reading their files takes longer than a sample.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from spinemets.errors import UnreadableFileError
from spinemets.training.datasets.cases import Case, Layout
from spinemets.training.scans import LabelledScan
from spinemets.training.study_files import write_arrays
from spinemets.volume import Weighting

__all__ = ["PackedScans", "pack"]

_log = logging.getLogger(__name__)
# Raise when a reader changes what it makes of the same files.
_VERSION = 3


class PackedScans(Sequence[LabelledScan]):
    """Scans on disk; each is loaded when it is asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> LabelledScan: ...
    @overload
    def __getitem__(self, index: slice) -> PackedScans: ...
    def __getitem__(self, index: int | slice) -> LabelledScan | PackedScans:
        """One scan, read from disk; or several, still there."""
        if isinstance(index, slice):
            return PackedScans(self._paths[index])
        return _load(self._paths[index])


def pack(layout: Layout, cases: Sequence[Case], folder: Path) -> PackedScans:
    """Prepare cases that are not in ``folder`` yet; those that have not changed stay.

    Raises
    ------
    InputError
        A case cannot be read; names its file and the reason.
    OutputError
        What was prepared cannot be written.
    """
    paths = []
    for number, case in enumerate(cases, start=1):
        path = folder / f"{case.name}_{_fingerprint(case)}.npz"
        if not path.exists():
            _store(layout.read(case), path)
            _log.info("prepared scan %d of %d", number, len(cases))
        paths.append(path)
    return PackedScans(paths)


def _fingerprint(case: Case) -> str:
    """Of the case's files, by size and time of change."""
    facts: list[object] = [_VERSION, case.weighting.value, sorted(case.label_names.items())]
    for key, path in sorted(case.files.items()):
        try:
            found = path.stat()
        except OSError as error:
            raise UnreadableFileError(f"{path}: cannot be read ({error.strerror})") from error
        facts.append((key, str(path), found.st_size, found.st_mtime_ns))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _store(scan: LabelledScan, path: Path) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "image": scan.image,
        "allowed": scan.allowed,
        "structures": scan.structures,
    }
    if scan.lesions is not None:
        arrays["lesions"] = scan.lesions
    arrays["spacing_mm"] = np.array(scan.spacing_mm)
    arrays["weighting"], arrays["subject"] = np.array(scan.weighting.value), np.array(scan.subject)
    write_arrays(path, arrays)


def _load(path: Path) -> LabelledScan:
    with np.load(path) as stored:
        x, y, z = (float(step) for step in stored["spacing_mm"])
        return LabelledScan(
            subject=str(stored["subject"]),
            image=stored["image"],
            allowed=stored["allowed"],
            structures=stored["structures"],
            spacing_mm=(x, y, z),
            weighting=Weighting(str(stored["weighting"])),
            lesions=stored.get("lesions"),
        )
