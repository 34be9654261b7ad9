"""Normal and benign variation of marrow that a lesion detector must learn to leave alone.

Each function returns a new patch and leaves the one given alone; the truth stays "no lesion".
Axes are (left-right, back-front, foot-head).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.simulation.canal_mimics import epidural_fat, flow_voids, narrowed_canal, nerve_roots
from spinemets.simulation.references import References, measure_references, spread_about_trend
from spinemets.simulation.shapes import Box, blob, log_uniform, smooth_noise, squared_distance
from spinemets.volume import Mask, PointMm, Weighting
from spinemets.voxels import widened

__all__ = [
    "add_mimics",
    "basivertebral_vein",
    "corner_change",
    "endplate_change",
    "fatty_focus",
    "haemangioma",
    "marrow_variation",
    "radiation_change",
    "schmorl_node",
]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
_Change = Literal["oedema", "fat", "sclerosis"]
_MODIC: dict[int, _Change] = {1: "oedema", 2: "fat", 3: "sclerosis"}
# Of each body. Most of what a lesion detector takes for one in patients without any is such a node.
_SCHMORL_CHANCE = 0.35
_ENDPLATE_MM = 2.0  # from a body to its disc
_DISC_REACH_MM = 12.0
# Far below that of bright lesions: on T2 alone, what is bright and round would be learnt to be benign.
_HAEMANGIOMA_CHANCE = 0.02
# For the same reason: of bright changes along endplates and of bright corners, how many T2 has not.
_ENDPLATES_LEFT_OUT, _CORNERS_LEFT_OUT = 0.6, 0.7
_FAT_SUPPRESSED = (Weighting.T2_FS, Weighting.T1_FS_GD, Weighting.PD_FS, Weighting.DIXON_WATER)


def add_mimics(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """A patch with a random mixture of normal variants and benign changes."""
    references = measure_references(image, structures)
    for chance, around_sac in _CANAL_VARIANTS:
        # Where fat is suppressed, that around the sac is no brighter than anything else.
        seen = around_sac is not epidural_fat or weighting not in _FAT_SUPPRESSED
        if rng.random() < chance and seen:
            image = around_sac(image, structures, spacing_mm, references, rng)
    bodies = cc3d.connected_components(structures == Structure.VERTEBRAL_BODY, connectivity=6)
    boxes = [box for box in ndimage.find_objects(bodies.astype(np.int32)) if box is not None]
    # Single voxels differ by twice as much, for noise: in those terms variants would stand out like disease.
    usual = spread_about_trend(image, bodies.astype(np.bool_))
    references = replace(references, spread=usual or references.spread)
    image = marrow_variation(image, bodies, spacing_mm, references, rng)
    if rng.random() < _RADIATION_CHANCE:
        image = radiation_change(image, bodies, spacing_mm, references, weighting, rng)
    for label, found in enumerate(boxes, start=1):
        box: Box = (found[0], found[1], found[2])
        body = bodies[box] == label
        if body.sum() < 200:
            continue
        for chance, variant in _VARIANTS:
            if rng.random() < chance:
                image[box] = variant(image[box], body, spacing_mm, references, weighting, rng)
        if rng.random() < _SCHMORL_CHANCE:
            around = widened(box, (0, 0, round(_DISC_REACH_MM / spacing_mm[2])), image.shape)
            image[around] = schmorl_node(
                image[around],
                bodies[around] == label,
                structures[around] == Structure.DISC,
                spacing_mm,
                references,
                weighting,
                rng,
            )
    return image


def marrow_variation(
    image: Array,
    bodies: npt.NDArray[np.generic],
    spacing_mm: PointMm,
    references: References,
    rng: np.random.Generator,
) -> Array:
    """Patchy marrow: every vertebra a little different, and islands within them, fine or smooth.

    Some patients' marrow is even. Were it never, or did vertebrae differ by more than they do in
    patients, one half as bright again would be learnt to be normal.
    """
    count = int(bodies.max())
    uneven = rng.uniform(0, 0.7)
    shift = np.concatenate(([0.0], rng.normal(0, uneven, count))).astype(np.float32)
    patches = smooth_noise(image.shape, spacing_mm, log_uniform((2, 15), rng), rng) * rng.uniform(0, 0.9)
    labels = bodies.astype(np.int64)
    change = (shift[labels] + patches) * references.spread
    return np.asarray(image + change * (labels > 0), dtype=np.float32)


def basivertebral_vein(
    image: Array,
    body: Mask,
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """The venous cleft that enters the middle of a body from behind: bright, but dark on T1."""
    points = np.argwhere(body)
    x, _, z = np.median(points, axis=0)
    back = points[:, 1].min() + rng.uniform(0, 6) / spacing_mm[1]
    radii = (rng.uniform(3, 8), rng.uniform(3, 9), rng.uniform(1.0, 2.5))
    weight = _upright(image.shape, (x, back, z), radii, spacing_mm)
    sign = -1 if weighting is Weighting.T1 else rng.choice((1.0, 1.0, -0.6))
    shift = sign * rng.uniform(1.5, 6) * references.spread
    return np.asarray(image + weight * body * shift, dtype=np.float32)


def endplate_change(
    image: Array,
    body: Mask,
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """Modic change: a band along an endplate, type 1 (oedema), 2 (fat) or 3 (sclerosis)."""
    sign = _sign(_MODIC[int(rng.choice((1, 2, 2, 3)))], weighting)
    if _resembles_disease(sign, weighting) and rng.random() < _ENDPLATES_LEFT_OUT:
        return image
    points = np.argwhere(body)
    upper = rng.random() < 0.5
    edge = points[:, 2].max() if upper else points[:, 2].min()
    heights = np.abs(np.arange(body.shape[2]) - edge) * spacing_mm[2]
    thickness = rng.uniform(2, 8) + smooth_noise((*body.shape[:2], 1), spacing_mm, 10, rng) * 1.5
    weight = np.clip(thickness - heights[None, None] + 0.5, 0, 1)
    shift = sign * rng.uniform(1.5, 5) * references.spread
    return np.asarray(image + weight * body * shift, dtype=np.float32)


def schmorl_node(
    image: Array,
    body: Mask,
    discs: Mask,
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """Disc material pressed through an endplate: a dome with the signal of the disc it comes from.

    It is of one piece with that disc, the endplate broken. Some have a thin rim of cortical bone, some
    a broader one of marrow that reacts: oedema, fat or sclerosis.
    """
    points = np.argwhere(body)
    x, y, _ = points[rng.integers(len(points))]
    column = np.flatnonzero(body[x, y])
    upper = bool(rng.random() < 0.5)
    edge, inwards = (column[-1], -1) if upper else (column[0], 1)
    size = log_uniform((2.5, 8), rng)
    centre = (x, y, edge + inwards * rng.uniform(-0.2, 0.7) * size / spacing_mm[2])
    box, level = blob(body.shape, spacing_mm, centre, size * rng.uniform(0.7, 1.4, 3), rng)
    changed = image.copy()
    changed[box] += _rim_of_node(level, size, weighting, rng) * body[box] * references.spread
    disc = _disc_beyond(image, discs, edge, upper, spacing_mm, references)
    signal = disc + 0.15 * (disc - references.marrow) * smooth_noise(level.shape, spacing_mm, 4.0, rng)
    own = body[box] | _endplates(body[box], discs[box], spacing_mm)
    weight = np.clip((1.2 - level) * rng.uniform(2, 5), 0, 1) * own
    changed[box] += weight * (signal - changed[box])
    return changed


def _rim_of_node(level: Array, size_mm: float, weighting: Weighting, rng: np.random.Generator) -> Array:
    """What surrounds a Schmorl node, in spreads of marrow: a reaction, cortical bone, or nothing."""
    kind = rng.random()
    if kind < 0.4:
        sign = -1 if rng.random() < 0.3 else _reaction(weighting, rng)
        width = rng.uniform(0.3, 0.7)
        return np.asarray(sign * rng.uniform(1.5, 4) * np.clip(1 - np.abs(level - 1.4) / width, 0, 1))
    if kind < 0.7:
        width = rng.uniform(0.7, 1.5) / size_mm
        return np.asarray(-rng.uniform(1, 3) * np.clip(1 - np.abs(level - 1.2) / width, 0, 1))
    return np.zeros_like(level)


def _disc_beyond(
    image: Array, discs: Mask, edge: int, upper: bool, spacing_mm: PointMm, references: References
) -> float:
    """The signal of the disc above or below a body's edge; that of all discs where it is not in view."""
    heights = np.arange(discs.shape[2]) - edge
    near = (np.abs(heights) * spacing_mm[2] < _DISC_REACH_MM) & ((heights > 0) == upper)
    beside = image[discs & near]
    return float(np.median(beside)) if beside.size > 20 else references.soft_tissue


