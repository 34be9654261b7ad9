"""Every place in a vertebral body against the same place in the bodies above and below it.

What neighbours share is usual for this patient and this scan: coil fall-off, the basivertebral
vein, marrow that is fatty or uneven throughout. What is brighter, or darker, than the same place in
both of them is not. A reader finds so a body that disease fills evenly, where a network that goes by
edges and texture sees nothing. On T1 and STIR the networks see such bodies themselves, so only studies
of T2 alone are compared.

Bodies are compared in cells along and across the axis of the canal, so that their tilt and size
cancel. Knows nothing of networks or of levels' names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import expit, logit

from spinemets.anatomy import Structure
from spinemets.spinal_axis import fit_spinal_axis
from spinemets.volume import Grid, Mask, Volume, Weighting
from spinemets.voxels import voxels_of

__all__ = ["BodyCells", "raise_where_unlike"]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]

# A body has so many cells from its upper to its lower endplate and from back to front, of 3 to 4 mm.
_HIGH, _DEEP = 8, 10
_SIDE_MM = 3.5  # of a cell across the spine; slices that are thicker have a cell each
_ENDS_PERCENT = (3.0, 97.0)  # of a body's voxels: where it begins and ends
_LEAST_BODY_MM3 = 3000.0
_BLUR_CELLS = 0.7
_LEAST_FILLED = 0.05  # of a cell, against the fullest
_LEAST_SIGNAL = 0.05  # of the median; what is darker is no darker
_FARTHEST = 2  # a body's neighbour is at most so many away, where those between are ill
_FARTHEST_AT_ENDS = 3
_ILL_PROBABILITY, _ILL_SHARE = 0.25, 0.3  # a body of which so much may be lesion is nobody's measure

# Chosen on exams for tuning, 20 as they are and with lesions implanted. Ratios are natural logarithms.
_UNLIKE, _VERY_UNLIKE = 0.25, 0.35
_MORE_AT_ENDS = 0.2  # where both neighbours lie on one side
_LEAST_PLACE_MM3 = 300.0
_LOG_ODDS_ADDED = 5.0
_HIGHEST_LOG_ODDS = 0.7  # what the networks do not see is never certain
_CERTAIN = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class BodyCells:
    """The vertebral bodies of a study, each divided into the same cells.

    Attributes
    ----------
    voxels
        (n, 3): indices on the label map's grid.
    where
        (4, n): each voxel's body, and its cell from head to foot, from back to front and from left to
        right; all but the first are fractions.
    shape
        How many bodies, and how many cells along each axis.
    voxel_mm3
        A voxel's volume.
    """

    voxels: npt.NDArray[np.intp]
    where: Array
    shape: tuple[int, int, int, int]
    voxel_mm3: float

    @classmethod
    def of(cls, anatomy: Labels, vertebrae: Labels, grid: Grid) -> BodyCells | None:
        """Divide the bodies of a label map; None where there are fewer than three.

        Parameters
        ----------
        anatomy, vertebrae
            uint8, shape ``grid.shape``: values of ``Structure``, and vertebrae from 1 from head to foot.
        """
        axis = fit_spinal_axis(anatomy, grid)
        if axis is None:
            return None
        voxels = voxels_of(anatomy == Structure.VERTEBRAL_BODY)
        owners = vertebrae[tuple(voxels.T)]
        sizes_mm3 = np.bincount(owners, minlength=1) * grid.voxel_volume_mm3
        sizes_mm3[0] = 0.0
        numbers = np.flatnonzero(sizes_mm3 >= _LEAST_BODY_MM3)
        if len(numbers) < 3:
            return None
        kept = np.isin(owners, numbers)
        voxels, bodies = voxels[kept], np.searchsorted(numbers, owners[kept])
        side_mm = max(_SIDE_MM, grid.spacing_mm[grid.slice_axis])
        cells = _cells_of(bodies, axis.project(grid.to_world(voxels)), side_mm)
        shape = (len(numbers), _HIGH, _DEEP, int(cells[2].max()) + 2)
        return cls(voxels, np.vstack([bodies, cells]), shape, grid.voxel_volume_mm3)

    def totals(self, values: npt.NDArray[np.generic]) -> Array:
        """Sums of the voxels' values (n,) over each cell, of ``shape``."""
        bodies, *cells = np.rint(self.where).astype(np.intp)
        places = np.ravel_multi_index((bodies, *cells), self.shape)
        sums: Array = np.bincount(places, values, int(np.prod(self.shape))).astype(np.float64)
        return sums.reshape(self.shape)

    def shares(self, chosen: Mask) -> Array:
        """The share of each body's voxels that are chosen, (n,); (bodies,)."""
        bodies = self.where[0].astype(np.intp)
        return np.bincount(bodies, chosen, self.shape[0]) / np.bincount(bodies, minlength=self.shape[0])

    def at_voxels(self, cells: Array) -> Array:
        """Values of the cells, interpolated between those of one body; (n,)."""
        return np.asarray(ndimage.map_coordinates(cells, self.where, order=1, mode="nearest"))


