"""Islands of a label map of structures: which to drop, and the cores of those that touch.

An island is dropped where it is too small or lies, along and across the curve of the canal,
where its structure cannot be. Knows nothing of single vertebrae.
"""

from __future__ import annotations

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.spinal_axis import fit_spinal_axis
from spinemets.volume import Grid, Mask
from spinemets.voxels import bounding_box, in_plane_cross

__all__ = ["clean_anatomy", "cores_and_components"]

Labels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

_OPENING_MM = 1.2  # breaks bridges across a disc, keeps a cervical body collapsed to 30 %
_MINIMUM_ISLAND_MM3 = 40.0
_SAMPLED_VOXELS = 2_000  # of an island: for its middle and how much of it lies where
_NEAR_SHARE = 0.5  # of an island's voxels that must lie where its structure can be
_SACRUM_BEHIND_MM = 20.0  # of the canal, where its crest may reach
_BODIES_BELOW_SACRUM = 0.25  # share of their volume: none, but for parts of it taken for bodies


def clean_anatomy(anatomy: Labels, grid: Grid) -> Labels:
    """The label map without islands that are tiny or lie far from the spine.

    Done twice: what the first time removes may have bent the curve that the rest is judged by.

    Parameters
    ----------
    anatomy
        uint8, shape ``grid.shape``; values of ``Structure``.

    Returns
    -------
    npt.NDArray[np.uint8]
        A copy in which such islands are background.
    """
    cleaned = anatomy.copy()
    if _drop_strays(cleaned, grid):
        _drop_strays(cleaned, grid)
    return cleaned


def _drop_strays(anatomy: Labels, grid: Grid) -> bool:
    """Make strays background in place; whether there were any."""
    box = bounding_box(anatomy > 0)
    axis = fit_spinal_axis(anatomy, grid)
    if box is None or axis is None:
        return False
    part = anatomy[box].copy()
    places = np.flatnonzero(part)
    islands = cc3d.connected_components(part, connectivity=18).ravel()[places]
    count = int(islands.max()) + 1
    volume_mm3 = np.asarray(np.bincount(islands, minlength=count) * grid.voxel_volume_mm3, np.float64)
    structure = np.zeros(count, dtype=np.uint8)
    structure[islands] = part.ravel()[places]
    # By voxels, not by centres: the centre of a long bent sac lies in front of the sac.
    sample = _sample(islands, count)
    owner = islands[sample].astype(np.intp)
    index = np.unravel_index(places[sample], part.shape)
    voxels = np.stack([column + edge.start for column, edge in zip(index, box, strict=True)]).T
    where = axis.project(grid.to_world(voxels))
    sampled = np.maximum(np.bincount(owner, minlength=count), 1)
    share = np.bincount(owner, _near_spine(where, structure[owner]), minlength=count) / sampled
    centres = np.stack(
        [np.bincount(owner, axis_mm, minlength=count) / sampled for axis_mm in where.T], axis=1
    )
    dropped = (volume_mm3 < _MINIMUM_ISLAND_MM3) | (share < _NEAR_SHARE)
    dropped |= _stray_bodies(centres, structure, volume_mm3) | _stray_sacrum(centres, structure, volume_mm3)
    strays = places[dropped[islands]]
    part.ravel()[strays] = Structure.BACKGROUND
    anatomy[box] = part
    return len(strays) > 0


def _sample(islands: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.intp]:
    """Evenly spread rows of every island, few of a large one and all of a small one.

    Parameters
    ----------
    islands
        Shape (n,), from 1 below ``count``.
    """
    order = np.argsort(islands, kind="stable")
    sizes = np.bincount(islands, minlength=count)
    every = -(-sizes // _SAMPLED_VOXELS)
    rank = np.arange(len(islands)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(order[rank % np.repeat(every, sizes) == 0])


def _near_spine(where_mm: Array, structure: Labels) -> Mask:
    """Whether a voxel lies where its structure can be; (n, 3) and (n,) to (n,)."""
    front, side = where_mm[:, 1], np.abs(where_mm[:, 2])
    rules = {
        Structure.VERTEBRAL_BODY: (front > -6.0) & (front < 75.0) & (side < 45.0),
        Structure.DISC: (front > -6.0) & (front < 75.0) & (side < 45.0),
        Structure.THECAL_SAC: np.hypot(front, side) < 20.0,
        Structure.CORD: np.hypot(front, side) < 20.0,
        Structure.POSTERIOR_ELEMENTS: (front > -85.0) & (front < 30.0) & (side < 65.0),
        Structure.SACRUM: np.abs(front) < 75.0,
    }
    kept = np.zeros(len(structure), dtype=np.bool_)
    for label, rule in rules.items():
        kept |= (structure == label) & rule
    return kept


def _stray_bodies(where_mm: Array, structure: Labels, volume_mm3: Array) -> Mask:
    """Bodies and discs that leave the smooth row of the others, by their place before the canal."""
    chosen = (structure == Structure.VERTEBRAL_BODY) & (volume_mm3 > 500.0)
    if chosen.sum() < 4:
        return np.zeros(len(structure), dtype=np.bool_)
    order = np.flatnonzero(chosen)[np.argsort(where_mm[chosen, 0])]
    expected = np.interp(where_mm[:, 0], where_mm[order, 0], ndimage.median_filter(where_mm[order, 1], 5))
    loose = np.isin(structure, (Structure.VERTEBRAL_BODY, Structure.DISC)) & (volume_mm3 < 500.0)
    return loose & (np.abs(where_mm[:, 1] - expected) > 22.0)


def _stray_sacrum(where_mm: Array, structure: Labels, volume_mm3: Array) -> Mask:
    """What was labelled sacrum behind the canal, or with a good part of the bodies below it."""
    sacrum, bodies = structure == Structure.SACRUM, structure == Structure.VERTEBRAL_BODY
    behind = np.asarray(sacrum & (where_mm[:, 1] < -_SACRUM_BEHIND_MM))
    if not bodies.any():
        return behind
    below = where_mm[None, bodies, 0] > where_mm[:, 0, None]
    share_below = below @ volume_mm3[bodies] / volume_mm3[bodies].sum()
    return np.asarray(behind | (sacrum & (share_below > _BODIES_BELOW_SACRUM)))


def cores_and_components(mask: Mask, grid: Grid) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Per body voxel in ``argwhere`` order: component after erosion (0: eroded away), and before."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    part = np.ascontiguousarray(mask[box])
    structure = in_plane_cross(grid)
    steps = max(1, round(_OPENING_MM / sorted(grid.spacing_mm)[1]))
    eroded = part & ndimage.binary_erosion(_majority(part, grid), structure, iterations=steps)
    whole = cc3d.connected_components(part, connectivity=6).astype(np.intp)
    cores = cc3d.connected_components(np.ascontiguousarray(eroded), connectivity=6).astype(np.intp)
    count = int(cores.max())
    has_core = np.zeros(int(whole.max()) + 1, dtype=np.bool_)
    has_core[whole[eroded]] = True
    thin = part & ~has_core[whole]
    cores[thin] = count + whole[thin]
    return cores[part], whole[part]


def _majority(mask: Mask, grid: Grid) -> Mask:
    """Each voxel's majority among its nine in-plane neighbours: closes pin holes, bridges nothing."""
    size = [3, 3, 3]
    size[grid.slice_axis] = 1
    return np.asarray(ndimage.uniform_filter(mask.astype(np.float32), size, mode="nearest") > 0.5)
