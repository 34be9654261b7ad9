"""Simulated whole spines as training scans, drawn once and kept on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import SpineRegion, Structure, VertebralLevel
from spinemets.channels import Channel
from spinemets.simulation.contrast import random_contrast, signal
from spinemets.simulation.phantom import SpinePhantom, draw_spine
from spinemets.simulation.rasterisation import PhantomLabels, rasterise
from spinemets.simulation.tissues import LEVEL_OF_CODE, structure_of_tissue
from spinemets.training.scans import LabelledScan, bit
from spinemets.volume import Grid, Weighting

__all__ = ["draw_phantom_scan", "with_open_edges"]

_SPACING_MM = (2.0, 1.0, 1.0)
_WIDTH_MM = 76.0
_WEIGHTINGS = (
    Weighting.T1,
    Weighting.T2,
    Weighting.T2_FS,
    Weighting.UNKNOWN,
    Weighting.T1,
    Weighting.T2_FS,
    Weighting.UNKNOWN,
    Weighting.T1_FS_GD,
)
_BODY_CHANNELS = {
    SpineRegion.CERVICAL: Channel.CERVICAL_BODY,
    SpineRegion.THORACIC: Channel.THORACIC_BODY,
    SpineRegion.LUMBAR: Channel.LUMBAR_BODY,
    SpineRegion.SACRAL: Channel.SACRUM,
}


def draw_phantom_scan(seed: int, index: int, cache: Path) -> LabelledScan:
    """The ``index``-th phantom of a seed, in a contrast that goes with its number.

    ``Weighting.UNKNOWN`` stands for a contrast that no sequence has.
    """
    weighting = _WEIGHTINGS[index % len(_WEIGHTINGS)]
    path = cache / f"phantom_{seed}_{index:04d}.npz"
    if path.exists():
        with np.load(path) as stored:
            image, allowed, structures = stored["image"], stored["allowed"], stored["structures"]
    else:
        image, allowed, structures = _draw(seed, index, weighting)
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
        np.savez_compressed(temporary, image=image, allowed=allowed, structures=structures)
        temporary.replace(path)
    open_allowed = with_open_edges(allowed, structures)
    return LabelledScan(f"phantom/{index}", image, open_allowed, structures, _SPACING_MM, weighting)


def _draw(
    seed: int, index: int, weighting: Weighting
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng([seed, 4242, index])
    phantom = draw_spine(rng)
    labels = rasterise(phantom, _whole_spine_grid(phantom, rng))
    if weighting is Weighting.UNKNOWN:
        image = random_contrast(labels.tissue, labels.grid, rng)
    else:
        image = signal(labels, weighting, rng)
    scale = 235 / max(float(np.percentile(image, 99.7)), 1e-6)
    structures = structure_of_tissue(labels.tissue)
    return np.clip(image * scale, 0, 255).astype(np.uint8), _allowed(labels, structures), structures


def _whole_spine_grid(phantom: SpinePhantom, rng: np.random.Generator) -> Grid:
    centroids = np.array(list(phantom.centroids_mm().values()))
    low, high = centroids.min(axis=0), centroids.max(axis=0)
    behind, ahead = rng.uniform(60, 110), rng.uniform(60, 120)
    origin = ((low[0] + high[0] - _WIDTH_MM) / 2 + rng.uniform(-8, 8), low[1] - behind, low[2] - 40)
    extent = (_WIDTH_MM, high[1] - low[1] + behind + ahead, high[2] - low[2] + 80)
    x, y, z = (int(e / s) for e, s in zip(extent, _SPACING_MM, strict=True))
    affine = np.diag([*_SPACING_MM, 1.0])
    affine[:3, 3] = origin
    return Grid((x, y, z), affine)


def _allowed(labels: PhantomLabels, structures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    fixed = {
        Structure.BACKGROUND: Channel.BACKGROUND,
        Structure.VERTEBRAL_BODY: Channel.BACKGROUND,
        Structure.POSTERIOR_ELEMENTS: Channel.POSTERIOR_ELEMENTS,
        Structure.DISC: Channel.DISC,
        Structure.THECAL_SAC: Channel.THECAL_SAC,
        Structure.CORD: Channel.CORD,
        Structure.SACRUM: Channel.SACRUM,
    }
    table = np.array([bit(fixed[Structure(value)]) for value in range(len(Structure))], dtype=np.uint16)
    allowed = table[structures]
    bodies = structures == Structure.VERTEBRAL_BODY
    channels = np.full(256, bit(Channel.SACRUM), dtype=np.uint16)
    for code, level in LEVEL_OF_CODE.items():
        channels[code] = bit(_channel_of(level))
    allowed[bodies] = channels[labels.vertebra[bodies]]
    return allowed


def with_open_edges(
    allowed: npt.NDArray[np.uint16], structures: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint16]:
    """The outermost in-plane voxel of every structure may be background as well.

    Phantoms label a body with its cortex and let discs touch it; people who outline scans leave
    a gap there. How wide it is, real scans teach.

    Parameters
    ----------
    allowed
        uint16, shape (left-right, back-front, foot-head): bits of ``Channel``. Not changed.
    structures
        uint8, same shape: ``Structure``.
    """
    canal = np.isin(structures, (Structure.THECAL_SAC, Structure.CORD))
    kinds = np.where(canal, Structure.THECAL_SAC, structures)
    edge = np.zeros(kinds.shape, dtype=np.bool_)
    for axis in (1, 2):
        differs = np.diff(kinds, axis=axis) != 0
        pad = [(0, 0)] * 3
        for side in ((1, 0), (0, 1)):
            pad[axis] = side
            edge |= np.pad(differs, pad)
    allowed = allowed.copy()
    allowed[edge & (kinds != Structure.BACKGROUND)] |= np.uint16(bit(Channel.BACKGROUND))
    return allowed


def _channel_of(level: VertebralLevel) -> Channel:
    if level is VertebralLevel.C1:
        # The ring of the atlas is no body; its front arch and masses count as elements around one.
        return Channel.POSTERIOR_ELEMENTS
    if level is VertebralLevel.C2:
        return Channel.C2
    return _BODY_CHANNELS[level.region]
