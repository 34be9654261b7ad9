"""How far the spine goes on, in the image, beyond the first and the last recognised vertebra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.findings import Vertebra
from spinemets.segmented import SpineSegmentation
from spinemets.spinal_axis import SpinalAxis
from spinemets.voxels import SAMPLED_VOXELS, voxels_of

__all__ = ["extent_cautions"]

_USUAL_PITCH_MM = 30.0  # from one body's centre to the next, where there is but one
_NEIGHBOURS = 3  # at either end, whose pitch tells how high a vertebra is there
_UNSEEN_PITCHES = 1.5  # a vertebra that the image's edge cuts is not missed
_BIN_MM = 5.0
_LEAST_SECTION_MM2 = 30.0  # half a cord's: less is an island
_UNNAMED = (
    "The image shows about {length:.0f} cm of spine {where} in which no vertebra was recognised: "
    "lesions there are not reported reliably."
)


def extent_cautions(
    segmentation: SpineSegmentation, vertebrae: Sequence[Vertebra], axis: SpinalAxis | None
) -> Iterator[str]:
    """A sentence for either end beyond which more than 1.5 vertebrae's height of spine is labelled.

    Nothing is expected above C2 or beside the sacrum, whose label ends the column.
    """
    if axis is None or not vertebrae:
        return
    heights = axis.project([vertebra.centroid_mm for vertebra in vertebrae])[:, 0]
    labelled = _labelled_heights(segmentation, axis)
    first, last = vertebrae[0].level, vertebrae[-1].level
    if first > VertebralLevel.C2:
        pitch = _pitch_mm(heights[: _NEIGHBOURS + 1])
        beyond = heights[0] - pitch / 2 - labelled
        yield from _unnamed(beyond[beyond > 0], pitch, f"above {first.value}")
    if last.region is not SpineRegion.SACRAL:
        pitch = _pitch_mm(heights[-_NEIGHBOURS - 1 :])
        beyond = labelled - heights[-1] - pitch / 2
        yield from _unnamed(beyond[beyond > 0], pitch, f"below {last.value}")


def _unnamed(beyond_mm: np.ndarray, pitch_mm: float, where: str) -> Iterator[str]:
    """The caution, where the labelled pieces at these distances are long enough in all."""
    if len(beyond_mm) * _BIN_MM > _UNSEEN_PITCHES * pitch_mm:
        yield _UNNAMED.format(length=(beyond_mm.max() + _BIN_MM / 2) / 10, where=where)


def _pitch_mm(heights: np.ndarray) -> float:
    return float(np.median(np.diff(heights))) if len(heights) > 1 else _USUAL_PITCH_MM


def _labelled_heights(segmentation: SpineSegmentation, axis: SpinalAxis) -> np.ndarray:
    """Arc lengths, in mm, at which a piece of spine is labelled that is no island; shape (n,)."""
    grid = segmentation.grid
    mask = segmentation.anatomy > 0
    voxels = voxels_of(mask, SAMPLED_VOXELS)
    each_mm3 = grid.voxel_volume_mm3 * np.count_nonzero(mask) / max(1, len(voxels))
    bins = np.floor(axis.project(grid.to_world(voxels))[:, 0] / _BIN_MM).astype(np.intp)
    first = int(bins.min())
    sections_mm2 = np.bincount(bins - first) * each_mm3 / _BIN_MM
    return (np.flatnonzero(sections_mm2 > _LEAST_SECTION_MM2) + first + 0.5) * _BIN_MM
