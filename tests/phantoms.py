"""Analytic spines whose truth is known by construction: bodies, discs, arches, sac, cord, sacrum.

Everything is drawn in coordinates along and across a curved canal, for any field of view,
spacing, axis order and direction. Sizes are rounded averages of adult spines (Panjabi 1991
and 1992 for bodies); single vertebrae deviate from them at random. C1 has no body: it is
drawn, where asked for, as its anterior arch in front of the dens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from spinemets.anatomy import SpineRegion, Structure, VertebralLevel
from spinemets.segmented import InstanceEvidence, SpineSegmentation
from spinemets.volume import Grid, Series, Volume, Weighting

# level: body height, depth, width and the height of the disc below, mm
SIZES_MM = {
    "C2": (36.0, 15.0, 17.0, 5.0),
    "C3": (12.5, 15.5, 16.5, 5.0),
    "C4": (12.3, 15.8, 17.5, 5.0),
    "C5": (12.2, 15.8, 18.0, 5.0),
    "C6": (12.0, 16.8, 19.0, 5.2),
    "C7": (13.6, 17.6, 22.0, 5.2),
    "T1": (15.2, 18.0, 25.0, 4.6),
    "T2": (16.4, 19.3, 25.0, 4.2),
    "T3": (16.6, 21.8, 24.8, 4.2),
    "T4": (17.2, 23.0, 25.0, 4.2),
    "T5": (17.4, 24.2, 25.5, 4.4),
    "T6": (18.2, 25.9, 27.0, 4.6),
    "T7": (19.0, 27.2, 28.5, 4.9),
    "T8": (19.6, 28.0, 30.0, 5.2),
    "T9": (20.4, 29.2, 31.2, 5.6),
    "T10": (21.4, 30.3, 33.0, 6.0),
    "T11": (22.6, 31.6, 36.0, 6.6),
    "T12": (24.2, 32.6, 39.5, 7.4),
    "T13": (25.0, 33.2, 40.5, 8.0),
    "L1": (25.6, 33.8, 41.5, 8.6),
    "L2": (26.2, 34.4, 43.0, 9.6),
    "L3": (26.4, 35.0, 44.5, 10.4),
    "L4": (26.2, 35.4, 46.5, 11.0),
    "L5": (25.4, 35.0, 48.0, 10.4),
    "L6": (24.6, 34.6, 48.5, 9.6),
}
SACRUM_HEIGHT_MM = 95.0
NORMAL = tuple(name for name in SIZES_MM if name not in ("T13", "L6"))
VARIANTS = {
    "normal": NORMAL,
    "T13": tuple(name for name in SIZES_MM if name != "L6"),
    "L6": tuple(name for name in SIZES_MM if name != "T13"),
    "no T12": tuple(name for name in NORMAL if name != "T12"),
    "no L5": tuple(name for name in NORMAL if name != "L5"),
}
CANAL_RADII_MM = (7.0, 9.5)  # front-back, left-right
CORD_RADII_MM = (3.6, 5.5)
_LEVELS = {level.value: rank for rank, level in enumerate(VertebralLevel)}


@dataclass(frozen=True)
class PhantomOptions:
    """What to draw; lengths in mm, levels by name."""

    variant: str = "normal"
    highest: str | None = None  # the first vertebra wholly in view; None: everything from C2 up
    lowest: str | None = None  # the last one; "S1" or None: the sacrum is in view
    margin_mm: float = 3.0
    spacing_mm: tuple[float, float, float] = (4.0, 1.8, 1.8)  # left-right, front-back, head-foot
    half_width_mm: float = 26.0
    axis_order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    tilt_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    size_sd: float = 0.03
    scoliosis_mm: float = 0.0
    kyphosis_degrees: float = 0.0
    conus: str = "L1"
    atlas: bool = False
    cord: bool = True
    sacrum: bool = True
    missing: tuple[str, ...] = ()
    missing_discs: tuple[str, ...] = ()
    collapsed: tuple[tuple[str, float], ...] = ()
    network_evidence: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Phantom:
    """A drawn spine with its truth."""

    segmentation: SpineSegmentation
    names: tuple[str, ...]  # of the instances, head to foot
    level_map: np.ndarray  # rank of VertebralLevel + 1, or 0; also of vertebrae left out
    tops_mm: dict[str, float] = field(repr=False)
    heights_mm: dict[str, float] = field(repr=False)
    curve: _Curve = field(repr=False)
    options: PhantomOptions = field(repr=False)

    def point(self, level: str, front_mm: float, right_mm: float = 0.0, rise: float = 0.5) -> np.ndarray:
        """RAS+ mm of a place beside a vertebra: distances from the canal's centre; rise 0 is its top."""
        along = self.tops_mm[level] + rise * self.heights_mm[level]
        return self.curve.to_world(along, front_mm, right_mm)

    def body_front_mm(self, level: str) -> float:
        """Distance of a body's centre in front of the canal's centre."""
        depth = SIZES_MM.get(level, (0, 34.0, 0, 0))[1] * self.options.scale
        return CANAL_RADII_MM[0] + 1.0 + depth / 2


