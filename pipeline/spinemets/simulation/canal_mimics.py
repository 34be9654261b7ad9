"""Normal and benign variation in and around the thecal sac: roots, flowing CSF, fat and narrowing.

Each function returns a new patch and leaves the one given alone; the truth stays "no lesion".
Axes are (left-right, back-front, foot-head).
"""

from __future__ import annotations

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.simulation.references import References
from spinemets.simulation.shapes import Box, smooth_noise, squared_distance
from spinemets.volume import Mask, PointMm
from spinemets.voxels import bounding_box

__all__ = ["epidural_fat", "flow_voids", "narrowed_canal", "nerve_roots"]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_LONGEST_KNOT_MM = 12.0  # between the bends of a redundant root
_REACH_OF_FAT_MM = 5.0
_NARROWED_CHANCE = 0.5  # of each disc, in a patch whose canal is narrowed
_MOST_NARROWED = 0.9  # of the canal's depth


def nerve_roots(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    references: References,
    rng: np.random.Generator,
) -> Array:
    """Roots of the cauda equina, crowded and wavy over a stretch as above a stenosis.

    They have the cord's signal, run along the sac, and lie where no cord is labelled.

    Notes
    -----
    Suzuki et al. 1989, "Redundant nerve roots of the cauda equina", Neurosurgery 24:521-528.
    """
    sac = structures == Structure.THECAL_SAC
    below = sac & ~(structures == Structure.CORD).any(axis=(0, 1))
    heights = np.flatnonzero(below.any(axis=(0, 1)))
    if len(heights) * spacing_mm[2] < 2 * _LONGEST_KNOT_MM:
        return image
    length = min(len(heights), round(rng.uniform(30, 100) / spacing_mm[2]))
    first = int(heights[rng.integers(len(heights) - length + 1)])
    stretch = slice(first, first + length)
    inside = below[:, :, stretch]
    weight = np.zeros(inside.shape, dtype=np.float32)
    rows = np.arange(inside.shape[1], dtype=np.float32)[:, None]
    low, high = _front_and_back(inside)
    for _ in range(int(rng.integers(3, 11))):
        bend = smooth_noise((1, 1, length), spacing_mm, rng.uniform(4, _LONGEST_KNOT_MM), rng)[0, 0]
        share = np.clip(rng.uniform(0.1, 0.9) + rng.uniform(0.02, 0.25) * bend, 0, 1)
        slices = int(rng.integers(inside.shape[0]))
        path = low[slices] + share * (high[slices] - low[slices])
        radius = rng.uniform(0.6, 1.4) / spacing_mm[1]
        weight[slices] = np.maximum(weight[slices], np.exp(-0.5 * ((rows - path) / radius) ** 2))
    changed = image.copy()
    _blend(changed[:, :, stretch], weight * inside * rng.uniform(0.4, 0.9), references.cord)
    return changed


def _front_and_back(inside: Mask) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """First and last row of a mask, by slice and height; 0 where there is none."""
    last = inside.shape[1] - 1
    low = np.where(inside.any(axis=1), inside.argmax(axis=1), 0)
    high = np.where(inside.any(axis=1), last - inside[:, ::-1].argmax(axis=1), 0)
    return low.astype(float), high.astype(float)


def flow_voids(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    references: References,
    rng: np.random.Generator,
) -> Array:
    """CSF that moves: ill-defined dark clouds on T2, mostly behind the cord.

    Notes
    -----
    Lisanti et al. 2007, "Normal MRI appearance and motion-related phenomena of CSF", Am J
    Roentgenol 188:716-725.
    """
    sac = structures == Structure.THECAL_SAC
    if references.csf <= references.cord or sac.sum() < 200:
        return image
    middle = ndimage.center_of_mass(sac)[1]
    changed = image.copy()
    for _ in range(1 + int(rng.poisson(2))):
        places = np.argwhere(sac)
        behind = places[places[:, 1] <= middle + 2 / spacing_mm[1]]
        centre = behind[rng.integers(len(behind))] if len(behind) else places[rng.integers(len(places))]
        radii = (rng.uniform(2, 6), rng.uniform(1.5, 4), rng.uniform(5, 20))
        box, cloud = _cloud(sac.shape, centre, radii, spacing_mm)
        _blend(changed[box], cloud * sac[box] * rng.uniform(0.2, 0.6), references.cord)
    return changed


def epidural_fat(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    references: References,
    rng: np.random.Generator,
) -> Array:
    """Triangles of fat between the sac and the arches: fat's own signal, level after level."""
    near_sac = bounding_box(structures == Structure.THECAL_SAC)
    if near_sac is None:
        return image
    sac = structures[near_sac] == Structure.THECAL_SAC
    # Behind the sac: room within reach of it that no structure fills.
    steps = max(1, round(_REACH_OF_FAT_MM / spacing_mm[1]))
    reached = np.zeros(sac.shape, dtype=np.bool_)
    for step in range(1, steps + 1):
        reached[:, :-step] |= sac[:, step:]
    room = reached & (structures[near_sac] == Structure.BACKGROUND)
    soft = ndimage.gaussian_filter(room.astype(np.float32), (0, 0.7, 0.7)) * room
    height_mm = np.arange(sac.shape[2]) * spacing_mm[2]
    period = rng.uniform(20, 40)
    present = 0.5 + 0.5 * np.cos(2 * np.pi * (height_mm / period + rng.random()))
    changed = image.copy()
    _blend(changed[near_sac], soft * (present * rng.uniform(0.5, 1.0)), references.fat)
    return changed


