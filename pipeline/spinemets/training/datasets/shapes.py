"""MR scans simulated from the shapes of real vertebrae that were labelled on CT.

Label maps of CT show bone alone. Canal, sac, cord and discs are put where the bones leave room
for them: the canal where arches close around it, discs between bodies. Signals come from
``simulation.contrast``. The truth holds for the simulated image, since both come from one map;
bone that nobody labelled, and what lies above and below the labels, stay open.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import SpineRegion, Structure, VertebralLevel
from spinemets.channels import Channel
from spinemets.errors import UnsupportedInputError
from spinemets.io.label_values import VERSE_LABELS
from spinemets.simulation.contrast import random_contrast, signal
from spinemets.simulation.rasterisation import PhantomLabels
from spinemets.simulation.shapes import smooth_noise
from spinemets.simulation.tissues import Tissue, code_of_level, structure_of_tissue
from spinemets.training.datasets.labels import body_channels
from spinemets.training.datasets.volumes import crop_to_spine
from spinemets.training.scans import ANY, Allowed, LabelledScan, Labels, bit, channels_of, to_1_mm, to_bytes
from spinemets.volume import Grid, Mask, PointMm, Weighting

__all__ = ["ShapeSource", "simulate_scan"]

Array = npt.NDArray[np.float32]
Profile = npt.NDArray[np.float64]

_SLICE_MM = 2.0
_RING_MM2 = (60.0, 900.0)
_LARGEST_GAP_MM = 16
# Hounsfield units that part air, fat, soft tissue and bone.
_AIR_HU, _FAT_HU, _BONE_HU = -250.0, -25.0, 130.0
_WEIGHTINGS = (Weighting.T1, Weighting.T2, Weighting.T2_FS, Weighting.T1_FS_GD, Weighting.UNKNOWN)
_SACRAL = [VERSE_LABELS[level] for level in VertebralLevel if level.region is SpineRegion.SACRAL]


@dataclass(frozen=True, slots=True, eq=False)
class ShapeSource:
    """A label map of CT, in RAS+ axes.

    Attributes
    ----------
    levels
        uint8: 0, or the vertebra's VerSe number.
    bodies
        Where the vertebral bodies are; None to find them in front of the canal.
    hounsfield
        The CT itself, for what surrounds the spine; None to draw that at random.
    """

    subject: str
    levels: Labels
    spacing_mm: PointMm
    bodies: Mask | None = None
    hounsfield: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Canal:
    """Middle and half-axes of the canal in mm by height, and the heights between which it is known."""

    x: Profile
    y: Profile
    half_width: Profile
    half_depth: Profile
    heights: tuple[int, int]

    def level(self, shape: tuple[int, ...]) -> Array:
        """Below 1 inside the canal; infinite where it is not known."""
        x, y = np.ogrid[: shape[0], : shape[1]]
        across = (x[..., None] - self.x) / self.half_width
        along = (y[..., None] - self.y) / self.half_depth
        level = np.sqrt(across**2 + along**2).astype(np.float32)
        level[:, :, : self.heights[0]] = level[:, :, self.heights[1] + 1 :] = np.inf
        return level


def simulate_scan(source: ShapeSource, rng: np.random.Generator) -> LabelledScan:
    """One MR scan of a spine known from CT, in a contrast that is drawn.

    Raises
    ------
    UnsupportedInputError
        No vertebral arch closes around a canal, as where arches are not labelled.
    """
    levels = _to_1_mm(source.levels, source.spacing_mm, nearest=True).astype(np.uint8)
    box = crop_to_spine(levels > 0, (1.0, 1.0, 1.0))
    levels = levels[box]
    canal = _find_canal(source.subject, levels)
    rows = np.arange(levels.shape[1])[None, :, None]
    if source.bodies is None:
        bodies = (levels > 0) & (rows > (canal.y + canal.half_depth)[None, None, :])
    else:
        bodies = _to_1_mm(source.bodies, source.spacing_mm, nearest=True)[box] > 0.5
    bodies &= (levels > 0) & (levels != VERSE_LABELS[VertebralLevel.C1])
    hounsfield = None
    if source.hounsfield is not None:
        hounsfield = _to_1_mm(source.hounsfield, source.spacing_mm, nearest=False)[box]
    tissue = _surroundings(levels, canal, hounsfield, rng)
    _paint_canal(tissue, levels, canal, rng)
    _paint_bones(tissue, levels, bodies)
    _paint_discs(tissue, levels, bodies, rng)
    # Slices of 2 mm from here on.
    step = int(_SLICE_MM)
    tissue, levels = tissue[step // 2 :: step], levels[step // 2 :: step]
    structures = structure_of_tissue(tissue)
    allowed = _allowed(structures, levels)
    if hounsfield is not None:
        unnamed = (hounsfield[step // 2 :: step] > _BONE_HU) & (structures == Structure.BACKGROUND)
        allowed[unnamed] = ANY
    image, weighting = _image(tissue, levels, rng)
    return LabelledScan(source.subject, image, allowed, structures, (_SLICE_MM, 1.0, 1.0), weighting)


def _to_1_mm(array: npt.NDArray[np.generic], spacing: PointMm, nearest: bool) -> Array:
    """All three axes at 1 mm; along the first one by the nearest slice."""
    places = np.rint(np.arange(max(1, round(array.shape[0] * spacing[0]))) / spacing[0]).astype(int)
    array = array[places.clip(0, array.shape[0] - 1)]
    return to_1_mm(array.astype(np.float32), spacing, nearest)[0]


def _find_canal(subject: str, levels: Labels) -> _Canal:
    """The canal as the hole in closed vertebral rings, drawn on between them."""
    found: list[tuple[int, float, float, float, float]] = []
    bone = levels > 0
    for z in range(levels.shape[2]):
        plane = bone[:, :, z]
        if not plane.any():
            continue
        holes, count = ndimage.label(ndimage.binary_fill_holes(plane) & ~plane)
        sizes = np.bincount(holes.ravel())[1:]
        if not count or not _RING_MM2[0] <= sizes.max() <= _RING_MM2[1]:
            continue
        across, along = np.nonzero(holes == sizes.argmax() + 1)
        # Half-axes of the ellipse with the hole's second moments.
        found.append((z, across.mean(), along.mean(), max(4.0, 2 * across.std()), max(4.0, 2 * along.std())))
    if len(found) < 3:
        raise UnsupportedInputError(
            f"{subject}: vertebral arches close around a canal at {len(found)} heights; "
            "at least 3 are needed, so give labels of whole vertebrae"
        )
    known, *profiles = np.array(found, dtype=np.float64).T
    heights = np.arange(levels.shape[2])
    x, y, half_width, half_depth = (
        np.asarray(ndimage.gaussian_filter1d(np.interp(heights, known, ndimage.median_filter(one, 5)), 3))
        for one in profiles
    )
    limits = int(max(0, known.min() - 10)), int(min(levels.shape[2] - 1, known.max() + 10))
    return _Canal(x, y, half_width, half_depth, limits)


def _surroundings(
    levels: Labels, canal: _Canal, hounsfield: Array | None, rng: np.random.Generator
) -> Labels:
    """Air, fat, muscle and organs, by the CT or at random."""
    shape = levels.shape
    rows = np.arange(shape[1])[None, :, None]
    front = np.broadcast_to(rows > (canal.y + 30)[None, None, :], shape)
    if hounsfield is not None:
        tissue = np.full(shape, Tissue.MUSCLE, dtype=np.uint8)
        tissue[front] = Tissue.VISCERA
        tissue[hounsfield < _FAT_HU] = Tissue.FAT
        tissue[hounsfield > _BONE_HU] = Tissue.RIB
        gas, _ = ndimage.label(hounsfield < _AIR_HU)
        outside = np.unique(np.concatenate([gas[:, 0].ravel(), gas[:, -1].ravel()]))
        tissue[gas > 0] = Tissue.LUNG
        tissue[np.isin(gas, outside[outside > 0])] = Tissue.AIR
        return tissue
    noise = smooth_noise(shape, (1.0, 1.0, 1.0), 25.0, rng)
    tissue = np.where(noise > 0.9, Tissue.FAT, Tissue.MUSCLE).astype(np.uint8)
    tissue[front] = np.where(noise > 0.2, Tissue.FAT, Tissue.VISCERA)[front]
    behind = np.argmax((levels > 0).any(axis=0), axis=0).astype(float)
    known = (levels > 0).any(axis=(0, 1))
    behind = np.interp(np.arange(shape[2]), np.flatnonzero(known), behind[known])
    behind = ndimage.gaussian_filter1d(behind, 15)
    tissue[np.broadcast_to(rows < (behind - 4)[None, None, :], shape)] = Tissue.FAT
    tissue[np.broadcast_to(rows < (behind - rng.uniform(15, 45))[None, None, :], shape)] = Tissue.AIR
    return tissue


def _paint_canal(tissue: Labels, levels: Labels, canal: _Canal, rng: np.random.Generator) -> None:
    """Epidural fat, sac, roots and cord; the cord ends at the foot of L1 where that is seen."""
    level = canal.level(levels.shape)
    tissue[level < 1] = Tissue.EPIDURAL_FAT
    sac = level < rng.uniform(0.78, 0.92)
    tissue[sac] = Tissue.CSF
    seen = {one for one, number in VERSE_LABELS.items() if (levels == number).any()}
    above = [one for one in seen if not one > VertebralLevel.L1]
    end = levels.shape[2]
    if above:
        lowest = max(above)
        end = int(np.flatnonzero((levels == VERSE_LABELS[lowest]).any(axis=(0, 1))).min())
        if lowest is not VertebralLevel.L1:
            end = 0
    heights = np.arange(levels.shape[2])[None, None, :]
    # Half of the canal's width holds the cord (Frostell et al., Front Neurol 2016).
    cord = (level < rng.uniform(0.46, 0.58)) & (heights >= end)
    roots = sac & (heights < end) & (smooth_noise(levels.shape, (1.0, 1.0, 6.0), 2.5, rng) > 0.6)
    tissue[roots] = Tissue.NERVE_ROOTS
    tissue[cord] = Tissue.CORD


def _paint_bones(tissue: Labels, levels: Labels, bodies: Mask) -> None:
    sacral = np.isin(levels, _SACRAL)
    arches = (levels > 0) & ~bodies & ~sacral
    for mask, cortex, marrow in (
        (bodies & ~sacral, Tissue.BODY_CORTEX, Tissue.BODY_MARROW),
        (arches, Tissue.POSTERIOR_CORTEX, Tissue.POSTERIOR_MARROW),
        (sacral, Tissue.SACRUM_CORTEX, Tissue.SACRUM_MARROW),
    ):
        tissue[mask] = cortex
        tissue[ndimage.binary_erosion(mask)] = marrow


def _paint_discs(tissue: Labels, levels: Labels, bodies: Mask, rng: np.random.Generator) -> None:
    """Discs fill the gaps between bodies, column by column."""
    seen = [one for one in VertebralLevel if (bodies & (levels == VERSE_LABELS[one])).any()]
    kinds = (Tissue.NUCLEUS, Tissue.NUCLEUS_INTERMEDIATE, Tissue.NUCLEUS_DESICCATED)
    for upper, lower in pairwise(seen):
        if lower is not VertebralLevel.S1 and lower.region is SpineRegion.SACRAL:
            continue
        above = bodies & (levels == VERSE_LABELS[upper])
        below = bodies & (levels == VERSE_LABELS[lower])
        columns = above.any(axis=2) & below.any(axis=2)
        foot = np.where(columns, above.argmax(axis=2), 0)
        top = np.where(columns, levels.shape[2] - 1 - below[:, :, ::-1].argmax(axis=2), 0)
        columns &= (foot - top > 1) & (foot - top <= _LARGEST_GAP_MM)
        heights = np.arange(levels.shape[2])[None, None, :]
        disc = columns[..., None] & (heights > top[..., None]) & (heights < foot[..., None]) & (levels == 0)
        disc = ndimage.binary_opening(disc, np.ones((3, 3, 1), bool))
        tissue[disc] = Tissue.ANNULUS
        inner = disc & (ndimage.distance_transform_edt(columns)[..., None] > 5)
        tissue[inner] = kinds[int(rng.integers(len(kinds)))]


def _allowed(structures: Labels, levels: Labels) -> Allowed:
    allowed = (1 << channels_of(structures)).astype(np.uint16)
    bodies = structures == Structure.VERTEBRAL_BODY
    for level, number in VERSE_LABELS.items():
        allowed[bodies & (levels == number)] = body_channels(level)
    allowed[structures == Structure.BACKGROUND] = bit(Channel.BACKGROUND)
    labelled = np.flatnonzero((levels > 0).any(axis=(0, 1)))
    allowed[:, :, : labelled.min()] = ANY
    allowed[:, :, labelled.max() + 1 :] = ANY
    return allowed


def _image(
    tissue: Labels, levels: Labels, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Weighting]:
    """The signal of the tissues in a weighting, or of a contrast that no sequence has."""
    grid = Grid(tissue.shape, np.diag([_SLICE_MM, 1.0, 1.0, 1.0]))
    weighting = _WEIGHTINGS[int(rng.integers(len(_WEIGHTINGS)))]
    if weighting is Weighting.UNKNOWN:
        return to_bytes(random_contrast(tissue, grid, rng)), weighting
    codes = np.zeros(256, dtype=np.uint8)
    for level, number in VERSE_LABELS.items():
        codes[number] = code_of_level(level)
    labels = PhantomLabels(grid, tissue, codes[levels], np.zeros_like(tissue))
    return to_bytes(signal(labels, weighting, rng)), weighting
