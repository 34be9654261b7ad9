"""Turn a spine phantom into label maps on any grid.

Every shape is evaluated only in the box of voxels that it can reach, in the phantom's
undeformed space: the grid's points are moved there once by the phantom's deformation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.simulation.column import DiscShape, VertebraShape
from spinemets.simulation.disease import paint_lesions
from spinemets.simulation.implicit import (
    Capsule,
    Coordinates,
    body_distance,
    capsule_distance,
    smooth_waves,
    world_points,
)
from spinemets.simulation.phantom import SpinePhantom
from spinemets.simulation.surroundings import paint_canal, paint_surroundings
from spinemets.simulation.tissues import Tissue, code_of_level
from spinemets.volume import Grid

__all__ = ["PhantomLabels", "rasterise"]

Labels = npt.NDArray[np.uint8]
Box = tuple[slice, slice, slice]
Vector = npt.NDArray[np.float64]

_CORTEX_MM = 0.75
_REACH_MM = 7.0  # how far deformation and roughness can move a surface
_BODY_TISSUES = (Tissue.BODY_CORTEX, Tissue.BODY_MARROW, Tissue.POSTERIOR_CORTEX, Tissue.POSTERIOR_MARROW)


@dataclass(frozen=True, slots=True, eq=False)
class PhantomLabels:
    """A phantom on a grid.

    Attributes
    ----------
    tissue
        uint8, shape ``grid.shape``; values of ``Tissue``.
    vertebra
        uint8, same shape; 0 or the level's code (``tissues.LEVEL_OF_CODE``).
    lesion
        uint8, same shape; 0 or the number of the phantom's lesion, from 1.
    """

    grid: Grid
    tissue: Labels
    vertebra: Labels
    lesion: Labels


def rasterise(phantom: SpinePhantom, grid: Grid) -> PhantomLabels:
    """Draw a phantom on a grid: what lies at every voxel's centre.

    Partial volume is not modelled here: draw on a finer grid and average the signals.
    """
    points = _undeformed(phantom, grid)
    canvas = _Canvas(
        grid=grid,
        points=points,
        roughness=smooth_waves(points, phantom.roughness),
        tissue=np.zeros(grid.shape, dtype=np.uint8),
        vertebra=np.zeros(grid.shape, dtype=np.uint8),
    )
    paint_surroundings(canvas.tissue, points, phantom.profile, phantom.fields)
    for vertebra in phantom.vertebrae:
        _paint_ribs(canvas, vertebra)
    for vertebra in phantom.vertebrae:
        _paint_posterior(canvas, vertebra)
    hard = _Canvas(grid, points, canvas.roughness, np.zeros_like(canvas.tissue), canvas.vertebra)
    for disc in phantom.discs:
        _paint_disc(hard, disc)
    for vertebra in phantom.vertebrae:
        _paint_body(hard, vertebra, phantom)
    paint_canal(canvas.tissue, hard.tissue == 0, points, phantom.profile, phantom.fields)
    for disc in phantom.discs:
        _paint_roots(canvas, disc, phantom)
    solid = hard.tissue > 0
    canvas.tissue[solid] = hard.tissue[solid]
    bone = np.isin(canvas.tissue, _VERTEBRAL)
    canvas.vertebra[~bone] = 0
    lesion = paint_lesions(canvas.tissue, world_points(grid), phantom.lesions)
    return PhantomLabels(grid, canvas.tissue, canvas.vertebra, lesion)


_VERTEBRAL = np.array(
    [
        *_BODY_TISSUES,
        Tissue.BASIVERTEBRAL_VEIN,
        Tissue.MARROW_OEDEMA,
        Tissue.MARROW_FAT,
        Tissue.HAEMANGIOMA,
        Tissue.SACRUM_CORTEX,
        Tissue.SACRUM_MARROW,
    ],
    dtype=np.uint8,
)


@dataclass(frozen=True, slots=True, eq=False)
class _Canvas:
    grid: Grid
    points: Coordinates
    roughness: npt.NDArray[np.float32]
    tissue: Labels
    vertebra: Labels

    def box(self, lower_mm: Vector, upper_mm: Vector) -> Box | None:
        """The voxels that an axis-aligned box in the world can reach; None where there are none."""
        corners = np.array(np.meshgrid(*zip(lower_mm, upper_mm, strict=True))).reshape(3, -1).T
        indices = self.grid.to_index(corners)
        start = np.maximum(np.floor(indices.min(axis=0)).astype(int), 0)
        stop = np.minimum(np.ceil(indices.max(axis=0)).astype(int) + 1, self.grid.shape)
        if (start >= stop).any():
            return None
        return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])

    def local(self, box: Box, centre_mm: Vector, frame: Vector) -> Coordinates:
        """Points of a box in a shape's own frame."""
        x, y, z = (
            axis[box] - np.float32(origin) for axis, origin in zip(self.points, centre_mm, strict=True)
        )
        f = frame.astype(np.float32)
        return (
            x * f[0, 0] + y * f[1, 0] + z * f[2, 0],
            x * f[0, 1] + y * f[1, 1] + z * f[2, 1],
            x * f[0, 2] + y * f[1, 2] + z * f[2, 2],
        )


