"""The vertebral levels that a lesion touches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from spinemets.anatomy import Structure, VertebralLevel
from spinemets.arches import arch_drop_mm, pitch_at
from spinemets.config import ClassificationConfig
from spinemets.findings import Vertebra
from spinemets.segmented import SpineSegmentation
from spinemets.spinal_axis import SpinalAxis
from spinemets.volume import Mask
from spinemets.voxels import SAMPLED_VOXELS, box_around, corner, voxels_of, widened

__all__ = ["LevelsTouched", "find_levels", "touches"]

Array = npt.NDArray[np.float64]
_Extent = tuple[int, float, float]

_CANAL_RADIUS_MM = 9.0  # outside of it, what touches bone is that bone's; behind it lie arches
_TOUCHING_MM = 4.0
_BEYOND_END = 0.75  # body heights above the first and below the last vertebra that still count
_HALF_DISC = 0.15  # of a body's height: there the arches of the vertebra above begin
_NOTHING_ABOVE = (VertebralLevel.C1, VertebralLevel.C2)
_REACH_MM = 65.0  # from the canal's centre


@dataclass(frozen=True, slots=True)
class LevelsTouched:
    """Vertebrae a lesion touches, head to foot, and the one that holds most of it.

    ``hangs_from_above`` where it rather is in the arch of one whose body lies above the view.
    """

    vertebrae: tuple[Vertebra, ...]
    main: Vertebra | None
    hangs_from_above: bool = False


def find_levels(
    lesion_voxels: npt.NDArray[np.int32],
    lesion_mm: Array,
    segmentation: SpineSegmentation,
    axis: SpinalAxis,
    vertebrae: tuple[Vertebra, ...],
    config: ClassificationConfig,
) -> LevelsTouched:
    """Count a lesion's voxels by vertebra.

    A voxel inside a vertebra counts for it, and one outside the canal for bone that it nearly
    touches. Any other counts for the vertebra at its height along the canal, with the border
    between two in the middle of their disc; behind the canal, for the one whose arch hangs down
    there. A level is touched by at least ``level_share`` of the lesion or ``level_volume_mm3`` of it.

    Parameters
    ----------
    lesion_voxels, lesion_mm
        Shapes (n, 3): indices on the segmentation's grid, and places along and across its axis.
    """
    known = [vertebra.instance for vertebra in vertebrae]
    if not known:
        return LevelsTouched((), None)
    row_of = np.full(256, -1, dtype=np.intp)
    row_of[known] = np.arange(len(known))
    owner = row_of[segmentation.vertebrae[tuple(lesion_voxels.T)]]
    outside = (owner < 0) & (np.hypot(lesion_mm[:, 1], lesion_mm[:, 2]) > _CANAL_RADIUS_MM)
    owner[outside] = _by_touch(lesion_voxels[outside], segmentation, row_of)
    loose = owner < 0
    extents = _extents(segmentation, axis, row_of)
    owner[loose] = _by_height(lesion_mm[loose], extents)
    counts = np.bincount(owner[owner >= 0], minlength=len(known))
    if counts.sum() == 0:
        return LevelsTouched((), None)
    enough = touches(counts, len(lesion_voxels), segmentation.grid.voxel_volume_mm3, config)
    main = int(counts.argmax())
    touched = tuple(vertebrae[row] for row in np.flatnonzero(enough))
    return LevelsTouched(touched, vertebrae[main], _hangs_from_above(lesion_mm, extents, vertebrae))


def touches(
    counts: npt.NDArray[np.intp], voxels: int, voxel_mm3: float, config: ClassificationConfig
) -> npt.NDArray[np.bool_]:
    """Which levels a lesion of so many voxels touches, by its voxels in each: the fullest in any case."""
    enough = (counts >= config.level_share * voxels) | (counts * voxel_mm3 >= config.level_volume_mm3)
    enough[counts.argmax()] = True
    return np.asarray(enough & (counts > 0))


def _by_touch(
    voxels: npt.NDArray[np.int32], segmentation: SpineSegmentation, row_of: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Row of the nearest vertebra within ``_TOUCHING_MM`` of each voxel, or -1; shape (n, 3) to (n,)."""
    nobody = np.full(len(voxels), -1, dtype=np.intp)
    if not len(voxels):
        return nobody
    grid = segmentation.grid
    reach = np.ceil(_TOUCHING_MM / np.array(grid.spacing_mm)).astype(int).tolist()
    box = widened(box_around(voxels), reach, grid.shape)
    rows = row_of[segmentation.vertebrae[box]]
    bone = voxels_of(rows >= 0)
    if not len(bone):
        return nobody
    tree = cKDTree(grid.to_world(bone + corner(box)))
    distance, nearest = tree.query(grid.to_world(voxels), distance_upper_bound=_TOUCHING_MM)
    touched = np.isfinite(distance)
    nobody[touched] = rows[tuple(bone[np.asarray(nearest)[touched]].T)]
    return nobody


