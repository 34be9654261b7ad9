"""New contrasts for a real scan, from its labels: other weightings, and none that exists.

Real texture is kept: each structure's residual around its own median is carried over onto a
new level for that structure, so that a T2 scan can look like T1, before and after contrast, or STIR.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from spinemets.anatomy import Structure
from spinemets.errors import UnsupportedInputError
from spinemets.simulation.references import BONE
from spinemets.volume import Weighting

__all__ = ["RESEMBLING", "recontrast", "resemble", "vary"]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Level = tuple[float, float]

# Signal ranges relative to subcutaneous fat on T1 (1.0) and to CSF on STIR (1.0), read off the
# order of signals that relaxation times give (synthetic MRI of 32 spines, PMC7410772).
_T1: Mapping[Structure, Level] = {
    Structure.VERTEBRAL_BODY: (0.40, 0.75),
    Structure.THECAL_SAC: (0.08, 0.22),
    Structure.CORD: (0.25, 0.40),
}
_STIR: Mapping[Structure, Level] = {
    Structure.VERTEBRAL_BODY: (0.10, 0.35),
    Structure.DISC: (0.15, 0.60),
    Structure.THECAL_SAC: (0.80, 1.00),
    Structure.CORD: (0.35, 0.55),
}
# After contrast with fat suppressed, relative to a nodule that enhances.
_T1_FS_GD: Mapping[Structure, Level] = {
    Structure.VERTEBRAL_BODY: (0.12, 0.40),
    Structure.DISC: (0.10, 0.30),
    Structure.THECAL_SAC: (0.05, 0.20),
    Structure.CORD: (0.22, 0.42),
}
# Relative to the same person's vertebral bodies: marrow is alike everywhere in a spine, and on
# T1 a healthy adult's is brighter than disc, which is how radiologists tell disease from it.
_MARROW: Mapping[Structure, Level] = {
    Structure.POSTERIOR_ELEMENTS: (0.85, 1.15),
    Structure.SACRUM: (0.85, 1.15),
}
# What of the scan's texture stays; that of marrow keeps its sign on STIR, or its cortex would be bright.
_GAIN: Level = (-0.3, 0.9)
_FAT_SUPPRESSED_MARROW_GAIN: Level = (0.1, 0.9)
_FAT_DARKENED = 0.3  # of what fat adds to marrow
# Weightings whose background can be made to look like another's: fat is what is bright in it.
RESEMBLING = (Weighting.T1, Weighting.T2, Weighting.PD)
# Up to which draw of 0..1 a scan is made to look like each; from the last on, no weighting is meant.
_UP_TO_T1, _UP_TO_STIR, _FREE = 0.32, 0.52, 0.72
_T1_BESIDE_MARROW: Mapping[Structure, Level] = {**_MARROW, Structure.DISC: (0.50, 0.80)}


def recontrast(
    image: Array, structures: Labels, weighting: Weighting, rng: np.random.Generator
) -> tuple[Array, Weighting]:
    """A patch in another contrast, and that contrast's weighting (or unknown)."""
    scaled = _scaled(image)
    way = rng.random()
    if weighting not in RESEMBLING:
        # The background would keep a signal that no weighting here has: dark fat, or bright vessels.
        way = _FREE + (1 - _FREE) * way
    if way < _UP_TO_T1:
        return _like_t1(scaled, structures, rng), Weighting.T1
    if way < _UP_TO_STIR:
        return _fat_suppressed(scaled, structures, _STIR, rng), Weighting.T2_FS
    if way < _FREE:
        return _fat_suppressed(scaled, structures, _T1_FS_GD, rng), Weighting.T1_FS_GD
    if way < 0.86:
        levels: dict[Structure, Level] = {
            structure: (float(rng.uniform()), float(rng.uniform(-0.6, 1.2)))
            for structure in Structure
            if structure is not Structure.BACKGROUND
        }
        return _relevel(scaled, structures, levels, _random_curve(scaled, rng)), Weighting.UNKNOWN
    if way < 0.93:
        return _random_curve(scaled, rng), Weighting.UNKNOWN
    return (scaled ** np.exp(rng.normal(0, 0.3))).astype(np.float32), weighting


def vary(image: Array, structures: Labels, rng: np.random.Generator) -> Array:
    """A patch in its own weighting as another patient's might be: levels and texture of tissues differ.

    Without it, a network that sees few patients knows each of them, and what is not theirs.

    Returns
    -------
    Array
        In 0..1.2; brighter and darker by a quarter, marrow of a spine everywhere by nearly the same.
    """
    scaled = _scaled(image)
    marrow = rng.normal(0, 0.25)
    levels: dict[Structure, Level] = {}
    for structure in Structure:
        own = rng.normal(0, 0.08) + marrow if structure in BONE else rng.normal(0, 0.25)
        values = scaled[structures == structure]
        if structure is not Structure.BACKGROUND and values.size:
            levels[structure] = float(np.median(values) * np.exp(own)), float(rng.uniform(0.4, 1.2))
    return _relevel(scaled, structures, levels, scaled ** np.float32(np.exp(rng.normal(0, 0.2))))


def resemble(image: Array, structures: Labels, weighting: Weighting, rng: np.random.Generator) -> Array:
    """A scan made to look like T1 or STIR, in 0..1.2.

    Parameters
    ----------
    weighting
        To resemble.

    Raises
    ------
    UnsupportedInputError
        Another weighting is asked for.
    """
    if weighting is Weighting.T1:
        return _like_t1(_scaled(image), structures, rng)
    if weighting is Weighting.T2_FS:
        return _fat_suppressed(_scaled(image), structures, _STIR, rng)
    raise UnsupportedInputError(f"{weighting.value} cannot be simulated from a scan's labels; use T1 or STIR")