class _Curve:
    """The canal's centre line, from the top of C2 down, sampled every millimetre."""

    def __init__(
        self, breaks_mm: np.ndarray, degrees: np.ndarray, scoliosis_mm: float, length_mm: float
    ) -> None:
        along = np.arange(-60.0, length_mm + 60.0, 1.0)
        angle = np.radians(np.interp(along, breaks_mm, degrees))
        side = scoliosis_mm * np.cos(2 * np.pi * along / 320.0) * 2 * np.pi / 320.0
        tangent = np.stack([side, np.sin(angle), -np.cos(angle)], axis=1)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        self.along, self.tangent = along, tangent
        self.points = np.cumsum(tangent, axis=0)
        self.points -= self.points[60] - np.array([0.0, -40.0, 300.0])
        front = np.array([0.0, 1.0, 0.0]) - tangent[:, 1:2] * tangent
        self.front = front / np.linalg.norm(front, axis=1, keepdims=True)
        self.right = np.cross(tangent, self.front)
        self.tree = cKDTree(self.points)

    def to_world(self, along: float, front: float, right: float) -> np.ndarray:
        at = int(np.clip(round(along - self.along[0]), 0, len(self.along) - 1))
        rest = along - self.along[at]
        return self.points[at] + rest * self.tangent[at] + front * self.front[at] + right * self.right[at]

    def coordinates(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nearest = self.tree.query(points)[1]
        offset = points - self.points[nearest]
        along = self.along[nearest] + (offset * self.tangent[nearest]).sum(axis=1)
        return along, (offset * self.front[nearest]).sum(axis=1), (offset * self.right[nearest]).sum(axis=1)


def draw_phantom(options: PhantomOptions | None = None, **changes: object) -> Phantom:
    """Draw a spine; keyword arguments replace single options. Equal options share one drawing."""
    return _draw(replace(options or PhantomOptions(), **changes))


@lru_cache(maxsize=32)
def _draw(options: PhantomOptions) -> Phantom:
    names = VARIANTS[options.variant]
    sizes, tops, sacrum_top = _stack(options, names)
    curve = _bend(options, tops, sacrum_top)
    grid = _grid(options, tops, sizes, sacrum_top, curve)
    indices = np.indices(grid.shape).reshape(3, -1).T
    where = curve.coordinates(grid.to_world(indices))
    anatomy, level_map = _paint(options, names, sizes, tops, sacrum_top, where)
    anatomy, level_map = anatomy.reshape(grid.shape), level_map.reshape(grid.shape)
    heights = {name: sizes[name][0] for name in names}
    tops, heights = tops | {"S1": sacrum_top}, heights | {"S1": 30.0}
    return _finish(options, grid, anatomy, level_map, (tops, heights, curve))


def _stack(options: PhantomOptions, names: tuple[str, ...]) -> tuple[dict, dict, float]:
    """Body sizes, tops along the curve, and where the sacrum begins."""
    rng = np.random.default_rng(options.seed)
    collapsed = dict(options.collapsed)
    sizes, tops, along = {}, {}, 0.0
    for name in names:
        noise = np.exp(rng.normal(0.0, options.size_sd, 4)) * options.scale
        height, depth, width, disc = np.array(SIZES_MM[name]) * noise
        sizes[name] = (height * collapsed.get(name, 1.0), depth, width, disc)
        tops[name] = along
        along += sizes[name][0] + disc
    return sizes, tops, along


def _bend(options: PhantomOptions, tops: dict[str, float], sacrum_top: float) -> _Curve:
    """Lordosis, kyphosis, lordosis: the canal's forward inclination at landmarks."""
    marks = [("C2", 8.0), ("C5", 0.0), ("T1", -22.0), ("T5", -8.0), ("T9", 6.0), ("L1", 16.0), ("L3", 2.0)]
    breaks = [tops[name] for name, _ in marks]
    degrees = [angle for _, angle in marks]
    hump = options.kyphosis_degrees
    degrees[2] -= hump / 2
    degrees[5] += hump / 2
    breaks += [tops["L4"] + 20.0, sacrum_top + 10.0, sacrum_top + 50.0, sacrum_top + 110.0]
    degrees += [-14.0, -40.0, -30.0, 5.0]
    return _Curve(np.array(breaks), np.array(degrees), options.scoliosis_mm, sacrum_top + SACRUM_HEIGHT_MM)


def _grid(options, tops, sizes, sacrum_top, curve) -> Grid:
    """A lattice around the wanted levels, with the wanted axes."""
    first = options.highest
    start = tops[first] - options.margin_mm if first and first != "C1" else -15.0
    if options.lowest in (None, "S1"):
        stop = sacrum_top + SACRUM_HEIGHT_MM * options.scale + options.margin_mm
    else:
        stop = tops[options.lowest] + sizes[options.lowest][0] + options.margin_mm
    inside = curve.points[(curve.along >= start) & (curve.along <= stop)]
    span = np.arange(start, stop)
    corners = np.array([curve.to_world(a, f, 0.0) for a in (span[0], span[-1]) for f in (8.0, 40.0)])
    low = np.array(
        [inside[:, 0].mean() - options.half_width_mm, inside[:, 1].min() - 46.0, corners[:, 2].min()]
    )
    high = np.array(
        [inside[:, 0].mean() + options.half_width_mm, inside[:, 1].max() + 52.0, corners[:, 2].max()]
    )
    spacing = np.array(options.spacing_mm)
    shape = np.maximum(np.ceil((high - low) / spacing).astype(int) + 1, 2)
    turn = _rotation(options.tilt_degrees)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    centre = (low + high) / 2
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    return _reorder(shape, affine, options)


def _reorder(shape: np.ndarray, affine: np.ndarray, options: PhantomOptions) -> Grid:
    order = list(options.axis_order)
    shape, affine = shape[order], affine[:, [*order, 3]].copy()
    for axis, flip in enumerate(options.flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    return Grid(tuple(int(n) for n in shape), affine)


def _rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _paint(options, names, sizes, tops, sacrum_top, where) -> tuple[np.ndarray, np.ndarray]:
    """Structure and level of every voxel from its curve coordinates."""
    along, front, right = where
    anatomy = np.zeros(len(along), np.uint8)
    level_map = np.zeros(len(along), np.uint8)
    near = np.flatnonzero((np.abs(front) < 75) & (np.abs(right) < 45))
    s, a, r = along[near], front[near], right[near]
    label, level = anatomy[near], level_map[near]
    for name in names:
        _paint_vertebra(name, options, sizes[name], tops[name], (s, a, r), (label, level))
    if options.sacrum:
        _paint_sacrum(options.scale, sacrum_top, (s, a, r), (label, level))
    if options.atlas:
        arch = (np.abs(a - 26.0) < 3.5) & (np.abs(r) < 9) & (np.abs(s - 7.0) < 5.0)
        label[arch], level[arch] = Structure.VERTEBRAL_BODY, _LEVELS["C1"] + 1
    canal = (a / CANAL_RADII_MM[0]) ** 2 + (r / CANAL_RADII_MM[1]) ** 2 < 1
    label[canal & (s < sacrum_top + 45)] = Structure.THECAL_SAC
    if options.cord:
        end = tops[options.conus] + 0.6 * sizes[options.conus][0]
        taper = np.clip((end - s) / 25.0, 0.0, 1.0) ** 0.5
        cord = (a / CORD_RADII_MM[0]) ** 2 + (r / CORD_RADII_MM[1]) ** 2 < taper**2
        label[cord & (taper > 0)] = Structure.CORD
    level[canal] = 0
    anatomy[near], level_map[near] = label, level
    return anatomy, level_map


def _paint_vertebra(name, options, size, top, where, maps) -> None:
    height, depth, width, disc = size
    (s, a, r), (label, level) = where, maps
    part = np.flatnonzero((s > top - 2) & (s < top + height + 40))
    s, a, r = s[part] - top, a[part], r[part]
    rank = _LEVELS[name] + 1
    centre = CANAL_RADII_MM[0] + 1.0 + depth / 2
    waist = 1.0 - 0.06 * (1.0 - (2 * np.clip(s / height, 0, 1) - 1) ** 2)
    if name == "C2":
        waist = np.where(s < 0.55 * height, 0.62, 1.0)
    radius = np.abs((a - centre) / (depth / 2)) ** 3 + np.abs(r / (width / 2)) ** 3
    drawn = name not in options.missing
    if drawn:
        body = (radius < waist**3) & (s >= 0) & (s < height)
        label[part[body]], level[part[body]] = Structure.VERTEBRAL_BODY, rank
    if name not in options.missing_discs:
        between = (radius < 1.0) & (s >= height) & (s < height + disc)
        label[part[between]] = Structure.DISC
    arch = _arch(name, height, disc, (s, a, r))
    free = label[part[arch]] == Structure.BACKGROUND
    if drawn:
        label[part[arch][free]], level[part[arch][free]] = Structure.POSTERIOR_ELEMENTS, rank


def _arch(name, height, disc, where) -> np.ndarray:
    """Pedicles, laminae, and a spinous process that slopes downward behind."""
    s, a, r = where
    start = 0.5 * height if name == "C2" else 0.0
    tall = height - start
    slope = {"C": 0.3, "T": 0.7, "L": 0.15}[name[0]] if name not in ("T11", "T12", "T13") else 0.3
    reach = {"C": 18.0, "T": 30.0, "L": 28.0}[name[0]]
    u = s - start
    pedicle = (
        (np.abs(np.abs(r) - CANAL_RADII_MM[1] - 3) < 2.5) & (np.abs(a - 3) < 8) & (u > 1) & (u < 0.55 * tall)
    )
    ring = np.sqrt((a / (CANAL_RADII_MM[0] + 4)) ** 2 + (r / (CANAL_RADII_MM[1] + 5)) ** 2)
    lamina = (a < -1) & (ring < 1) & (u > 0.25 * tall) & (u < tall + 0.2 * disc)
    behind = -a - CANAL_RADII_MM[0] - 1
    fall = u - slope * behind
    spinous = (np.abs(r) < 3.5) & (behind > 0) & (behind < reach) & (fall > 0.35 * tall) & (fall < tall)
    return pedicle | lamina | spinous


def _paint_sacrum(scale, top, where, maps) -> None:
    (s, a, r), (label, level) = where, maps
    u = (s - top) / (SACRUM_HEIGHT_MM * scale)
    inside = (u >= 0) & (u < 1)
    thin = np.clip(1.0 - 0.75 * u, 0.2, 1.0)
    body = inside & (a > CANAL_RADII_MM[0]) & (a < CANAL_RADII_MM[0] + 34 * scale * thin)
    body &= np.abs(r) < 45 * scale * thin
    crest = inside & (u < 0.6) & (a < -CANAL_RADII_MM[0]) & (a > -CANAL_RADII_MM[0] - 8) & (np.abs(r) < 12)
    label[body | crest], level[body | crest] = Structure.SACRUM, _LEVELS["S1"] + 1


def _finish(options, grid, anatomy, level_map, truth) -> Phantom:
    """Instances 1..n of what is visible, and the evidence a good network would give."""
    bony = (anatomy == Structure.VERTEBRAL_BODY) | (anatomy == Structure.SACRUM)
    counts = np.bincount(level_map[bony], minlength=len(_LEVELS) + 1)
    whole = [np.prod(SIZES_MM.get(level.value, (10.0, 7.0, 18.0))[:3]) for level in VertebralLevel]
    collapse = [dict(options.collapsed).get(level.value, 1.0) for level in VertebralLevel]
    kept = np.flatnonzero(counts[1:] * grid.voxel_volume_mm3 > 0.2 * np.multiply(whole, collapse)) + 1
    lookup = np.zeros(len(_LEVELS) + 1, np.uint8)
    lookup[kept] = np.arange(1, len(kept) + 1)
    by_rank = {rank: name for name, rank in _LEVELS.items()}
    names = tuple(by_rank[rank - 1] for rank in kept)
    evidence = tuple(
        _evidence(number, name) if options.network_evidence else InstanceEvidence(number)
        for number, name in enumerate(names, start=1)
    )
    segmentation = SpineSegmentation(
        grid=grid,
        anatomy=anatomy,
        vertebrae=lookup[level_map],
        lesion_probability=np.zeros(grid.shape, np.float32),
        evidence=evidence,
        volumes=(),
    )
    return Phantom(segmentation, names, level_map, *truth, options)


def _evidence(number: int, name: str) -> InstanceEvidence:
    keys = ("c2", "cervical", "thoracic", "lumbar", "sacral")
    level = VertebralLevel(name)
    regions = dict(zip(SpineRegion, keys[1:], strict=True))
    right = "c2" if name in ("C1", "C2") else regions[level.region]
    return InstanceEvidence(number, **{key: 0.8 if key == right else 0.05 for key in keys})


def add_lesion(
    segmentation: SpineSegmentation,
    centre_mm: np.ndarray,
    radii_mm: tuple[float, float, float],
    hidden_as: Structure | None = None,
    probability: float = 0.9,
) -> SpineSegmentation:
    """An ellipsoid with world-aligned axes; ``hidden_as`` is what the network labels below it."""
    inside = ellipsoid(segmentation.grid, centre_mm, radii_mm)
    chance = segmentation.lesion_probability.copy()
    chance[inside] = probability
    anatomy, vertebrae = segmentation.anatomy.copy(), segmentation.vertebrae.copy()
    if hidden_as is not None:
        anatomy[inside] = hidden_as
        vertebrae[inside] = 0
    return replace(segmentation, lesion_probability=chance, anatomy=anatomy, vertebrae=vertebrae)


def ellipsoid(grid: Grid, centre_mm: np.ndarray, radii_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxels whose centres lie in a world-aligned ellipsoid."""
    spacing = np.array(grid.spacing_mm)
    middle = grid.to_index(centre_mm)
    low = np.clip(np.floor(middle - max(radii_mm) / spacing), 0, np.array(grid.shape) - 1).astype(int)
    high = np.clip(np.ceil(middle + max(radii_mm) / spacing) + 1, low, grid.shape).astype(int)
    size = high - low
    points = grid.to_world(np.indices(size).reshape(3, -1).T + low)
    radius = (((points - centre_mm) / np.array(radii_mm)) ** 2).sum(axis=1)
    inside = np.zeros(grid.shape, bool)
    inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = (radius <= 1.0).reshape(size)
    return inside


def with_volume(segmentation: SpineSegmentation, intensities, weighting: Weighting) -> SpineSegmentation:
    """Add a series' intensities on the segmentation's own grid."""
    number = len(segmentation.volumes) + 1
    series = Series("study", f"series-{number}", number=number, weighting=weighting)
    volume = Volume(intensities.astype(np.float32), segmentation.grid, series)
    return replace(segmentation, volumes=(*segmentation.volumes, volume))