def _hangs_from_above(lesion_mm: Array, extents: list[_Extent], vertebrae: tuple[Vertebra, ...]) -> bool:
    """Whether most of a lesion lies where the arch of a vertebra above the view hangs down.

    Behind the canal, thoracic processes lie a whole vertebra below their bodies. Of a body that the
    image cuts, nothing is known of how far up it goes.
    """
    if not vertebrae[0].fully_visible or vertebrae[0].level in _NOTHING_ABOVE:
        return False
    if not extents or extents[0][0] != 0:
        return False
    _, top, bottom = extents[0]
    above = _body_height(lesion_mm, extents) < top - _HALF_DISC * (bottom - top)
    return bool((_is_behind(lesion_mm) & above).mean() > 0.5)


def _body_height(where_mm: Array, extents: list[_Extent]) -> Array:
    """Along the canal in mm, the height of the body that what lies at each point belongs to; (n, 3) to (n,).

    Behind the canal that is the body whose arch hangs down there, elsewhere the one beside it.
    """
    along, front, side = where_mm.T
    middles = np.array([0.5 * (top + bottom) for _, top, bottom in extents])
    drop = arch_drop_mm(-front, side, pitch_at(along, middles))
    return np.asarray(along - np.where(_is_behind(where_mm), drop, 0.0))


def _is_behind(where_mm: Array) -> Mask:
    return np.asarray(-where_mm[:, 1] > _CANAL_RADIUS_MM)


def _by_height(where_mm: Array, extents: list[_Extent]) -> npt.NDArray[np.intp]:
    """Row of the vertebra at each point's height, or -1; shape (n, 3) to (n,)."""
    nobody = np.full(len(where_mm), -1, dtype=np.intp)
    if not extents or len(where_mm) == 0:
        return nobody
    rows = np.array([row for row, _, _ in extents])
    tops, bottoms = (np.array([extent[column] for extent in extents]) for column in (1, 2))
    height = _body_height(where_mm, extents)
    cuts = [0.5 * (bottom + top) for bottom, top in _facing_ends(tops, bottoms)]
    owner = rows[np.digitize(height, np.maximum.accumulate(cuts) if cuts else [])]
    above = tops[0] - _BEYOND_END * (bottoms[0] - tops[0])
    below = bottoms[-1] + _BEYOND_END * (bottoms[-1] - tops[-1])
    far = np.hypot(where_mm[:, 1], where_mm[:, 2]) > _REACH_MM
    return np.where((height < above) | (height > below) | far, nobody, owner)


def _facing_ends(tops: Array, bottoms: Array) -> list[tuple[float, float]]:
    """(bottom of the upper, top of the lower) of every two neighbours, head to foot."""
    return [(float(bottoms[upper]), float(tops[lower])) for upper, lower in pairwise(range(len(tops)))]


def _extents(
    segmentation: SpineSegmentation, axis: SpinalAxis, row_of: npt.NDArray[np.intp]
) -> list[_Extent]:
    """(row, top, bottom) along the canal of each named body, head to foot, in mm."""
    bony = (segmentation.anatomy == Structure.VERTEBRAL_BODY) | (segmentation.anatomy == Structure.SACRUM)
    bony &= np.take(row_of >= 0, segmentation.vertebrae)
    voxels = voxels_of(bony, SAMPLED_VOXELS)
    rows = row_of[segmentation.vertebrae[tuple(voxels.T)]]
    along = axis.project(segmentation.grid.to_world(voxels))[:, 0]
    order = np.argsort(rows, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(rows[order])) + 1) if len(order) else []
    extents = []
    for group in groups:
        top, bottom = np.percentile(along[group], (4, 96))
        extents.append((int(rows[group[0]]), float(top), float(bottom)))
    return sorted(extents, key=lambda extent: extent[1] + extent[2])