def _like_t1(scaled: Array, structures: Labels, rng: np.random.Generator) -> Array:
    levels = _draw(_T1, _T1_BESIDE_MARROW, _GAIN, rng)
    background = _t1_background(scaled, _marrow(scaled, structures, levels), rng)
    return _relevel(scaled, _without_sacrum(structures), levels, background)


def _fat_suppressed(
    scaled: Array, structures: Labels, table: Mapping[Structure, Level], rng: np.random.Generator
) -> Array:
    levels = _draw(table, _MARROW, _FAT_SUPPRESSED_MARROW_GAIN, rng)
    background = _fat_suppressed_background(scaled, _marrow(scaled, structures, levels), rng)
    return _relevel(_fat_darkened(scaled, structures), _without_sacrum(structures), levels, background)


def _fat_darkened(scaled: Array, structures: Labels) -> Array:
    """What is bright in marrow is fat, and dark on STIR: reflected about the bone's median, and fainter."""
    folded = scaled.copy()
    for bone in BONE:
        inside = structures == bone
        if inside.any():
            median = np.median(scaled[inside])
            folded[inside] -= (1 + _FAT_DARKENED) * np.maximum(scaled[inside] - median, 0)
    return folded


def _without_sacrum(structures: Labels) -> Labels:
    """The sacrum as background, whose signal is that of marrow there.

    Where its label is but a part of it, the part would be cut out of the whole.
    """
    return np.where(structures == Structure.SACRUM, np.uint8(Structure.BACKGROUND), structures)


def _marrow(scaled: Array, structures: Labels, levels: Mapping[Structure, Level]) -> Level | None:
    """What marrow's signal is and becomes: the sacrum's, else that of bodies; None where neither is seen."""
    for bone in (Structure.SACRUM, Structure.VERTEBRAL_BODY):
        values = scaled[structures == bone]
        if values.size:
            # No curve leads from black or from the brightest to a level between.
            return float(np.clip(np.median(values), 0.05, 0.9)), levels[bone][0]
    return None


def _scaled(image: Array) -> Array:
    low, high = np.percentile(image[:, ::3, ::3], (1, 99.5))
    return np.asarray(np.clip((image - low) / max(high - low, 1e-3), 0, 1), dtype=np.float32)


def _draw(
    table: Mapping[Structure, Level],
    beside_marrow: Mapping[Structure, Level],
    marrow_gain: Level,
    rng: np.random.Generator,
) -> dict[Structure, Level]:
    """(level, gain of the texture) of each structure."""
    levels = {structure: float(rng.uniform(*limits)) for structure, limits in table.items()}
    marrow = levels[Structure.VERTEBRAL_BODY]
    levels |= {structure: marrow * float(rng.uniform(*limits)) for structure, limits in beside_marrow.items()}
    return {
        structure: (level, float(rng.uniform(*(marrow_gain if structure in BONE else _GAIN))))
        for structure, level in levels.items()
    }


def _relevel(
    scaled: Array, structures: Labels, levels: Mapping[Structure, Level], background: Array
) -> Array:
    """Structures at new levels with their own texture, blended over their borders."""
    offset, gain = np.zeros(len(Structure), np.float32), np.zeros(len(Structure), np.float32)
    for structure, (level, texture) in levels.items():
        values = scaled[structures == structure]
        median = float(np.median(values)) if values.size else 0.0
        offset[structure], gain[structure] = level - texture * median, texture
    inside = np.clip(offset[structures] + gain[structures] * scaled, 0, 1.2)
    mixed = np.where(structures > 0, inside, background)
    # Label borders are jagged where tissue borders are not.
    smooth = F.avg_pool3d(torch.from_numpy(mixed)[None, None], (1, 3, 3), stride=1, padding=(0, 1, 1))
    return np.asarray(smooth[0, 0].numpy() * 0.5 + mixed * 0.5, dtype=np.float32)


def _t1_background(scaled: Array, marrow: Level | None, rng: np.random.Generator) -> Array:
    """Fat stays bright, muscle rises, fluid cannot be told from fat; marrow is marrow without a label."""
    low, power = rng.uniform(0.0, 0.25), rng.uniform(0.6, 1.2)
    if marrow is not None:
        own, becomes = marrow
        power = np.log((becomes - low) / (1 - low)) / np.log(own)
    curve = low * np.minimum(1, scaled * 8) + (1 - low) * scaled**power
    return np.asarray(curve, dtype=np.float32)


def _fat_suppressed_background(scaled: Array, marrow: Level | None, rng: np.random.Generator) -> Array:
    """Fat, the brightest of a T2 background, goes dark; muscle stays; marrow is marrow without a label."""
    peak, width = rng.uniform(0.1, 0.3), rng.uniform(0.15, 0.3)
    height = rng.uniform(0.15, 0.4)
    if marrow is not None:
        own, becomes = marrow
        peak = min(peak, 0.6 * own)
        height = min(becomes * np.exp(0.5 * ((own - peak) / width) ** 2), max(0.45, 1.1 * becomes))
        width = (own - peak) / np.sqrt(2 * np.log(height / becomes))
    curve = height * np.exp(-0.5 * ((scaled - peak) / width) ** 2) * np.minimum(1, scaled * 10)
    return np.asarray(curve, dtype=np.float32)


def _random_curve(scaled: Array, rng: np.random.Generator) -> Array:
    """A random piecewise linear map of intensities; air stays dark more often than not."""
    knots = np.linspace(0, 1, int(rng.integers(3, 6)))
    values = rng.uniform(0, 1, size=knots.size)
    if rng.random() < 0.7:
        values[0] = 0
    return np.asarray(np.interp(scaled, knots, values), dtype=np.float32)
