"""The outlines of the thecal sac and the cord as they are where a lesion hides or moves them.

A lesion covers the very border it must be judged by. So every short stretch of the canal is
summarised by an ellipse across it, twice: *expected*, interpolated from the stretches above
and below that no lesion reaches, and *seen*, from what is labelled beside the lesion. Where
the labelled cross-section is as large as expected, the lesion has pushed the structure aside
and the seen outline holds; where as much of it is missing as the lesion is large, the lesion
has taken its place and the expected outline holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import ndtr

from spinemets.volume import Grid, Mask

__all__ = ["Ellipses", "Envelope", "model_envelope", "voxel_extent_mm"]

Array = npt.NDArray[np.float64]

_STRETCH_MM = 3.0
_PAD = 1  # stretches beside the lesion that are not trusted either
_LEAST_AREA_MM2 = 4.0
_NEAR_MM = 25.0  # of the canal's middle; a lesion there may move what is in it
_ZONE = 1.8  # a lesion's part within this multiple of the outline can have taken its place


@dataclass(frozen=True, slots=True, eq=False)
class Ellipses:
    """Cross-sections by stretch, each array (n,): area in mm², centre and half axes in mm."""

    area_mm2: Array
    front_mm: Array
    side_mm: Array
    half_front_mm: Array
    half_side_mm: Array

    def at(self, stretch: npt.NDArray[np.intp]) -> Ellipses:
        """One ellipse for each entry of ``stretch``."""
        return Ellipses(*(getattr(self, name)[stretch] for name in self.__slots__))

    def distance_mm(self, where_mm: Array) -> Array:
        """Signed distance of points (n, 3), one per ellipse, along the ray from its centre; negative inside.

        Never further inside than the shorter half axis; infinite where there is no cross-section.
        """
        front = where_mm[:, 1] - self.front_mm
        side = where_mm[:, 2] - self.side_mm
        reach = np.hypot(front, side)
        ratio = np.hypot(
            front / np.maximum(self.half_front_mm, 0.1), side / np.maximum(self.half_side_mm, 0.1)
        )
        inner = np.minimum(self.half_front_mm, self.half_side_mm)
        distance = np.where(ratio > 1e-3, reach * (1.0 - 1.0 / np.maximum(ratio, 1e-3)), -inner)
        distance = np.maximum(distance, -inner)
        return np.asarray(np.where(self.area_mm2 < _LEAST_AREA_MM2, np.inf, distance))

    def ratio(self, where_mm: Array) -> Array:
        """1 on the outline, less inside; infinite where there is no cross-section."""
        front = (where_mm[:, 1] - self.front_mm) / np.maximum(self.half_front_mm, 0.1)
        side = (where_mm[:, 2] - self.side_mm) / np.maximum(self.half_side_mm, 0.1)
        return np.asarray(np.where(self.area_mm2 < _LEAST_AREA_MM2, np.inf, np.hypot(front, side)))


@dataclass(frozen=True, slots=True, eq=False)
class Envelope:
    """One structure's outline along the canal: expected, seen, and joined with the lesion.

    Attributes
    ----------
    replaced
        Shape (n,), in [0, 1]: how far the lesion has taken the structure's place.
    """

    expected: Ellipses
    seen: Ellipses
    joined: Ellipses
    replaced: Array
    start_mm: float

    @property
    def is_present(self) -> bool:
        return bool((self.expected.area_mm2 >= _LEAST_AREA_MM2).any())

    def inside(self, where_mm: Array, sd_mm: Array, shift_mm: float = 0.0, *, expands: bool) -> Array:
        """Probability that points (n, 3) lie inside, their place known to ``sd_mm`` (n,).

        ``shift_mm`` widens the outline. ``expands``: a lesion that replaces the structure may
        also widen it, as in the cord.
        """
        stretch = _stretch(where_mm, self.start_mm, len(self.replaced))
        share = self.replaced[stretch]

        def chance(outline: Ellipses) -> Array:
            return np.asarray(ndtr((shift_mm - outline.at(stretch).distance_mm(where_mm)) / sd_mm))

        expected, seen = chance(self.expected), chance(self.seen)
        if expands:
            joined = chance(self.joined)
            expected = share * np.maximum(expected, joined) + (1 - share) * expected
        return np.asarray(share * expected + (1 - share) * seen)


def model_envelope(
    structure_mm: Array,
    hidden_mm: Array,
    lesion_mm: Array,
    other_lesions_mm: Array,
    canal_mm: Array,
    grid: Grid,
) -> Envelope:
    """Model one structure's outline about a lesion.

    Parameters
    ----------
    structure_mm
        Shape (n, 3): axis coordinates of the structure's labelled voxels outside all lesions.
    hidden_mm
        Shape (h, 3): those within lesions; they count where a lesion lies in every stretch of the canal.
    lesion_mm, other_lesions_mm
        Shape (m, 3): voxels of this lesion, and of all others.
    canal_mm
        Shape (k, 3): voxels of sac or cord; says where the canal was seen at all.
    """
    points = [part[:, 0] for part in (canal_mm, lesion_mm) if len(part)]
    start = float(min(along.min() for along in points))
    count = int((max(along.max() for along in points) - start) / _STRETCH_MM) + 1
    voxel_area = grid.voxel_volume_mm3 / _STRETCH_MM
    seen = _ellipses(structure_mm, start, count, voxel_area, grid)
    near = [part[np.hypot(part[:, 1], part[:, 2]) < _NEAR_MM] for part in (lesion_mm, other_lesions_mm)]
    trusted = _without(np.concatenate(near), canal_mm, start, count)
    if not trusted.any():
        # Disease of every body leaves no stretch without a lesion near it, but some with none in the canal.
        trusted = _without(np.concatenate([near[0], hidden_mm]), canal_mm, start, count)
    if trusted.any():
        expected = _interpolate(seen, trusted)
    else:
        labelled = np.concatenate([structure_mm, hidden_mm])
        expected = _ellipses(labelled, start, count, voxel_area, grid)
    stretch = _stretch(lesion_mm, start, count)
    in_zone = expected.at(stretch).ratio(lesion_mm) < _ZONE
    lesion_area = np.bincount(stretch[in_zone], minlength=count) * voxel_area
    missing = np.maximum(0.0, expected.area_mm2 - seen.area_mm2)
    replaced = missing / np.maximum(np.minimum(lesion_area, expected.area_mm2), _LEAST_AREA_MM2)
    joined = _ellipses(np.concatenate([structure_mm, lesion_mm[in_zone]]), start, count, voxel_area, grid)
    replaced = np.where(seen.area_mm2 < _LEAST_AREA_MM2, 1.0, np.clip(replaced, 0.0, 1.0))
    return Envelope(expected, seen, joined, replaced, start)


def _stretch(where_mm: Array, start: float, count: int) -> npt.NDArray[np.intp]:
    """The stretch that each point (n, 3) lies in, or the nearest one; shape (n,)."""
    return np.clip((where_mm[:, 0] - start) / _STRETCH_MM, 0, count - 1).astype(np.intp)


def _counts(where_mm: Array, start: float, count: int) -> npt.NDArray[np.intp]:
    inside = (where_mm[:, 0] >= start) & (where_mm[:, 0] < start + count * _STRETCH_MM)
    return np.bincount(_stretch(where_mm[inside], start, count), minlength=count)


def _without(lesions_mm: Array, canal_mm: Array, start: float, count: int) -> Mask:
    """Stretches where the canal was seen, and no voxel of some lesions, (n, 3), in them or right beside."""
    touched = _counts(lesions_mm, start, count) > 0
    touched = ndimage.binary_dilation(touched, iterations=_PAD) if touched.any() else touched
    return np.asarray(~touched & (_counts(canal_mm, start, count) > 0))


def _ellipses(where_mm: Array, start: float, count: int, voxel_area: float, grid: Grid) -> Ellipses:
    """Moments of each stretch, smoothed with its neighbours: a filled ellipse has variance a²/4."""
    stretch = _stretch(where_mm, start, count)
    kernel = np.array([0.25, 0.5, 0.25])

    def total(weights: Array | None) -> Array:
        sums = np.bincount(stretch, weights=weights, minlength=count).astype(np.float64)
        return np.asarray(ndimage.convolve1d(sums, kernel, mode="nearest"))

    number = total(None)
    safe = np.maximum(number, 1e-6)
    side_voxel, front_voxel = voxel_extent_mm(grid)
    halves, centres = [], []
    for column, voxel in ((1, front_voxel), (2, side_voxel)):
        values = where_mm[:, column]
        mean = total(values) / safe
        variance = np.maximum(total(values**2) / safe - mean**2, 0.0) + voxel**2 / 12.0
        centres.append(mean)
        halves.append(np.where(number > 0, 2.0 * np.sqrt(variance), 0.0))
    return Ellipses(number * voxel_area, centres[0], centres[1], halves[0], halves[1])


def voxel_extent_mm(grid: Grid) -> tuple[float, float]:
    """A voxel's extent along the patient's left-right and front-back directions."""
    columns = grid.affine[:3, :3]
    return float(np.abs(columns[0]).max()), float(np.abs(columns[1]).max())


def _interpolate(seen: Ellipses, trusted: Mask) -> Ellipses:
    """Linear between trusted stretches, each a median of five; an absent structure counts as none."""
    places = np.flatnonzero(trusted)
    every = np.arange(len(trusted))
    present = places[seen.area_mm2[places] >= _LEAST_AREA_MM2]

    def over(values: Array, at: npt.NDArray[np.intp]) -> Array:
        smooth = ndimage.median_filter(values[at], size=min(5, len(at)), mode="nearest")
        return np.asarray(np.interp(every, at, smooth))

    if len(present) == 0:
        none = np.zeros(len(trusted))
        return Ellipses(none, none, none, none, none)
    return Ellipses(
        over(seen.area_mm2, places),
        over(seen.front_mm, present),
        over(seen.side_mm, present),
        over(np.where(seen.area_mm2 >= _LEAST_AREA_MM2, seen.half_front_mm, 0.0), places),
        over(np.where(seen.area_mm2 >= _LEAST_AREA_MM2, seen.half_side_mm, 0.0), places),
    )