def _endplates(body: Mask, discs: Mask, spacing_mm: PointMm) -> Mask:
    """What lies between a body and its discs: labels leave the dark line of an endplate out."""
    reach = max(1, round(_ENDPLATE_MM / spacing_mm[2]))
    up_and_down = np.ones((1, 1, 3), dtype=np.bool_)
    from_body, from_disc = (
        ndimage.binary_dilation(tissue, up_and_down, iterations=reach) for tissue in (body, discs)
    )
    return np.asarray(from_body & from_disc & ~discs)


def corner_change(
    image: Array,
    body: Mask,
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """A corner of a body that is not like the rest: limbus vertebra, osteophyte, fat or oedema."""
    points = np.argwhere(body)
    upper, front = rng.random() < 0.5, rng.random() < 0.75
    corner = (
        points[:, 1].max() if front else points[:, 1].min(),
        points[:, 2].max() if upper else points[:, 2].min(),
    )
    rows, heights = (
        np.abs(np.arange(n) - c) * step
        for n, c, step in zip(body.shape[1:], corner, spacing_mm[1:], strict=True)
    )
    # A triangle: the legs along the endplate and along the wall.
    legs = rng.uniform(5, 13), rng.uniform(4, 10)
    level = rows[:, None] / legs[0] + heights[None, :] / legs[1]
    level = level[None] + 0.12 * smooth_noise(body.shape, spacing_mm, 6.0, rng)
    weight = np.clip((1 - level) * 4, 0, 1) * body
    if rng.random() < 0.4:
        shift = references.soft_tissue - references.marrow
    else:
        sign = _reaction(weighting, rng)
        if _resembles_disease(sign, weighting) and rng.random() < _CORNERS_LEFT_OUT:
            return image
        shift = sign * rng.uniform(1.5, 5) * references.spread
    return np.asarray(image + weight * shift, dtype=np.float32)


def haemangioma(
    image: Array,
    body: Mask,
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """A vessel-rich focus with fat: bright on T1 and T2, crossed by upright dark trabeculae.

    Drawn only on T1 and T2, where these tell it from a metastasis.
    """
    if weighting not in (Weighting.T1, Weighting.T2):
        return image
    box, weight = _focus(body, spacing_mm, (5.0, 14.0), 0.2, rng)
    period = rng.uniform(2.5, 4.5)
    rows_mm = np.arange(body.shape[1])[box[1]] * spacing_mm[1]
    stripes = 0.5 + 0.5 * np.cos(2 * np.pi * rows_mm / period + rng.uniform(0, 2 * np.pi))
    bright = 1 - rng.uniform(0.5, 0.9) * stripes
    changed = image.copy()
    changed[box] += weight * bright[None, :, None] * rng.uniform(2.5, 6) * references.spread
    return changed


def radiation_change(
    image: Array,
    bodies: npt.NDArray[np.generic],
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """Fatty marrow where a field of radiotherapy lay: several vertebrae, cut off straight.

    Notes
    -----
    Ramsey and Zacharias 1985, "MR imaging of the spine after radiation therapy", Am J
    Neuroradiol 6:247-251.
    """
    if not _shows_fat(weighting):
        return image
    height = bodies.shape[2]
    first, length = int(rng.integers(-height // 3, height)), round(rng.uniform(50, 120) / spacing_mm[2])
    inside = np.zeros(height, dtype=np.float32)
    inside[max(0, first) : max(0, first + length)] = 1
    inside = ndimage.gaussian_filter1d(inside, rng.uniform(0.5, 3) / spacing_mm[2])
    shift = _sign("fat", weighting) * rng.uniform(1.5, 4) * references.spread
    return np.asarray(image + shift * inside * bodies.astype(np.bool_), dtype=np.float32)


def fatty_focus(
    image: Array,
    body: Mask,
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,
    rng: np.random.Generator,
) -> Array:
    """Focal fat or a fatty haemangioma: bright on T1, dark where fat is suppressed.

    On plain T2 and without a known weighting it could be taken for a lesion, so it is drawn
    only where its signal tells.
    """
    if not _shows_fat(weighting):
        return image
    box, weight = _focus(body, spacing_mm, (3.0, 12.0), 0.3, rng)
    changed = image.copy()
    changed[box] += weight * _sign("fat", weighting) * rng.uniform(2, 6) * references.spread
    return changed


def _reaction(weighting: Weighting, rng: np.random.Generator) -> int:
    """The sign of reactive marrow's change: oedema or fat, as the weighting shows them."""
    return _sign("oedema" if rng.random() < 0.4 else "fat", weighting)


def _sign(change: _Change, weighting: Weighting) -> int:
    """Whether marrow becomes brighter (1) or darker (-1)."""
    if change == "sclerosis":
        return -1
    if weighting is Weighting.T1:
        return -1 if change == "oedema" else 1
    return -1 if change == "fat" and weighting in _FAT_SUPPRESSED else 1


def _resembles_disease(sign: int, weighting: Weighting) -> bool:
    """Whether a change is bright where only other weightings would tell it from a metastasis."""
    return weighting is Weighting.T2 and sign > 0


def _shows_fat(weighting: Weighting) -> bool:
    """Whether fatty marrow has a signal that tells it from a lesion."""
    return weighting is Weighting.T1 or weighting in _FAT_SUPPRESSED


def _focus(
    body: Mask,
    spacing_mm: PointMm,
    radius_mm: tuple[float, float],
    unevenness: float,
    rng: np.random.Generator,
) -> tuple[Box, Array]:
    """A round focus somewhere in a body: its box, and how much of each voxel it fills."""
    points = np.argwhere(body)
    radii = log_uniform(radius_mm, rng) * rng.uniform(1 - unevenness, 1 + unevenness, 3)
    box, level = blob(body.shape, spacing_mm, points[rng.integers(len(points))], radii, rng)
    return box, np.clip((1.2 - level) * 2, 0, 1) * body[box]


def _upright(
    shape: tuple[int, ...],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    spacing: PointMm,
) -> Array:
    whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    distance = np.sqrt(squared_distance(whole, centre, radii, spacing))
    return np.asarray(np.clip(1.5 - distance, 0, 1), dtype=np.float32)


_Variant = Callable[[Array, Mask, PointMm, References, Weighting, np.random.Generator], Array]
_VARIANTS: tuple[tuple[float, _Variant], ...] = (
    (0.45, basivertebral_vein),
    (0.12, endplate_change),
    (0.10, corner_change),
    (0.10, fatty_focus),
    (_HAEMANGIOMA_CHANCE, haemangioma),
)
_CanalVariant = Callable[[Array, Labels, PointMm, References, np.random.Generator], Array]
_CANAL_VARIANTS: tuple[tuple[float, _CanalVariant], ...] = (
    (0.2, nerve_roots),
    (0.25, narrowed_canal),
    (0.25, flow_voids),
    (0.25, epidural_fat),
)
_RADIATION_CHANCE = 0.06
