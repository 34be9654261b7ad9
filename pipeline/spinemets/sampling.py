"""From a series' own grid to the network's and back, as one small matrix for each axis.

The network sees axes ordered (left-right, back-front, foot-head), 1 mm in plane and slices as
acquired; slices closer than 2.5 mm are averaged to about 3 mm. Every axis is resampled with a
triangle kernel, widened when sampling down so that little aliases; a matrix product does it
on any device. Where the widening is no whole number of samples, the triangle's centre of gravity
is off by up to a tenth of a source sample. Knows nothing of networks or intensities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.volume import Grid

__all__ = ["NetworkFrame", "network_frame", "resampling_matrix"]

FloatMatrix = npt.NDArray[np.float32]

_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def resampling_matrix(source: tuple[int, float], target: tuple[int, float], offset_mm: float) -> FloatMatrix:
    """Weights that resample one axis.

    Parameters
    ----------
    source, target
        (number of samples, spacing in mm).
    offset_mm
        Place of the first target sample relative to the first source sample.

    Returns
    -------
    ndarray
        float32, shape (target samples, source samples); every row sums to 1. Places outside
        the source take its nearest sample.

    Examples
    --------
    >>> resampling_matrix((3, 1.0), (2, 1.0), offset_mm=0.5).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    count, spacing = source
    new_count, new_spacing = target
    places = np.clip((offset_mm + np.arange(new_count) * new_spacing) / spacing, 0, count - 1)
    width = max(1.0, new_spacing / spacing)
    weights = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(count)[None]) / width)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkFrame:
    """How one series' grid maps to the network's.

    Attributes
    ----------
    order
        Source axis of each network axis (left-right, back-front, foot-head).
    flipped
        Whether the network axis runs against its source axis.
    grid
        The network's grid, in RAS+ mm.
    down
        Three matrices, (network samples, source samples), after reordering and flipping.
    up
        Three matrices, (source samples, network samples), for the way back.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    grid: Grid
    down: tuple[FloatMatrix, FloatMatrix, FloatMatrix]
    up: tuple[FloatMatrix, FloatMatrix, FloatMatrix]


def network_frame(
    grid: Grid, in_plane_mm: float = 1.0, slice_minimum_mm: float = 2.5, slice_target_mm: float = 3.0
) -> NetworkFrame:
    """Plan the way from a series' grid to the network's and back.

    Parameters
    ----------
    in_plane_mm
        The network's spacing within slices.
    slice_minimum_mm, slice_target_mm
        Slices closer than the first are averaged, in whole numbers, to about the second.

    Examples
    --------
    >>> frame = network_frame(Grid((15, 512, 512), np.diag([4.0, 0.5, 0.5, 1.0])))
    >>> frame.grid.shape
    (15, 256, 256)
    """
    order, flipped = _canonical_axes(grid)
    spacings = [grid.spacing_mm[axis] for axis in order]
    sizes = [grid.shape[axis] for axis in order]
    left_right = spacings[0]
    if left_right < slice_minimum_mm:
        left_right *= max(1, round(slice_target_mm / left_right))
    targets = (left_right, in_plane_mm, in_plane_mm)
    down, up, counts, offsets = [], [], [], []
    for size, spacing, target in zip(sizes, spacings, targets, strict=True):
        count = max(1, round(size * spacing / target))
        # Both grids cover the same extent, so their centres coincide.
        offset = ((size - 1) * spacing - (count - 1) * target) / 2
        counts.append(count)
        offsets.append(offset)
        down.append(resampling_matrix((size, spacing), (count, target), offset))
        up.append(resampling_matrix((count, target), (size, spacing), -offset))
    affine = _frame_affine(grid, order, flipped, np.array(targets), np.array(offsets))
    shape = (counts[0], counts[1], counts[2])
    return NetworkFrame(
        order, flipped, Grid(shape, affine), (down[0], down[1], down[2]), (up[0], up[1], up[2])
    )


def _canonical_axes(grid: Grid) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """The source axis nearest to each anatomical axis, and whether it runs the other way."""
    directions = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    best = max(
        _ORDERS,
        key=lambda order: float(sum(abs(directions[world, axis]) for world, axis in enumerate(order))),
    )
    x, y, z = (bool(directions[world, axis] < 0) for world, axis in enumerate(best))
    return best, (x, y, z)


def _frame_affine(
    grid: Grid,
    order: tuple[int, int, int],
    flipped: tuple[bool, bool, bool],
    targets: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    directions = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    corner = np.zeros(3)
    columns = []
    for axis, flip in zip(order, flipped, strict=True):
        columns.append(-directions[:, axis] if flip else directions[:, axis])
        if flip:
            corner[axis] = grid.shape[axis] - 1
    axes = np.stack(columns, axis=1)
    affine = np.eye(4)
    affine[:3, :3] = axes * targets
    affine[:3, 3] = grid.to_world(corner) + axes @ offsets
    return affine