def _undeformed(phantom: SpinePhantom, grid: Grid) -> Coordinates:
    x, y, z = (np.broadcast_to(axis, grid.shape) for axis in world_points(grid))
    dx, dy, dz = (smooth_waves((x, y, z), waves) for waves in phantom.deformation)
    return x + dx, y + dy, z + dz


def _bounds_in_world(vertebra: VertebraShape, capsules: Iterable[Capsule]) -> tuple[Vector, Vector]:
    ends = np.array([vertebra.to_world(end) for rod in capsules for end in (rod.start, rod.end)])
    margin = max(max(rod.semi_axes_mm) for rod in capsules) + _REACH_MM
    return ends.min(axis=0) - margin, ends.max(axis=0) + margin


def _union(canvas: _Canvas, vertebra: VertebraShape, capsules: tuple[Capsule, ...], box: Box) -> Labels:
    """Distance to the nearest of several rods over a box; far where none is near."""
    distance = np.full(canvas.tissue[box].shape, 99.0, dtype=np.float32)
    offset = [part.start for part in box]
    for rod in capsules:
        lower, upper = _bounds_in_world(vertebra, (rod,))
        part = canvas.box(lower, upper)
        if part is None:
            continue
        inner = tuple(
            slice(max(p.start, b.start) - o, min(p.stop, b.stop) - o)
            for p, b, o in zip(part, box, offset, strict=True)
        )
        if any(piece.start >= piece.stop for piece in inner):
            continue
        absolute = tuple(slice(p.start + o, p.stop + o) for p, o in zip(inner, offset, strict=True))
        points = canvas.local((absolute[0], absolute[1], absolute[2]), vertebra.centre_mm, vertebra.frame)
        distance[inner] = np.minimum(distance[inner], capsule_distance(points, rod))
    return distance + canvas.roughness[box]  # type: ignore[return-value]


def _paint_ribs(canvas: _Canvas, vertebra: VertebraShape) -> None:
    if not vertebra.ribs:
        return
    box = canvas.box(*_bounds_in_world(vertebra, vertebra.ribs))
    if box is None:
        return
    distance = _union(canvas, vertebra, vertebra.ribs, box)
    tissue = canvas.tissue[box]
    tissue[distance < 0] = Tissue.CORTICAL_BONE
    tissue[distance < -_CORTEX_MM] = Tissue.RIB


def _paint_posterior(canvas: _Canvas, vertebra: VertebraShape) -> None:
    if not vertebra.processes:
        return
    box = canvas.box(*_bounds_in_world(vertebra, vertebra.processes))
    if box is None:
        return
    distance = _union(canvas, vertebra, vertebra.processes, box)
    tissue, codes = canvas.tissue[box], canvas.vertebra[box]
    inside = distance < 0
    sacral = vertebra.is_sacral
    tissue[inside] = Tissue.SACRUM_CORTEX if sacral else Tissue.POSTERIOR_CORTEX
    tissue[distance < -_CORTEX_MM] = Tissue.SACRUM_MARROW if sacral else Tissue.POSTERIOR_MARROW
    codes[inside] = code_of_level(vertebra.level) if vertebra.level is not None else 0


def _paint_disc(canvas: _Canvas, disc: DiscShape) -> None:
    reach = np.full(3, max(disc.width_mm, disc.depth_mm) / 2 + disc.bulge_mm + _REACH_MM)
    box = canvas.box(disc.centre_mm - reach, disc.centre_mm + reach)
    if box is None:
        return
    x, y, z = canvas.local(box, disc.centre_mm, disc.frame)
    rear = disc.depth_mm / 2 + np.float32(disc.bulge_mm)
    half_depth = np.where(y > 0, disc.depth_mm / 2, rear).astype(np.float32)
    power = np.where(y > 0, 2.6, 3.4).astype(np.float32)
    radius = ((np.abs(x) / (disc.width_mm / 2)) ** power + (np.abs(y) / half_depth) ** power) ** (1 / power)
    half_gap = disc.gap_mm / 2 + y * np.float32(np.tan(np.radians(disc.opening_deg) / 2))
    # Bodies are painted over it later, so it may reach into their concave endplates.
    half = np.maximum(half_gap, 0.6) + 2.5 * np.clip(1 - radius**2, 0, 1) + 0.2
    side = (radius - 1) * np.minimum(disc.width_mm, disc.depth_mm) / 2 + 0.5 * canvas.roughness[box]
    inside = (side < 0) & (np.abs(z) < half)
    core = inside & (((y + 1.0) / (0.68 * half_depth)) ** 2 + (x / (0.35 * disc.width_mm)) ** 2 < 1)
    tissue = canvas.tissue[box]
    tissue[inside] = Tissue.ANNULUS
    tissue[core] = (Tissue.NUCLEUS, Tissue.NUCLEUS_INTERMEDIATE, Tissue.NUCLEUS_DESICCATED)[disc.grade]


