"""Where a reader finds a lesion in the source images: its slices, and its side of the midline."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from spinemets.findings import Lesion, LesionFinding, LesionPlace, Side
from spinemets.spinal_axis import SpinalAxis
from spinemets.volume import Grid, Series

__all__ = ["counted_axis", "lesion_places"]

_MIDLINE_MM = 3.0  # less than a sagittal slice is thick
_BESIDE_MM = 5.0  # half a canal's width: a lesion of the cord alone is on neither side
_SHARE_OF_EITHER = 0.2


def lesion_places(
    findings: Iterable[LesionFinding], grid: Grid, series: Series, axis: SpinalAxis | None
) -> Mapping[int, LesionPlace]:
    """The place of every lesion in the reference series, by its number; no side without an axis."""
    lesions = [finding.lesion for finding in findings]
    return {lesion.number: _place(lesion, grid, series, axis) for lesion in lesions}


def counted_axis(series: Series, grid: Grid) -> int:
    """The array axis that counts a series' slices: the first in DICOM, else the one across its plane."""
    return 0 if len(series.files) > 1 or series.frames else grid.slice_axis


def _place(lesion: Lesion, grid: Grid, series: Series, axis: SpinalAxis | None) -> LesionPlace:
    along = counted_axis(series, grid)
    slices = lesion.voxels[:, along]
    fullest = int(np.bincount(slices).argmax())
    return LesionPlace(
        int(slices.min()) + 1,
        int(slices.max()) + 1,
        grid.shape[along],
        _instance_number(series, fullest, grid.shape[along]),
        None if axis is None else _side(axis.project(grid.to_world(lesion.voxels))[:, 2]),
    )


def _side(rightward_mm: np.ndarray) -> Side:
    """The side of a lesion whose voxels lie so far to the right of the midline."""
    if min((rightward_mm > _BESIDE_MM).mean(), (rightward_mm < -_BESIDE_MM).mean()) >= _SHARE_OF_EITHER:
        return "both"
    middle = float(np.median(rightward_mm))
    if abs(middle) <= _MIDLINE_MM:
        return "midline"
    return "right" if middle > 0 else "left"


def _instance_number(series: Series, place: int, count: int) -> int | None:
    """What an archive calls a slice; None where slices were interpolated, so that files do not tell.

    Frames are numbered in the one file that holds them; where each lies in a file of its own, files are.
    """
    if len(series.frames) == count and len(series.files) == 1:
        return series.frames[place] + 1
    if len(series.files) != count or count == 1:
        return None
    return _written_number(series.files[place])


def _written_number(path: Path) -> int | None:
    import pydicom

    try:
        wanted = ["InstanceNumber"]
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted)
        return int(header.InstanceNumber)
    except (OSError, EOFError, LookupError, AttributeError, TypeError, ValueError, struct.error):
        return None
