"""Simulated whole spines as training scans, drawn once and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.channels import Channel
from spinemets.simulation.contrast import random_contrast, signal
from spinemets.simulation.phantom import SpinePhantom, draw_spine
from spinemets.simulation.rasterisation import PhantomLabels, rasterise
from spinemets.simulation.studies import draw_lesions
from spinemets.simulation.tissues import LEVEL_OF_CODE, structure_of_tissue
from spinemets.training.scans import LabelledScan, bit
from spinemets.training.study_files import write_arrays
from spinemets.volume import Grid, Weighting

__all__ = ["draw_diseased_phantom", "draw_phantom_scan", "with_open_edges"]

Labels = npt.NDArray[np.uint8]

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
# Disease has relaxation times: a contrast that no sequence has would show it as nothing does.
_DISEASED_WEIGHTINGS = (
    Weighting.T2,
    Weighting.T1,
    Weighting.T2_FS,
    Weighting.T1_FS_GD,
    Weighting.T2,
    Weighting.T1_FS_GD,
    Weighting.T2_FS,
    Weighting.T1_GD,
    Weighting.T1,
    Weighting.T1_FS_GD,
    Weighting.DIXON_WATER,
    Weighting.T1_FS_GD,
)
# Lesions in and around the cord are seldom in patients; so few would not be learnt.
_LESIONS = 14
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
    stored = _kept(cache, seed, index, weighting, 0)
    return _scan(f"phantom/{index}", stored, weighting)


def draw_diseased_phantom(seed: int, index: int, cache: Path) -> LabelledScan:
    """The ``index``-th phantom of a seed with lesions of all compartments.

    Unlike what is implanted into a scan, its lesions are tissue with relaxation times, so that
    their signal beside that of marrow, CSF and cord is what a sequence makes of them.
    """
    weighting = _DISEASED_WEIGHTINGS[index % len(_DISEASED_WEIGHTINGS)]
    stored = _kept(cache, seed, index, weighting, _LESIONS)
    scan = _scan(f"diseased_phantom/{index}", stored, weighting)
    return replace(scan, lesions=stored["lesions"].astype(np.uint8))


def _scan(subject: str, stored: Mapping[str, npt.NDArray[np.generic]], weighting: Weighting) -> LabelledScan:
    structures = stored["structures"].astype(np.uint8)
    allowed = with_open_edges(stored["allowed"].astype(np.uint16), structures)
    image = stored["image"].astype(np.uint8)
    return LabelledScan(subject, image, allowed, structures, _SPACING_MM, weighting)


def _kept(
    cache: Path, seed: int, index: int, weighting: Weighting, lesions: int
) -> Mapping[str, npt.NDArray[np.generic]]:
    """The arrays of a phantom, drawn where the file is not there yet.

    The file is named by all that it was drawn from: one kept from when its number had another
    contrast would be taken for this one.
    """
    kind = "diseased" if lesions else "phantom"
    path = cache / f"{kind}_{seed}_{index:04d}_{weighting.name.lower()}.npz"
    if not path.exists():
        image, allowed, structures, numbers = _draw(seed, index, weighting, lesions)
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "image": image, "allowed": allowed, "structures": structures, "lesions": numbers
        }  # fmt: skip
        write_arrays(path, arrays, compressed=True)
    with np.load(path) as stored:
        return dict(stored)


def _draw(
    seed: int, index: int, weighting: Weighting, lesions: int
) -> tuple[Labels, npt.NDArray[np.uint16], Labels, Labels]:
    """Image, allowed channels, structures and lesions."""
    # Diseased spines are others than the healthy ones.
    rng = np.random.default_rng([seed, 4243 if lesions else 4242, index])
    phantom = draw_spine(rng)
    grid = _whole_spine_grid(phantom, rng)
    if lesions:
        drawn = draw_lesions(phantom, grid, lesions, tuple(Compartment), rng)
        phantom = replace(phantom, lesions=drawn)
    labels = rasterise(phantom, grid)
    if weighting is Weighting.UNKNOWN:
        image = random_contrast(labels.tissue, labels.grid, rng)
    else:
        image = signal(labels, weighting, rng)
    scale = 235 / max(float(np.percentile(image, 99.7)), 1e-6)
    structures = structure_of_tissue(labels.tissue)
    brightness = np.clip(image * scale, 0, 255).astype(np.uint8)
    return brightness, _allowed(labels, structures), structures, labels.lesion


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
