"""Where a mask is true: the box around it, its voxels, and what lies within reach of it.

A spine fills a small part of its images. So whole volumes are only compared and reduced, which
is fast; what takes long is done in the box. Knows nothing of grids or of anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import cc3d
import numpy as np
import numpy.typing as npt

from spinemets.volume import Grid, Mask

__all__ = [
    "SAMPLED_VOXELS",
    "Box",
    "bounding_box",
    "box_around",
    "corner",
    "grown",
    "in_plane_cross",
    "islands_of",
    "shell_of",
    "thin_out",
    "unseen_part",
    "voxels_of",
    "widened",
]

SAMPLED_VOXELS = 200_000  # at most, so that statistics of fine grids cost no more than of coarse ones

Box: TypeAlias = tuple[slice, ...]


def bounding_box(mask: Mask) -> Box | None:
    """The slices around what a mask of any shape holds; None where it is empty.

    >>> bounding_box(np.array([[False, True, True], [False, False, True]]))
    (slice(0, 2, None), slice(1, 3, None))
    """
    box: Box = ()
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        shown = np.flatnonzero(mask[box].any(axis=others))
        if len(shown) == 0:
            return None
        box = (*box, slice(int(shown[0]), int(shown[-1]) + 1))
    return box


def box_around(voxels: npt.NDArray[np.integer]) -> Box:
    """The smallest box that holds all voxels of a list, (n, axes); n is not 0.

    >>> box_around(np.array([[1, 3], [0, 4]]))
    (slice(0, 2, None), slice(3, 5, None))
    """
    ends = zip(voxels.min(axis=0).tolist(), voxels.max(axis=0).tolist(), strict=True)
    return tuple(slice(first, last + 1) for first, last in ends)


def widened(box: Box, reach: Sequence[int], shape: Sequence[int]) -> Box:
    """A box with so many voxels more on both sides of each axis, within an array's shape.

    >>> widened((slice(1, 3), slice(5, 8)), (2, 2), (9, 9))
    (slice(0, 5, None), slice(3, 9, None))
    """
    return tuple(
        slice(max(0, part.start - more), min(size, part.stop + more))
        for part, more, size in zip(box, reach, shape, strict=True)
    )


def corner(box: Box) -> npt.NDArray[np.intp]:
    """The first index of a box along each axis: what voxels of the box lack to be the array's.

    >>> corner((slice(1, 3), slice(5, 8))).tolist()
    [1, 5]
    """
    return np.array([edge.start for edge in box], dtype=np.intp)


def voxels_of(mask: Mask, at_most: int | None = None) -> npt.NDArray[np.intp]:
    """The indices of a mask's voxels, shape (n, axes), in ``argwhere``'s order and much sooner.

    Parameters
    ----------
    at_most
        Thin out to so many; None for all.

    Examples
    --------
    >>> voxels_of(np.array([[False, True], [True, True]])).tolist()
    [[0, 1], [1, 0], [1, 1]]
    """
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, mask.ndim), dtype=np.intp)
    part = mask[box]
    places = np.flatnonzero(part)
    if at_most is not None:
        places = thin_out(places, at_most)
    columns = np.unravel_index(places, part.shape)
    return np.stack([column + edge.start for column, edge in zip(columns, box, strict=True)]).T


def thin_out(voxels: npt.NDArray[np.intp], at_most: int = SAMPLED_VOXELS) -> npt.NDArray[np.intp]:
    """Every n-th row of a voxel list, so that statistics of fine grids cost no more than of coarse ones.

    >>> thin_out(np.zeros((10, 3), dtype=np.intp), at_most=4).shape
    (4, 3)
    """
    return voxels[:: max(1, -(-len(voxels) // at_most))]


def grown(mask: Mask, reach: Sequence[int]) -> Mask:
    """A mask widened by so many voxels along each axis: dilated by a box.

    >>> grown(np.array([False, False, False, True]), (2,)).tolist()
    [False, True, True, True]
    """
    result = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is None:
        return result
    room = widened(box, reach, mask.shape)
    part = mask[room].copy()
    for axis, far in enumerate(reach):
        lines = np.moveaxis(part, axis, 0)
        done, whole = 0, min(far, len(lines) - 1)
        while done < whole:
            # Not further at once: at an edge there is one side only, and there must be no gap.
            step = min(done + 1, whole - done)
            before = lines.copy()
            lines[step:] |= before[:-step]
            lines[:-step] |= before[step:]
            done += step
    result[room] = part
    return result


def in_plane_cross(grid: Grid) -> Mask:
    """What erodes within the slices alone, (3, 3, 3): across thick ones nothing would be left."""
    cross = np.zeros((3, 3, 3), dtype=np.bool_)
    for axis in {0, 1, 2} - {grid.slice_axis}:
        line: list[int | slice] = [1, 1, 1]
        line[axis] = slice(None)
        cross[tuple(line)] = True
    return cross


def islands_of(mask: Mask) -> npt.NDArray[np.integer]:
    """The islands of a 3-D mask, joined across faces, edges and corners: 0, or numbers from 1.

    >>> islands_of(np.array([[[True, False, True]]])).tolist()
    [[[1, 0, 2]]]
    """
    # Of odd sizes, cc3d 4.1.1 fails where every block of 2×2×2 voxels holds an island of its own.
    even = np.pad(mask, [(0, size % 2) for size in mask.shape])
    numbered = cc3d.connected_components(np.ascontiguousarray(even), connectivity=26)
    return np.asarray(numbered[tuple(slice(size) for size in mask.shape)])


def shell_of(
    voxels: npt.NDArray[np.integer], shape: Sequence[int], spacing_mm: Sequence[float], reach_mm: float
) -> tuple[Box, Mask]:
    """What lies around a list of voxels within some millimetres along each axis: a box, and the mask in it.

    Parameters
    ----------
    voxels
        Indices, (n, axes); n is not 0.
    shape, spacing_mm
        Of the array that they lie in.

    Examples
    --------
    >>> box, shell = shell_of(np.array([[1, 3]]), (3, 9), (4.0, 1.0), 2.0)
    >>> box[1], shell[0].astype(int).tolist()
    (slice(1, 6, None), [1, 1, 0, 1, 1])
    """
    reach = np.floor(reach_mm / np.asarray(spacing_mm)).astype(int).tolist()
    box = widened(box_around(voxels), reach, shape)
    inside = np.zeros([part.stop - part.start for part in box], dtype=np.bool_)
    inside[tuple((voxels - corner(box)).T)] = True
    return box, grown(inside, reach) & ~inside


def unseen_part(covered: Sequence[Mask]) -> Mask | None:
    """Where none of several masks of one shape is true; None without masks, or without such a place."""
    if not covered:
        return None
    unseen = ~np.logical_or.reduce(covered)
    return unseen if unseen.any() else None