def narrowed_canal(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    references: References,
    rng: np.random.Generator,
) -> Array:
    """Degenerative stenosis: at some discs, one that bulges from the front and a thick ligament behind.

    The disc keeps its own signal, the ligament is dark, and roots crowd what is left between them.

    Notes
    -----
    Schizas et al. 2010, "Qualitative grading of severity of lumbar spinal stenosis based on the
    morphology of the dural sac on magnetic resonance images", Spine 35:1919-1924.
    """
    canal = np.isin(structures, (Structure.THECAL_SAC, Structure.CORD))
    discs = cc3d.connected_components(structures == Structure.DISC, connectivity=6)
    changed = image.copy()
    for label, box in enumerate(ndimage.find_objects(discs.astype(np.int32)), start=1):
        if box is None or rng.random() > _NARROWED_CHANCE:
            continue
        disc = discs[box] == label
        level = _posterior_edge(disc) + box[2].start
        height_mm = (np.arange(image.shape[2]) - level) * spacing_mm[2]
        extent = np.exp(-0.5 * (height_mm / rng.uniform(2.5, 6)) ** 2)
        near = np.flatnonzero(extent > 0.1)
        stretch = slice(int(near[0]), int(near[-1]) + 1)
        signal = float(np.quantile(image[box][disc], rng.uniform(0.3, 0.8)))
        _narrow(
            changed[:, :, stretch], canal[:, :, stretch], extent[stretch], spacing_mm, references, signal, rng
        )
    # The cord is pushed aside rather than covered.
    free = np.isin(structures, (Structure.THECAL_SAC, Structure.BACKGROUND))
    return np.asarray(np.where(free, changed, image), dtype=np.float32)


def _narrow(
    patch: Array,
    canal: Mask,
    extent: npt.NDArray[np.float64],
    spacing_mm: PointMm,
    references: References,
    disc: float,
    rng: np.random.Generator,
) -> None:
    """Narrow the canal of a stretch of heights, in place; ``extent`` is how far at each of them, to 1."""
    if not canal.any():
        return
    low, high = _front_and_back(canal)
    depth = np.where(canal.any(axis=1), high - low + 1, 0)
    bulge, ligament = rng.uniform(0, 0.5), rng.uniform(0, 0.45)
    shares = np.minimum(1, _MOST_NARROWED / max(bulge + ligament, 1e-3)) * np.array((bulge, ligament))
    # Mostly to one side, or in the middle.
    across = 1 + 0.4 * smooth_noise((patch.shape[0], 1, 1), spacing_mm, 8.0, rng)[:, :, 0]
    reach = depth * extent * np.clip(across, 0.2, 1.3)
    rows = np.arange(patch.shape[1], dtype=np.float32)[None, :, None]
    softness = rng.uniform(0.5, 1.5) / spacing_mm[1]

    def within(distance: npt.NDArray[np.floating], limit: npt.NDArray[np.floating]) -> Array:
        weight = np.clip((limit - distance) / softness + 0.5, 0, 1) * np.minimum(limit, 1) * canal
        return ndimage.gaussian_filter(weight.astype(np.float32), (0, 0.6, 0.6))

    crowding = rng.uniform(0.2, 0.95) * shares.sum() / _MOST_NARROWED
    _blend(patch, crowding * extent * canal, references.cord)
    _blend(patch, within(high[:, None] - rows, (reach * shares[0])[:, None]), disc)
    dark = min(references.cord, references.soft_tissue) * rng.uniform(0.5, 1.1)
    _blend(patch, within(rows - low[:, None], (reach * shares[1])[:, None]), dark)


def _posterior_edge(disc: Mask) -> int:
    """The height at which a disc's mask reaches farthest back."""
    places = np.argwhere(disc)
    backmost = places[places[:, 1] <= places[:, 1].min() + 1]
    return round(float(backmost[:, 2].mean()))


def _blend(patch: Array, weight: npt.NDArray[np.floating], signal: float) -> None:
    """Draw a patch towards a signal, in place."""
    patch += (weight * (signal - patch)).astype(np.float32)


def _cloud(
    shape: tuple[int, ...],
    centre: npt.NDArray[np.intp],
    radii_mm: tuple[float, float, float],
    spacing_mm: PointMm,
) -> tuple[Box, Array]:
    """A Gaussian about a voxel, with its box; ``radii_mm`` are its standard deviations."""
    reach = np.ceil(2.5 * np.array(radii_mm) / spacing_mm).astype(int)
    low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, shape)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    return box, np.exp(-0.5 * squared_distance(box, centre, radii_mm, spacing_mm)).astype(np.float32)