def raise_where_unlike(
    probability: Probabilities,
    volumes: Sequence[Volume],
    covered: Sequence[Mask],
    anatomy: Labels,
    vertebrae: Labels,
) -> Probabilities:
    """Raise the lesion probability where a body is unlike both of its neighbours, in a study of T2 alone.

    Of several series the mean counts.

    Parameters
    ----------
    probability
        float32, in [0, 1], on the grid of the volumes.
    covered
        Where each volume has values, or nothing where all have them everywhere.
    anatomy, vertebrae
        As for ``BodyCells.of``.

    Returns
    -------
    Probabilities
        Nowhere lower, and the same outside of bodies, at their rims, and everywhere where a series is of
        another weighting.
    """
    if any(volume.series.weighting is not Weighting.T2 for volume in volumes):
        return probability
    cells = BodyCells.of(anatomy, vertebrae, volumes[0].grid)
    if cells is None:
        return probability
    place = tuple(cells.voxels.T)
    before = probability[place]
    maybe_ill = before > _ILL_PROBABILITY
    neighbours = _neighbours(cells.shares(maybe_ill) > _ILL_SHARE)
    strength = np.zeros(cells.shape)
    for rank, volume in enumerate(volumes):
        shown = covered[rank][place] if covered else np.ones(len(before), dtype=np.bool_)
        # Images that were standardised have values below 0.
        signal = volume.intensities[place] - min(0.0, float(volume.intensities.min()))
        strength += _strength(cells, _unlike(cells, signal, shown, maybe_ill, neighbours)) / len(volumes)
    log_odds = logit(before.clip(_CERTAIN, 1 - _CERTAIN))
    added = _LOG_ODDS_ADDED * cells.at_voxels(strength)
    raised = probability.copy()
    raised[place] = np.maximum(before, expit(np.minimum(log_odds + added, _HIGHEST_LOG_ODDS)) * (added > 0))
    return raised


def _cells_of(bodies: npt.NDArray[np.intp], where_mm: Array, side_mm: float) -> Array:
    """Cells of voxels, (3, n), from their bodies, (n,), and places along and across the axis, (n, 3)."""
    cells = np.empty((3, len(bodies)))
    for body in range(int(bodies.max()) + 1):
        own = bodies == body
        low, high = np.percentile(where_mm[own, :2], _ENDS_PERCENT, axis=0)
        shares = (where_mm[own, :2] - low) / np.maximum(high - low, 1.0)
        cells[:2, own] = (shares * (_HIGH, _DEEP)).T - 0.5
    cells[2] = (where_mm[:, 2] - where_mm[:, 2].min()) / side_mm
    return np.clip(cells, 0.0, np.array([[_HIGH - 1.0], [_DEEP - 1.0], [np.inf]]))


