"""The curve of the spinal canal, and coordinates along and across it.

A spine is bent, so "at the same height" and "in front of the canal" mean something only
relative to this curve: arc length from head to foot, distance to the front, distance to
the right. Knows nothing of instances, levels or lesions.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from spinemets.anatomy import Structure
from spinemets.volume import Grid
from spinemets.voxels import SAMPLED_VOXELS, bounding_box, corner, islands_of, thin_out

__all__ = ["SpinalAxis", "axis_through", "fit_spinal_axis"]

Array = npt.NDArray[np.float64]

_THREADS = min(4, os.cpu_count() or 1)
_POINTS_WORTH_THREADS = 5_000
_BIN_MM = 4.0
_SMOOTHING_SD_MM = 14.0  # below a vertebra's height, so that lordosis survives and a disc's bulge does not
_EXTENSION_MM = 90.0  # straight beyond both ends: room for the dens above and the sacrum below
_MINIMUM_EXTENT_MM = 12.0
_USUAL_CANAL_OFFSET_MM = (0.0, -24.0)  # canal centre from the body's, where no canal was seen
_BODY_WEIGHT = 0.3  # of a height known from bodies alone, against one where the canal is seen
_TILTED_END_MM = 28.0  # of the bodies, where heights may show one side of a tilted body alone


@dataclass(frozen=True, slots=True, eq=False)
class SpinalAxis:
    """A smooth curve through the centre of the spinal canal, sampled every millimetre.

    Attributes
    ----------
    points_mm
        float64, shape (n, 3): RAS+ mm, from head to foot.
    tangents, anteriors
        float64, shape (n, 3): unit vectors towards the foot and, across the curve, the front.
    """

    points_mm: Array
    tangents: Array
    anteriors: Array
    _tree: cKDTree

    def project(self, points_mm: npt.ArrayLike) -> Array:
        """Curve coordinates of points in RAS+ mm.

        Parameters
        ----------
        points_mm
            Shape (n, 3).

        Returns
        -------
        Array
            Shape (n, 3), in mm: arc length towards the foot, distance to the front of the
            curve, distance to its right.
        """
        points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3)
        threads = _THREADS if len(points) > _POINTS_WORTH_THREADS else 1
        nearest = self._tree.query(points, workers=threads)[1]
        offset = points - np.take(self.points_mm, nearest, axis=0)
        where = np.empty_like(points)
        frame = (self.tangents, self.anteriors, np.cross(self.tangents, self.anteriors))
        for column, direction in enumerate(frame):
            np.einsum("ij,ij->i", offset, np.take(direction, nearest, axis=0), out=where[:, column])
        where[:, 0] += nearest
        return where

    def to_world(self, coordinates_mm: npt.ArrayLike) -> Array:
        """RAS+ mm of curve coordinates, the inverse of ``project``; shapes (n, 3)."""
        along, front, side = np.asarray(coordinates_mm, dtype=np.float64).reshape(-1, 3).T
        nearest = np.clip(np.rint(along), 0, len(self.points_mm) - 1).astype(np.intp)
        tangent, anterior = self.tangents[nearest], self.anteriors[nearest]
        right = np.cross(tangent, anterior)
        offset = (along - nearest)[:, None] * tangent + front[:, None] * anterior + side[:, None] * right
        return np.asarray(self.points_mm[nearest] + offset)


def fit_spinal_axis(anatomy: npt.NDArray[np.uint8], grid: Grid) -> SpinalAxis | None:
    """Fit the curve through the thecal sac and cord, bridged by the bodies where no sac is seen.

    Heights are binned along the patient's head-foot direction; each bin's centre is smoothed
    by local quadratic regression with Tukey's weights, so that islands do not bend the curve.

    Parameters
    ----------
    anatomy
        uint8, shape ``grid.shape``; values of ``Structure``.

    Returns
    -------
    SpinalAxis or None
        None where too little of a spine is labelled to give a direction.
    """
    canal = _bin_centres(anatomy, (Structure.THECAL_SAC, Structure.CORD), grid)
    bodies = _bin_centres(anatomy, (Structure.VERTEBRAL_BODY, Structure.DISC), grid)
    heights, centres, weights = _bridge(canal, bodies)
    if len(heights) < 3 or np.ptp(heights) < _MINIMUM_EXTENT_MM:
        return None
    samples = np.arange(heights.max(), heights.min() - 1.0, -2.0)
    curve = np.column_stack([_smooth(heights, centres, weights, samples), samples])
    return axis_through(curve)


def _bin_centres(
    anatomy: npt.NDArray[np.uint8], pair: tuple[Structure, Structure], grid: Grid
) -> dict[int, tuple[float, float, float]]:
    """Height bin -> (mean x, mean y, voxel count) of two structures, in RAS+ mm.

    A voxel weighs as the square of the piece that it is part of, so that what is taken for a
    canal in front of a spine does not draw the curve away from a long one.
    """
    mask = (anatomy == pair[0]) | (anatomy == pair[1])
    box = bounding_box(mask)
    if box is None:
        return {}
    pieces = islands_of(mask[box])
    sizes = np.bincount(pieces.ravel()).astype(np.float64)
    places = thin_out(np.flatnonzero(pieces), SAMPLED_VOXELS)
    points = grid.to_world(np.stack(np.unravel_index(places, pieces.shape)).T + corner(box))
    shares = (sizes / sizes[1:].max())[pieces.ravel()[places]] ** 2
    bins = np.floor(points[:, 2] / _BIN_MM).astype(np.intp)
    first = int(bins.min())
    bins -= first
    counts = np.bincount(bins)
    total = np.maximum(np.bincount(bins, weights=shares), 1e-12)
    x, y = (np.bincount(bins, weights=points[:, axis] * shares) / total for axis in (0, 1))
    return {first + int(b): (float(x[b]), float(y[b]), float(counts[b])) for b in np.flatnonzero(counts)}


def _bridge(
    canal: dict[int, tuple[float, float, float]], bodies: dict[int, tuple[float, float, float]]
) -> tuple[Array, Array, Array]:
    """Heights (n,), canal centres (n, 2) and weights (n,); bodies stand in for an unseen canal.

    Past its ends they do so but for their own last heights, which show the front of a tilted L5
    alone: there the curve is best continued straight.
    """
    largest = max((count for _, _, count in canal.values()), default=0.0)
    canal = {key: value for key, value in canal.items() if value[2] > 0.05 * largest}
    both = canal.keys() & bodies.keys()
    gaps = np.array([np.subtract(canal[key][:2], bodies[key][:2]) for key in both])
    offset = np.median(gaps, axis=0) if len(gaps) else np.array(_USUAL_CANAL_OFFSET_MM)
    centres = {key: (*value[:2], 1.0) for key, value in canal.items()}
    for key in _standing_in(canal.keys(), bodies.keys()):
        centres[key] = (bodies[key][0] + offset[0], bodies[key][1] + offset[1], _BODY_WEIGHT)
    keys = sorted(centres)
    table = np.array([centres[key] for key in keys]).reshape(-1, 3)
    heights = (np.array(keys, dtype=np.float64) + 0.5) * _BIN_MM
    return heights, table[:, :2], table[:, 2]


def _standing_in(canal: Collection[int], bodies: Collection[int]) -> list[int]:
    """The height bins whose bodies tell where an unseen canal is: all of them beside a short one."""
    end = round(_TILTED_END_MM / _BIN_MM)
    if len(canal) < 2 * end:
        return [key for key in bodies if key not in canal]
    lowest, highest = min(canal), max(canal)
    within = range(min(min(bodies) + end, lowest), max(max(bodies) - end, highest) + 1) if bodies else ()
    return [key for key in bodies if key not in canal and key in within]


def _smooth(heights: Array, centres: Array, weights: Array, samples: Array) -> Array:
    """Robust local quadratic regression of (n, 2) centres over height, at ``samples``."""
    robust = np.ones(len(heights))
    for _ in range(3):
        fitted = _local_quadratic(heights, centres, weights * robust, heights)
        residual = np.linalg.norm(centres - fitted, axis=1)
        scale = max(1.0, 1.4826 * float(np.median(residual)))
        robust = np.clip(1.0 - (residual / (4.685 * scale)) ** 2, 0.01, 1.0) ** 2
    return _local_quadratic(heights, centres, weights * robust, samples)


def _local_quadratic(heights: Array, centres: Array, weights: Array, samples: Array) -> Array:
    """Weighted local quadratic fit at each sample; a small ridge keeps sparse ends calm."""
    distance = (heights[None, :] - samples[:, None]) / _SMOOTHING_SD_MM
    kernel = np.exp(-0.5 * distance**2) * weights
    kernel = kernel / kernel.sum(axis=1, keepdims=True)
    weighted = [kernel * distance**power for power in range(5)]
    moments = np.stack([column.sum(axis=1) for column in weighted], axis=1)
    normal = moments[:, np.add.outer(range(3), range(3))] + np.diag([0.0, 1e-3, 2e-2])
    right = np.stack([column @ centres for column in weighted[:3]], axis=1)
    return np.asarray(np.linalg.solve(normal, right)[:, 0, :])


def axis_through(curve: Array) -> SpinalAxis:
    """Lengthen a curve from head to foot, (n, 3) in RAS+ mm, straight at both ends; sample it every mm."""
    up, down = curve[0] - curve[min(5, len(curve) - 1)], curve[-1] - curve[max(-6, -len(curve))]
    reach = np.arange(2.0, _EXTENSION_MM + 1.0, 2.0)[:, None]
    head = curve[0] + reach[::-1] * up / np.linalg.norm(up)
    foot = curve[-1] + reach * down / np.linalg.norm(down)
    curve = np.concatenate([head, curve, foot])
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    samples = np.arange(0.0, arc[-1], 1.0)
    points = np.stack([np.interp(samples, arc, curve[:, axis]) for axis in range(3)], axis=1)
    tangents = np.gradient(points, axis=0)
    kernel = np.ones(9) / 9.0
    padded = np.pad(tangents, ((4, 4), (0, 0)), mode="edge")
    tangents = np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in range(3)], axis=1)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    front = np.array([0.0, 1.0, 0.0]) - tangents[:, 1:2] * tangents
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    return SpinalAxis(points, tangents, front, cKDTree(points))
