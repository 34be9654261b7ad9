"""Normal and benign variation of marrow that a lesion detector must learn to leave alone.

Each function returns a new patch and leaves the one given alone; the truth stays "no lesion".
Axes are (left-right, back-front, foot-head).
"""

from __future__ import annotations

from collections.abc import Callable

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.findings import PointMm
from spinemets.simulation.lesions import References, measure_references
from spinemets.simulation.shapes import Box, blob, smooth_noise
from spinemets.volume import Mask, Weighting

__all__ = [
    "add_mimics",
    "basivertebral_vein",
    "endplate_change",
    "fatty_focus",
    "marrow_variation",
    "schmorl_node",
]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
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
    bodies = cc3d.connected_components(structures == Structure.VERTEBRAL_BODY, connectivity=6)
    boxes = [box for box in ndimage.find_objects(bodies.astype(np.int32)) if box is not None]
    image = marrow_variation(image, bodies, spacing_mm, references, rng)
    for label, found in enumerate(boxes, start=1):
        box: Box = (found[0], found[1], found[2])
        body = bodies[box] == label
        if body.sum() < 200:
            continue
        for chance, variant in _VARIANTS:
            if rng.random() < chance:
                image[box] = variant(image[box], body, spacing_mm, references, weighting, rng)
    return image


def marrow_variation(
    image: Array,
    bodies: npt.NDArray[np.generic],
    spacing_mm: PointMm,
    references: References,
    rng: np.random.Generator,
) -> Array:
    """Patchy marrow: every vertebra a little different, and smooth islands within them."""
    count = int(bodies.max())
    shift = np.concatenate(([0.0], rng.normal(0, 0.7, count))).astype(np.float32)
    patches = smooth_noise(image.shape, spacing_mm, rng.uniform(6, 15), rng) * rng.uniform(0, 0.9)
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
    kind = rng.choice((1, 2, 2, 3))
    if weighting is Weighting.T1:
        sign = {1: -1, 2: 1, 3: -1}[int(kind)]
    elif weighting in _FAT_SUPPRESSED:
        sign = {1: 1, 2: -1, 3: -1}[int(kind)]
    else:
        sign = {1: 1, 2: 1, 3: -1}[int(kind)]
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
    spacing_mm: PointMm,
    references: References,
    weighting: Weighting,  # noqa: ARG001 - every variant takes the same
    rng: np.random.Generator,
) -> Array:
    """Disc material pressed into an endplate: small, round, with the disc's signal."""
    points = np.argwhere(body)
    edge = points[:, 2].max() if rng.random() < 0.5 else points[:, 2].min()
    row = points[rng.integers(len(points))]
    radius = rng.uniform(2, 5)
    box, level = blob(body.shape, spacing_mm, (row[0], row[1], edge), (radius,) * 3, rng)
    weight = np.clip(1.5 - level, 0, 1) * body[box]
    changed = image.copy()
    changed[box] += weight * (references.soft_tissue - references.marrow)
    return changed


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
    if weighting is not Weighting.T1 and weighting not in _FAT_SUPPRESSED:
        return image
    points = np.argwhere(body)
    radii = np.exp(rng.uniform(np.log(3), np.log(12))) * rng.uniform(0.7, 1.3, 3)
    box, level = blob(body.shape, spacing_mm, points[rng.integers(len(points))], radii, rng)
    weight = np.clip((1.2 - level) * 2, 0, 1) * body[box]
    sign = 1 if weighting is Weighting.T1 else -1
    changed = image.copy()
    changed[box] += weight * sign * rng.uniform(2, 6) * references.spread
    return changed


def _upright(
    shape: tuple[int, ...],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    spacing: PointMm,
) -> Array:
    axes = [
        ((np.arange(n) - c) * s / r) ** 2 for n, c, s, r in zip(shape, centre, spacing, radii, strict=True)
    ]
    distance = np.sqrt(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])
    return np.asarray(np.clip(1.5 - distance, 0, 1), dtype=np.float32)


_Variant = Callable[[Array, Mask, PointMm, References, Weighting, np.random.Generator], Array]
_VARIANTS: tuple[tuple[float, _Variant], ...] = (
    (0.45, basivertebral_vein),
    (0.12, endplate_change),
    (0.10, schmorl_node),
    (0.12, fatty_focus),
)
