"""From a label map of structures to single vertebrae.

Works along the curve of the canal: eroded bodies give pieces, of which single bodies are made,
and every bony voxel then goes to one vertebra. Names of levels are not its business.

C1 has no body. It becomes an instance only where its anterior arch was labelled as a body
of its own beside the dens; its arch behind the canal goes with C2, whose dens is as high.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import cc3d
import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.arches import arch_drop_mm, pitch_at
from spinemets.bodies import BODY_FRONT_MM, Bodies, Piece, gather_bodies, height_from_depth_mm, single_bodies
from spinemets.islands import cores_and_components
from spinemets.spinal_axis import SpinalAxis, fit_spinal_axis
from spinemets.volume import Grid, Mask
from spinemets.voxels import bounding_box, corner, thin_out, voxels_of

__all__ = ["split_vertebrae"]

Labels = npt.NDArray[np.uint8]

_MINIMUM_SACRUM_MM3 = 800.0
_ARCH_MAJORITY = 0.6
# How far from the canal's centre posterior elements reach, to the back, the front and either side.
_ARCH_BEHIND_MM, _ARCH_FRONT_MM, _ARCH_SIDE_MM = 75.0, 45.0, 60.0
_MAXIMUM_INSTANCES = 250


def split_vertebrae(
    anatomy: Labels, body_probability: npt.NDArray[np.float32] | None, grid: Grid
) -> npt.NDArray[np.uint8]:
    """Number the vertebrae of a label map from head to foot.

    Parameters
    ----------
    anatomy
        uint8, shape ``grid.shape``; values of ``Structure``.
    body_probability
        float32 of the same shape, in [0, 1], or None; where given, it helps to find the
        disc space in a blob of two fused bodies.

    Returns
    -------
    npt.NDArray[np.uint8]
        Shape ``grid.shape``: 0, or 1..n from head to foot. An instance holds body and
        posterior elements; the whole visible sacrum is the last one.
    """
    instances = np.zeros(grid.shape, dtype=np.uint8)
    axis = fit_spinal_axis(anatomy, grid)
    if axis is None:
        return instances
    bodies = gather_bodies(anatomy, body_probability, grid, axis)
    sacrum, sacrum_top_mm = _find_sacrum(anatomy, grid, axis)
    cores, components = cores_and_components(anatomy == Structure.VERTEBRAL_BODY, grid)
    pieces = single_bodies(bodies, cores, sacrum_top_mm)
    _assign_bodies(instances, bodies, pieces, components)
    bounds = _Boundaries.between(pieces, sacrum_top_mm)
    _assign_arches(instances, anatomy, grid, axis, bounds)
    if sacrum.any() and len(pieces) < _MAXIMUM_INSTANCES:
        instances[sacrum] = len(pieces) + 1
    return instances


def _assign_bodies(
    instances: Labels, bodies: Bodies, pieces: list[Piece], components: npt.NDArray[np.intp]
) -> None:
    """Write bodies: a core keeps its piece; a rim follows its component, or the nearest height."""
    if not pieces:
        return
    owner = np.zeros(len(bodies.voxels), dtype=np.intp)
    for number, piece in enumerate(pieces, start=1):
        owner[piece.rows] = number
    lowest = np.full(int(components.max()) + 1, len(pieces) + 1, dtype=np.intp)
    highest = np.zeros(int(components.max()) + 1, dtype=np.intp)
    owned = owner > 0
    np.minimum.at(lowest, components[owned], owner[owned])
    np.maximum.at(highest, components[owned], owner[owned])
    rim = ~owned & (highest[components] > 0)
    by_height = np.digitize(bodies.where_mm[rim, 0], _borders_mm(pieces)) + 1
    owner[rim] = np.clip(by_height, lowest[components[rim]], highest[components[rim]])
    instances[tuple(bodies.voxels.T)] = owner


def _find_sacrum(anatomy: Labels, grid: Grid, axis: SpinalAxis) -> tuple[Mask, float]:
    """The sacrum's largest component and those above a tenth of its size; the largest's top along the axis.

    Where too little of a sacrum is labelled, nothing, at infinity.
    """
    mask = anatomy == Structure.SACRUM
    sacrum = np.zeros(grid.shape, dtype=np.bool_)
    box = bounding_box(mask)
    if box is None:
        return sacrum, float("inf")
    islands = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=18)
    counts = np.bincount(islands.ravel())
    counts[0] = 0
    if counts.max() * grid.voxel_volume_mm3 < _MINIMUM_SACRUM_MM3:
        return sacrum, float("inf")
    sacrum[box] = (counts > 0.1 * counts.max())[islands]
    largest = voxels_of(islands == int(counts.argmax())) + corner(box)
    where = axis.project(grid.to_world(thin_out(largest)))
    front = where[where[:, 1] > BODY_FRONT_MM[0]]
    return sacrum, float(np.percentile(front[:, 0] if len(front) else where[:, 0], 2))


@dataclass(frozen=True, slots=True, eq=False)
class _Boundaries:
    """Heights along the axis, in mm, at which one vertebra ends and the next begins, and of their middles."""

    start_mm: float
    between_mm: tuple[float, ...]
    stop_mm: float
    middles_mm: tuple[float, ...] = ()

    @classmethod
    def between(cls, pieces: list[Piece], sacrum_top_mm: float) -> _Boundaries:
        if not pieces:
            return cls(0.0, (), 0.0)
        first, last = pieces[0], pieces[-1]
        reach = 0.5 * min(first.height_mm, height_from_depth_mm([first]))
        stop = min(last.bottom_mm + 0.5 * last.height_mm, sacrum_top_mm + 5.0)
        middles = tuple(piece.middle_mm for piece in pieces)
        return cls(first.top_mm - reach, _borders_mm(pieces), stop, middles)


def _borders_mm(pieces: list[Piece]) -> tuple[float, ...]:
    """Where along the axis each piece ends and the next begins: halfway between them, in order."""
    middles = [0.5 * (upper.bottom_mm + lower.top_mm) for upper, lower in pairwise(pieces)]
    return tuple(accumulate(middles, max))


def _assign_arches(
    instances: Labels, anatomy: Labels, grid: Grid, axis: SpinalAxis, bounds: _Boundaries
) -> None:
    """Write posterior elements to the vertebra whose body lies where theirs should.

    A component that belongs mostly to one vertebra goes to it as a whole.
    """
    mask = anatomy == Structure.POSTERIOR_ELEMENTS
    box = bounding_box(mask)
    if box is None or bounds.stop_mm <= bounds.start_mm:
        return
    voxels = voxels_of(mask)
    where = axis.project(grid.to_world(voxels))
    pitch = pitch_at(where[:, 0], np.array(bounds.middles_mm))
    height = where[:, 0] - arch_drop_mm(-where[:, 1], where[:, 2], pitch)
    owner = np.digitize(height, bounds.between_mm) + 1
    owner[(height < bounds.start_mm) | (height > bounds.stop_mm)] = 0
    front, side = where[:, 1], np.abs(where[:, 2])
    owner[(side > _ARCH_SIDE_MM) | (front < -_ARCH_BEHIND_MM) | (front > _ARCH_FRONT_MM)] = 0
    islands = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=6)
    island = islands[mask[box]].astype(np.intp)
    kinds = int(owner.max()) + 1
    votes = np.bincount(island * kinds + owner, minlength=(int(island.max()) + 1) * kinds).reshape(-1, kinds)
    winner, share = votes.argmax(axis=1), votes.max(axis=1) / np.maximum(votes.sum(axis=1), 1)
    owner = np.where(share[island] >= _ARCH_MAJORITY, winner[island], owner)
    instances[tuple(voxels.T)] = owner
