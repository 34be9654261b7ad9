"""Where a reader finds a lesion in the source images: its slices, and its side of the midline."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.findings import Lesion, LesionFinding, LesionPlace, Side
from spinemets.segmented import SpineSegmentation
from spinemets.spinal_axis import SpinalAxis
from spinemets.volume import Grid, Series
from spinemets.voxels import SAMPLED_VOXELS, voxels_of

__all__ = ["counted_axis", "lesion_places"]

_MIDLINE_MM = 3.0  # less than a sagittal slice is thick
_BESIDE_MM = 5.0  # half a canal's width: a lesion of the cord alone is on neither side
_SHARE_OF_EITHER = 0.2
_TURN_REACH_MM = 40.0  # above and below a lesion: a scoliotic spine is turned by another angle elsewhere
_PROCESS_MM = 18.0  # behind the canal's middle: beyond it, arches are spinous processes for the most part

Array = npt.NDArray[np.float64]


def lesion_places(
    findings: Iterable[LesionFinding],
    segmentation: SpineSegmentation,
    series: Series,
    axis: SpinalAxis | None,
) -> Mapping[int, LesionPlace]:
    """The place of every lesion in the reference series, by its number; no side without an axis."""
    lesions = [finding.lesion for finding in findings]
    if axis is None or not lesions:
        return {lesion.number: _place(lesion, segmentation.grid, series, None) for lesion in lesions}
    midplane = _Midplane.of(segmentation, axis)
    return {
        lesion.number: _place(lesion, segmentation.grid, series, midplane.side(lesion)) for lesion in lesions
    }


def counted_axis(series: Series, grid: Grid) -> int:
    """The array axis that counts a series' slices: the first in DICOM, else the one across its plane."""
    return 0 if len(series.files) > 1 or series.frames else grid.slice_axis


def _place(lesion: Lesion, grid: Grid, series: Series, side: Side | None) -> LesionPlace:
    along = counted_axis(series, grid)
    slices = lesion.voxels[:, along]
    fullest = int(np.bincount(slices).argmax())
    return LesionPlace(
        int(slices.min()) + 1,
        int(slices.max()) + 1,
        grid.shape[along],
        _instance_number(series, fullest, grid.shape[along]),
        side,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Midplane:
    """The plane between the spine's right and left: through the canal's middle, turned as the spine is.

    Attributes
    ----------
    bodies_mm, processes_mm
        Shape (n, 3): bodies, and what of the arches lies well behind the canal, along and across the axis.
    """

    axis: SpinalAxis
    bodies_mm: Array
    processes_mm: Array

    @classmethod
    def of(cls, segmentation: SpineSegmentation, axis: SpinalAxis) -> _Midplane:
        bodies, arches = (
            axis.project(
                segmentation.grid.to_world(voxels_of(segmentation.anatomy == structure, SAMPLED_VOXELS))
            )
            for structure in (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS)
        )
        return cls(axis, bodies, arches[arches[:, 1] < -_PROCESS_MM])

    def side(self, lesion: Lesion) -> Side:
        """The side of a lesion."""
        along, front, right = self.axis.project(lesion.grid.to_world(lesion.voxels)).T
        turn = self._turn(float(along.mean()))
        return _side(right * np.cos(turn) - front * np.sin(turn))

    def _turn(self, along_mm: float) -> float:
        """By how many radians the spine's front is turned to the right, at a height along the axis.

        The lesser of what the bodies and the processes say, and nothing where they disagree: the edge of
        a narrow image moves both to one side, a turn moves them to opposite ones.
        """
        turns = []
        for where_mm, sign in ((self.bodies_mm, 1.0), (self.processes_mm, -1.0)):
            near = where_mm[np.abs(where_mm[:, 0] - along_mm) < _TURN_REACH_MM]
            if not len(near):
                return 0.0
            front, right = sign * near[:, 1:].mean(axis=0)
            turns.append(float(np.arctan2(right, front)))
        return 0.0 if min(turns) < 0 < max(turns) else min(turns, key=abs)


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
