"""What can be measured of each vertebra instance and of the cord, in mm along the canal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.segmented import SpineSegmentation
from spinemets.spinal_axis import SpinalAxis, fit_spinal_axis
from spinemets.volume import Grid, Mask
from spinemets.voxels import SAMPLED_VOXELS, thin_out, unseen_part, voxels_of

__all__ = ["BodyMeasures", "Conus", "SpineMeasures", "measure_spine"]

Array = npt.NDArray[np.float64]

_MINIMUM_CORD_MM3 = 300.0
_MINIMUM_CANAL_MM = 60.0  # of visible sac without cord, before that says anything of the conus
_CONUS_MARGIN_MM = 15.0  # cord that ends this near the last seen sac is taken to go on
_PROFILE_MM = 3.0
_RIM_MM = 2.0  # of a rim without values, what is labelled may end as far as this
_CUT_FACE_MM2 = 50.0  # of such a rim beside a body, before it is cut: a twentieth of an endplate


@dataclass(frozen=True, slots=True)
class BodyMeasures:
    """One instance's body, or the visible sacrum; along the canal from head to foot, in mm.

    Attributes
    ----------
    height_mm, depth_mm, width_mm
        Along the canal, front to back, and across; None where the image cuts that extent.
    nominal_mm
        The height it would have uncollapsed, uncut and without a dens, from its depth.
    """

    instance: int
    centroid_mm: tuple[float, float, float]
    top_mm: float
    bottom_mm: float
    height_mm: float | None
    depth_mm: float | None
    width_mm: float | None
    nominal_mm: float
    is_sacrum: bool
    fully_visible: bool


@dataclass(frozen=True, slots=True)
class Conus:
    """Where the cord ends.

    Attributes
    ----------
    place
        In the view, beyond its upper or lower end, or not to be told.
    along_mm
        Along the canal: where it is seen to end, or was last seen; 0 for the other places.
    """

    place: Literal["seen", "above", "below", "unknown"]
    along_mm: float = 0.0


@dataclass(frozen=True, slots=True)
class SpineMeasures:
    """All instances head to foot, the conus, and the empty room in the image beyond them."""

    bodies: tuple[BodyMeasures, ...]
    conus: Conus
    room_above_mm: float
    room_below_mm: float


def measure_spine(segmentation: SpineSegmentation) -> SpineMeasures:
    """Measure every instance that has a body, head to foot."""
    grid = segmentation.grid
    axis = fit_spinal_axis(segmentation.anatomy, grid)
    bony = (segmentation.anatomy == Structure.VERTEBRAL_BODY) | (segmentation.anatomy == Structure.SACRUM)
    bony &= segmentation.vertebrae > 0
    voxels = voxels_of(bony, SAMPLED_VOXELS)
    if axis is None or len(voxels) == 0:
        return SpineMeasures((), Conus("unknown"), 0.0, 0.0)
    index = tuple(voxels.T)
    instance = segmentation.vertebrae[index]
    is_sacral = segmentation.anatomy[index] == Structure.SACRUM
    where = axis.project(grid.to_world(voxels))
    unseen = unseen_part(segmentation.covered)
    cut = _cut_directions(segmentation.vertebrae, bony, grid)
    if unseen is not None:
        cut |= _cut_by_rim(segmentation.vertebrae, bony, unseen, grid)
    order = np.argsort(instance, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(instance[order])) + 1)
    bodies = []
    for rows in groups:
        own = int(instance[rows[0]])
        bodies.append(_measure_body(own, voxels[rows], where[rows], is_sacral[rows], cut[own], grid))
    bodies.sort(key=lambda body: body.instance)
    room = [_room_mm(axis, grid, unseen, *end) for end in ((bodies[0], -1), (bodies[-1], 1))]
    return SpineMeasures(tuple(bodies), _find_conus(segmentation, axis), *room)


def _cut_directions(vertebrae: npt.NDArray[np.uint8], bony: Mask, grid: Grid) -> Mask:
    """Whether bodies touch the image's border: shape (256, 3), left-right, front-back, head-foot."""
    directions = np.abs(grid.affine[:3, :3] / np.array(grid.spacing_mm))
    cut = np.zeros((256, 3), dtype=np.bool_)
    for axis in range(3):
        direction = int(directions[:, axis].argmax())
        for end in (0, -1):
            face = np.take(vertebrae, end, axis=axis)[np.take(bony, end, axis=axis)]
            cut[np.unique(face), direction] = True
    return cut