def _paint_roots(canvas: _Canvas, disc: DiscShape, phantom: SpinePhantom) -> None:
    """The pair of nerve roots that leaves through the fat of the foramina."""
    row = phantom.profile.index_of(np.array([disc.centre_mm[2]], dtype=np.float32))[0]
    out = float(phantom.profile.canal_width_mm[row]) / 2 + 3.0
    reach = np.full(3, out + disc.depth_mm / 2 + _REACH_MM)
    box = canvas.box(disc.centre_mm - reach, disc.centre_mm + reach)
    if box is None:
        return
    points = canvas.local(box, disc.centre_mm, disc.frame)
    rear = -disc.depth_mm / 2 - 3.5
    tissue = canvas.tissue[box]
    for side in (-1.0, 1.0):
        root = Capsule((side * (out - 1), rear - 1, 6.0), (side * (out + 5), rear + 2, 2.0), (2.2, 2.2, 2.2))
        tissue[(capsule_distance(points, root) < 0) & (tissue == Tissue.EPIDURAL_FAT)] = Tissue.FORAMINAL_ROOT


def _paint_body(canvas: _Canvas, vertebra: VertebraShape, phantom: SpinePhantom) -> None:
    extent = 20.0 if vertebra.body is None else max(vertebra.body.width_mm, vertebra.body.height_mm) / 2
    reach = np.full(3, extent * 1.25 + 2.0 + _REACH_MM)
    lower, upper = vertebra.centre_mm - reach, vertebra.centre_mm + reach
    if vertebra.body_parts:
        low, high = _bounds_in_world(vertebra, vertebra.body_parts)
        lower, upper = np.minimum(lower, low), np.maximum(upper, high)
    box = canvas.box(lower, upper)
    if box is None:
        return
    points = canvas.local(box, vertebra.centre_mm, vertebra.frame)
    distance = np.full(points[0].shape, 99.0, dtype=np.float32)
    if vertebra.body is not None:
        distance = body_distance(points, vertebra.body)[0] + canvas.roughness[box]
    if vertebra.body_parts:
        distance = np.minimum(distance, _union(canvas, vertebra, vertebra.body_parts, box))
    inside, deep = distance < 0, distance < -_CORTEX_MM
    tissue, codes = canvas.tissue[box], canvas.vertebra[box]
    sacral = vertebra.is_sacral
    tissue[inside] = Tissue.SACRUM_CORTEX if sacral else Tissue.BODY_CORTEX
    tissue[deep] = Tissue.SACRUM_MARROW if sacral else Tissue.BODY_MARROW
    codes[inside] = code_of_level(vertebra.level) if vertebra.level is not None else 0
    if vertebra.body is not None and not sacral:
        _paint_inside(tissue, deep, points, vertebra, phantom)


def _paint_inside(
    tissue: Labels,
    deep: npt.NDArray[np.bool_],
    points: Coordinates,
    vertebra: VertebraShape,
    phantom: SpinePhantom,
) -> None:
    """The basivertebral vein and benign changes of the marrow."""
    body = vertebra.body
    if body is None:
        return
    x, y, z = points
    if body.height_mm > 16:
        narrowing = np.clip(1 - (y + body.depth_mm / 2) / (0.4 * body.depth_mm), 0, 1)
        vein = deep & (np.abs(z) < 2.2 * narrowing) & (np.abs(x) < 5 * narrowing + 1) & (narrowing > 0)
        tissue[vein] = Tissue.BASIVERTEBRAL_VEIN
    if not vertebra.mimic:
        return
    uneven = smooth_waves(points, phantom.fields[1])
    if vertebra.mimic == "haemangioma":
        offset = (0.15 * body.width_mm, 0.1 * body.depth_mm, 0.1 * body.height_mm)
        squared = sum((axis - o) ** 2 for axis, o in zip(points, offset, strict=True))
        area = squared < (0.28 * body.height_mm * (1 + 0.15 * uneven)) ** 2
        tissue[deep & area] = Tissue.HAEMANGIOMA
        return
    # Endplate changes are bands, thicker in front.
    band = body.height_mm * (0.2 + 0.12 * y / body.depth_mm) * (1 + 0.3 * uneven)
    area = z > body.height_mm / 2 - band - body.front_loss_mm - body.middle_loss_mm * 0.7
    tissue[deep & area] = Tissue.MARROW_OEDEMA if vertebra.mimic == "oedema" else Tissue.MARROW_FAT
