"""Flat and curved picture planes through a volume, and what a volume holds along them.

A picture is always laid out as radiologists read it: sagittal with the front on the left,
axial and coronal with the patient's right on the left, and the head (axial: the front) up.
Rows run down, columns run right, pixels are square. Nothing here draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.volume import Grid, Plane

__all__ = [
    "ORIENTATION_LETTERS",
    "BodyAxes",
    "PicturePlane",
    "body_axes",
    "inside",
    "native_slice",
    "sample",
]

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]

# In slices; a sheared grid's slices are met a little beside their middle.
_OFF_SLICE = 0.1

# Left, right, top and bottom edge of a picture.
ORIENTATION_LETTERS = {
    Plane.SAGITTAL: ("A", "P", "H", "F"),
    Plane.CORONAL: ("R", "L", "H", "F"),
    Plane.AXIAL: ("R", "L", "A", "P"),
}


@dataclass(frozen=True, slots=True, eq=False)
class BodyAxes:
    """A grid's own axes, sorted and turned to point to the right, the front and the head.

    Attributes
    ----------
    directions
        Shape (3, 3), orthonormal; the rows are right, front and head in RAS+.
    lower_mm, upper_mm
        Shape (3,): where the image begins and ends along each direction, voxel edges included.
    spacing_mm
        Shape (3,): voxel spacing along each direction.
    """

    directions: Array
    lower_mm: Array
    upper_mm: Array
    spacing_mm: Array


@dataclass(frozen=True, slots=True, eq=False)
class PicturePlane:
    """Where the pixels of a picture lie in space.

    Attributes
    ----------
    origin_mm
        RAS+ mm, shape (3,): the centre of the top left pixel.
    rightward, downward
        Unit vectors, shape (3,), of growing columns and rows.
    size
        (width, height) in pixels.
    pixel_mm
        Side of a pixel.
    row_shift_mm
        For a curved picture, shape (height,): how far each row is moved along the normal.
    """

    kind: Plane
    origin_mm: Array
    rightward: Array
    downward: Array
    size: tuple[int, int]
    pixel_mm: float
    row_shift_mm: Array | None = None

    @property
    def normal(self) -> Array:
        """Unit vector across the picture."""
        return np.cross(self.rightward, self.downward)

    def points_mm(self) -> Array:
        """RAS+ mm of every pixel's centre, shape (height, width, 3)."""
        width, height = self.size
        columns = np.arange(width)[None, :, None] * (self.pixel_mm * self.rightward)
        rows = np.arange(height)[:, None, None] * (self.pixel_mm * self.downward)
        points = self.origin_mm + columns + rows
        if self.row_shift_mm is not None:
            points = points + self.row_shift_mm[:, None, None] * self.normal
        return np.asarray(points)

    def part(self, corner: tuple[int, int], size: tuple[int, int]) -> PicturePlane:
        """The part whose top left pixel is ``corner`` (column, row), of another (width, height)."""
        column, row = corner
        shift = self.pixel_mm * (column * self.rightward + row * self.downward)
        rows = None if self.row_shift_mm is None else self.row_shift_mm[row : row + size[1]]
        return replace(self, origin_mm=self.origin_mm + shift, size=size, row_shift_mm=rows)

    def flat(self) -> PicturePlane:
        """The same picture without its curve."""
        return replace(self, row_shift_mm=None)

    def to_pixel(self, point_mm: npt.ArrayLike) -> tuple[float, float]:
        """Column and row that a point projects to, whole numbers at pixel centres."""
        offset = (np.asarray(point_mm, dtype=np.float64) - self.origin_mm) / self.pixel_mm
        return float(offset @ self.rightward), float(offset @ self.downward)


def body_axes(grid: Grid) -> BodyAxes:
    """The grid's axes as body axes; a sheared grid takes the nearest orthonormal ones."""
    spacing = np.array(grid.spacing_mm)
    unit = (grid.affine[:3, :3] / spacing).T
    order = max(permutations(range(3)), key=lambda axes: sum(abs(unit[a, i]) for i, a in enumerate(axes)))
    chosen = unit[list(order)] * np.sign(unit[list(order), range(3)])[:, None]
    left, _, right = np.linalg.svd(chosen)
    directions = left @ right
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape])).reshape(3, -1).T
    along = grid.to_world(corners) @ directions.T
    return BodyAxes(directions, along.min(axis=0), along.max(axis=0), spacing[list(order)])


def native_slice(grid: Grid, axis: int, plane: PicturePlane) -> tuple[int, int] | None:
    """Which acquired slice a picture shows, from 1 in the grid's order, and of how many.

    None where the picture is a reformat.

    Parameters
    ----------
    axis
        The array axis that counts the slices.
    """
    across = int(np.abs((grid.affine[:3, :3] / grid.spacing_mm).T @ plane.normal).argmax())
    if across != axis or plane.row_shift_mm is not None:
        return None
    middle = plane.points_mm()[plane.size[1] // 2, plane.size[0] // 2]
    place = float(grid.to_index(middle)[axis])
    if abs(place - round(place)) > _OFF_SLICE:
        return None
    return round(place) + 1, grid.shape[axis]


def sample(
    array: npt.NDArray[Any], grid: Grid, points_mm: Array, *, label: int | None = None, nearest: bool = False
) -> Picture:
    """Values of an array on a grid at RAS+ points, linear between voxels, 0 outside.

    Parameters
    ----------
    array
        Shape ``grid.shape``; any real type or bool.
    points_mm
        Shape (..., 3).
    label
        If given, sample where the array equals it (1) or not (0) instead of its values.
    nearest
        Take the nearest voxel, for label maps.
    """
    places = grid.to_index(points_mm)
    indices = np.moveaxis(places, -1, 0)
    shape = np.array(grid.shape)
    lower = np.clip(np.floor([axis.min() for axis in indices]) - 1, 0, shape - 1).astype(int)
    upper = np.clip(np.ceil([axis.max() for axis in indices]) + 2, lower + 1, shape).astype(int)
    block = array[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))]
    block = (block if label is None else block == label).astype(np.float32)
    local = indices - lower.reshape(-1, *[1] * (indices.ndim - 1))
    values = ndimage.map_coordinates(block, local, order=0 if nearest else 1, mode="nearest")
    return np.where(_within(grid, places), values, np.float32(0)).astype(np.float32)


def inside(grid: Grid, points_mm: Array) -> npt.NDArray[np.bool_]:
    """Which RAS+ points, shape (..., 3), lie in some voxel of the grid."""
    return _within(grid, grid.to_index(points_mm))


def _within(grid: Grid, indices: Array) -> npt.NDArray[np.bool_]:
    """Which fractional voxel indices, shape (..., 3), lie in some voxel of the grid."""
    # Half a thousandth of a voxel forgives the rounding of points on the outermost edge. Axis by axis, as
    # a reduction over three neighbours takes thrice as long.
    axes = zip(np.moveaxis(indices, -1, 0), grid.shape, strict=True)
    sides = [(axis > -0.5005) & (axis < size - 0.4995) for axis, size in axes]
    return np.asarray(np.logical_and.reduce(sides))