def _cut_by_rim(vertebrae: npt.NDArray[np.uint8], bony: Mask, unseen: Mask, grid: Grid) -> Mask:
    """The same for the part of the image that holds no values; single voxels of it do not count."""
    directions = np.abs(grid.affine[:3, :3] / np.array(grid.spacing_mm))
    cut = np.zeros((256, 3), dtype=np.bool_)
    for axis, spacing_mm in enumerate(grid.spacing_mm):
        direction = int(directions[:, axis].argmax())
        step = max(1, round(_RIM_MM / spacing_mm))
        enough = _CUT_FACE_MM2 * spacing_mm / grid.voxel_volume_mm3
        low: list[slice] = [slice(None)] * 3
        high = low.copy()
        low[axis], high[axis] = slice(None, -step), slice(step, None)
        for inner, outer in ((tuple(low), tuple(high)), (tuple(high), tuple(low))):
            met = vertebrae[inner][bony[inner] & unseen[outer]]
            cut[:, direction] |= np.bincount(met, minlength=256) > enough * step
    return cut


def _measure_body(
    instance: int, voxels: npt.NDArray[np.intp], where: Array, is_sacral: Mask, cut: Mask, grid: Grid
) -> BodyMeasures:
    """Measure one instance by its bony voxels, in mm along and across the canal.

    Parameters
    ----------
    voxels, where, is_sacral
        Shapes (n, 3), (n, 3) and (n,): indices, places along and across the canal, and which are sacrum.
    cut
        Shape (3,): whether the image cuts it left-right, front-back, head-foot.
    """
    is_sacrum = bool(is_sacral.mean() > 0.5)
    part = where[is_sacral] if is_sacrum else where
    front, side = np.median(part[:, 1]), np.median(part[:, 2])
    slack = min(grid.spacing_mm)
    beside = np.abs(part[:, 2] - side) < 7.0
    # Two halves with nothing between them have no middle.
    depth = _extent((part[beside] if beside.any() else part)[:, 1], slack)[2]
    column = part[beside & (np.abs(part[:, 1] - front) < 0.3 * depth)]
    top, bottom, height = _extent((column if len(column) else part)[:, 0], slack)
    width = _extent(part[:, 2], max(grid.spacing_mm))[2]
    across, front_back, head_foot = (bool(cut[direction]) for direction in range(3))
    centre = grid.to_world(voxels).mean(axis=0)
    return BodyMeasures(
        instance=instance,
        centroid_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        top_mm=top,
        bottom_mm=bottom,
        height_mm=None if head_foot or is_sacrum else height,
        depth_mm=None if front_back or is_sacrum else depth,
        width_mm=None if across or is_sacrum else width,
        nominal_mm=float(np.clip(height, 0.55 * depth, 0.95 * depth)),
        is_sacrum=is_sacrum,
        fully_visible=not (head_foot or front_back),
    )


def _extent(values: Array, voxel_mm: float) -> tuple[float, float, float]:
    """Ends and length of a filled interval from the voxel centres in it, robust to strays."""
    low, high = np.percentile(values, (4, 96))
    margin = 0.04 / 0.92 * (high - low) + voxel_mm / 2
    return float(low - margin), float(high + margin), float(high - low + 2 * margin)


def _room_mm(axis: SpinalAxis, grid: Grid, unseen: Mask | None, body: BodyMeasures, step: int) -> float:
    """Length of the column's continuation that lies inside the image, beyond an end body.

    Parameters
    ----------
    step
        -1 towards the head, 1 towards the foot.
    """
    start = body.top_mm if step < 0 else body.bottom_mm
    front = axis.project([body.centroid_mm])[0, 1:]
    reach = np.arange(0.0, 80.0, 2.0)
    points = axis.to_world(np.column_stack([start + step * reach, np.tile(front, (len(reach), 1))]))
    index = grid.to_index(points)
    inside = np.asarray(((index >= 0) & (index <= np.array(grid.shape) - 1)).all(axis=1))
    if unseen is not None:
        inside[inside] = ~unseen[tuple(np.rint(index[inside]).astype(np.intp).T)]
    return float(reach[-1] if inside.all() else reach[int(np.argmin(inside))])


def _find_conus(segmentation: SpineSegmentation, axis: SpinalAxis) -> Conus:
    """The lowest height at which the cord still has a quarter of its usual cross-section."""
    grid = segmentation.grid
    voxels = voxels_of(segmentation.anatomy == Structure.CORD)
    cord = axis.project(grid.to_world(thin_out(voxels)))[:, 0]
    beside = voxels_of(segmentation.anatomy == Structure.THECAL_SAC, SAMPLED_VOXELS)
    sac = axis.project(grid.to_world(beside))[:, 0]
    if len(voxels) * grid.voxel_volume_mm3 < _MINIMUM_CORD_MM3:
        seen = len(sac) > 0 and np.subtract(*np.percentile(sac, (98, 2))) > _MINIMUM_CANAL_MM
        return Conus("above" if seen else "unknown")
    edges = np.arange(cord.min(), cord.max() + 2 * _PROFILE_MM, _PROFILE_MM)
    profile = np.histogram(cord, edges)[0]
    thick = np.flatnonzero(profile > 0.25 * np.median(profile[profile > 0]))
    end = float(edges[thick[-1] + 1])
    last = max(end, float(np.percentile(sac, 99)) if len(sac) else end)
    return Conus("below" if last - end < _CONUS_MARGIN_MM else "seen", end)