def _neighbours(ill: Mask) -> list[tuple[int, int, int]]:
    """Bodies and the two healthy ones to compare each with: one on each side, or at the ends the next two."""
    healthy = np.flatnonzero(~ill)
    found = []
    for body in range(len(ill)):
        above, below = healthy[healthy < body][::-1], healthy[healthy > body]
        pair = [above[0], below[0]] if len(above) and len(below) else [*above[:2], *below[:2]]
        farthest = _FARTHEST if len(above) and len(below) else _FARTHEST_AT_ENDS
        if len(pair) == 2 and np.abs(np.subtract(pair, body)).max() <= farthest:
            found.append((body, int(pair[0]), int(pair[1])))
    return found


def _unlike(
    cells: BodyCells,
    signal: Array,
    shown: Mask,
    maybe_ill: Mask,
    neighbours: Sequence[tuple[int, int, int]],
) -> Array:
    """Logarithm of each cell's signal over that of its more similar neighbour; 0 where it lies between both.

    At the ends what the next two bodies lead to expect counts as a third neighbour, and the logarithm is
    smaller by a margin.

    Parameters
    ----------
    signal, shown, maybe_ill
        (n,): of the cells' voxels, not below 0; which of them have one; and which a lesion may fill, so
        that they are nobody's measure.
    """
    blur = (0.0, _BLUR_CELLS, _BLUR_CELLS, _BLUR_CELLS)
    filled = cells.totals(shown)
    weight = ndimage.gaussian_filter(filled, blur, mode="constant")
    total = ndimage.gaussian_filter(cells.totals(signal * shown), blur, mode="constant")
    seen = (filled > 0) & (weight > _LEAST_FILLED * filled.max())
    unlike = np.zeros(cells.shape)
    if not seen.any() or not (usual := float(np.median(total[seen] / weight[seen]))) > 0:
        return unlike
    mean = np.divide(total, weight, out=np.full(cells.shape, np.nan), where=seen)
    log = np.log(np.maximum(mean, _LEAST_SIGNAL * usual))
    measure = np.where(cells.totals(maybe_ill) > _ILL_SHARE * np.maximum(filled, 1.0), np.nan, log)
    for body, one, other in neighbours:
        expected = [measure[one], measure[other]]
        at_end = (one < body) == (other < body)
        if at_end:
            expected.append(2 * measure[one] - measure[other])  # a coil's fall-off goes on
        differences = log[body] - np.stack(expected)
        nearest = np.maximum(differences.min(axis=0), 0.0) + np.minimum(differences.max(axis=0), 0.0)
        margin = _MORE_AT_ENDS if at_end else 0.0
        unlike[body] = np.nan_to_num(np.sign(nearest) * np.maximum(np.abs(nearest) - margin, 0.0))
    # At the rims lie endplates, corners and what of the disc is labelled as bone.
    inner = np.zeros(cells.shape, dtype=np.bool_)
    inner[:, 1:-1, 1:-1] = True
    return np.where(inner, unlike, 0.0)


def _strength(cells: BodyCells, unlike: Array) -> Array:
    """How much is to be added, from 0 to 1: for places of some size that are all brighter, or all darker."""
    within = ndimage.generate_binary_structure(4, 1)
    within[[0, 2]] = False  # not from body to body
    volumes_mm3 = cells.totals(np.ones(cells.voxels.shape[0])) * cells.voxel_mm3
    graded = ((np.abs(unlike) - _UNLIKE) / (_VERY_UNLIKE - _UNLIKE)).clip(0.0, 1.0)
    strength = np.zeros(cells.shape)
    for sign in (1, -1):
        places, count = ndimage.label(sign * unlike > _UNLIKE, within)
        sizes_mm3 = ndimage.sum_labels(volumes_mm3, places, np.arange(count + 1))
        sizes_mm3[0] = 0.0
        strength += graded * (sizes_mm3 >= _LEAST_PLACE_MM3)[places]
    return strength
