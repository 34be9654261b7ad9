"""From a phantom to a scan: slices, resolution, coil, fat shift, motion and noise.

Images have the axes (left-right, back-front, foot-head) of a sagittal series. Each effect is
a function of an image; ``acquire`` chains them as a scanner would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.simulation.contrast import Protocol, TissueProperties, draw_properties, draw_protocol, signal
from spinemets.simulation.implicit import draw_waves, smooth_waves
from spinemets.simulation.phantom import SpinePhantom
from spinemets.simulation.rasterisation import PhantomLabels, rasterise
from spinemets.simulation.shapes import log_uniform
from spinemets.volume import Grid, PointMm, Weighting

__all__ = [
    "AcquisitionOptions",
    "acquire",
    "add_bias",
    "add_ghosts",
    "add_noise",
    "add_saturation_band",
    "blur_in_plane",
    "draw_sagittal_grid",
    "shift_fat",
    "wrap",
]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AcquisitionOptions:
    """How a scan is degraded.

    Attributes
    ----------
    slice_fill
        Share of the slice spacing that a slice covers; the rest is the gap.
    sub_slices
        How many thin slices are averaged into one.
    noise
        Range of the noise's standard deviation, as a share of the signal's 99th percentile.
    ghost_chance, wrap_chance, band_chance
        Chance of motion ghosts, of a wrapped-in edge, of a saturation band in front.
    fat_shift_pixels
        How far fat is displaced from foot to head (chemical shift).
    """

    slice_fill: float = 0.9
    sub_slices: int = 3
    noise: tuple[float, float] = (0.005, 0.04)
    ghost_chance: float = 0.25
    wrap_chance: float = 0.05
    band_chance: float = 0.6
    fat_shift_pixels: float = 0.0


def draw_sagittal_grid(
    phantom: SpinePhantom,
    rng: np.random.Generator,
    shape: tuple[int, int, int] = (12, 176, 256),
    spacing_mm: PointMm = (4.0, 1.0, 1.0),
) -> Grid:
    """Draw a sagittal field of view that lies over some stretch of the spine.

    Parameters
    ----------
    shape
        Voxels from left to right, back to front, foot to head.
    """
    centroids = np.array(list(phantom.centroids_mm().values()))
    extent = np.array(shape) * np.array(spacing_mm)
    low, high = centroids[:, 2].min() - 25, centroids[:, 2].max() + 35
    middle = rng.uniform(
        min(low + extent[2] / 2, (low + high) / 2), max(high - extent[2] / 2, (low + high) / 2)
    )
    inside = centroids[np.abs(centroids[:, 2] - middle) < extent[2] / 2]
    x = inside[:, 0].mean() + rng.normal(0, 3)
    # The spine lies in the rear half, as the fat behind it is thinner than the body in front.
    y = inside[:, 1].mean() + rng.uniform(-0.12, 0.12) * extent[1]
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = np.array((x, y, middle)) - (np.array(shape) - 1) / 2 * np.array(spacing_mm)
    return Grid(shape, affine)


def acquire(
    phantom: SpinePhantom,
    grid: Grid,
    weighting: Weighting | Protocol,
    rng: np.random.Generator,
    properties: TissueProperties | None = None,
    options: AcquisitionOptions | None = None,
) -> tuple[Array, PhantomLabels]:
    """Scan a phantom: the image, in arbitrary units, and what lies at every voxel's centre.

    Parameters
    ----------
    grid
        Sagittal: its first axis runs across the slices.
    properties
        Pass the same ones for every series of a study.
    """
    options = options or AcquisitionOptions()
    properties = properties or draw_properties(rng, phantom.age_years)
    protocol = (
        weighting if isinstance(weighting, Protocol) else draw_protocol(rng, weighting, properties.fat_t1_ms)
    )
    total = np.zeros(grid.shape, dtype=np.float32)
    offsets = (np.arange(options.sub_slices) + 0.5) / options.sub_slices - 0.5
    labels = None
    for offset in offsets * options.slice_fill:
        thin = rasterise(phantom, _moved(grid, float(offset)))
        total += _shifted_signal(thin, protocol, rng, properties, options.fat_shift_pixels)
        if abs(offset) < 1e-9:
            labels = thin
    labels = labels or rasterise(phantom, grid)
    return degrade(total / np.float32(options.sub_slices), grid, rng, options), labels


def _shifted_signal(
    labels: PhantomLabels,
    protocol: Protocol,
    rng: np.random.Generator,
    properties: TissueProperties,
    pixels: float,
) -> Array:
    # Out of phase, water and fat cannot be added after the fact.
    if not pixels or protocol.opposed:
        return signal(labels, protocol, rng, properties)
    water = signal(labels, replace(protocol, fat_left=0.0), rng, properties)
    fat = signal(labels, replace(protocol, water_left=0.0), rng, properties)
    return shift_fat(water, fat, pixels)


def degrade(image: Array, grid: Grid, rng: np.random.Generator, options: AcquisitionOptions) -> Array:
    """Everything that a scanner adds to the slices' mean signal, drawn at random."""
    image = blur_in_plane(image, float(rng.uniform(0.35, 0.75)), grid.spacing_mm)
    if rng.random() < options.wrap_chance:
        image = wrap(image, int(rng.integers(4, 20)), axis=2)
    image = add_bias(image, grid, rng)
    if rng.random() < options.band_chance:
        image = add_saturation_band(image, grid, rng)
    if rng.random() < options.ghost_chance:
        image = add_ghosts(image, rng)
    level = log_uniform(options.noise, rng)
    return add_noise(image, level * float(np.quantile(image, 0.99)), rng)


def _moved(grid: Grid, slices: float) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * slices
    return Grid(grid.shape, affine)


def blur_in_plane(image: Array, deviation_mm: float, spacing_mm: PointMm) -> Array:
    """The in-plane point spread, as a Gaussian; slices stay apart."""
    deviations = (0.0, deviation_mm / spacing_mm[1], deviation_mm / spacing_mm[2])
    return np.asarray(ndimage.gaussian_filter(image, deviations), dtype=np.float32)


def add_bias(image: Array, grid: Grid, rng: np.random.Generator, fall_off_mm: float | None = None) -> Array:
    """Surface-coil shading: bright near the back and darker forwards, uneven along the coil."""
    fall_off = float(rng.uniform(60, 250)) if fall_off_mm is None else fall_off_mm
    axes = np.ogrid[tuple(slice(0, n) for n in image.shape)]
    x, y, z = (np.asarray(axis * step, np.float32) for axis, step in zip(axes, grid.spacing_mm, strict=True))
    back_to_front = np.exp(-(y - float(y.mean())) / fall_off)
    uneven = smooth_waves((x, y, z), draw_waves(rng, (150.0, 500.0), float(rng.uniform(0.03, 0.15)), 6))
    return np.asarray(image * back_to_front * np.exp(uneven), dtype=np.float32)


def add_saturation_band(image: Array, grid: Grid, rng: np.random.Generator) -> Array:
    """A band in front of the spine that silences moving organs."""
    depth = image.shape[1]
    edge = rng.uniform(0.62, 0.85) * depth
    slope = rng.uniform(-0.25, 0.25)
    y, z = np.ogrid[:depth, : image.shape[2]]
    place = (y - edge - slope * (z - image.shape[2] / 2)) * grid.spacing_mm[1] / 4.0
    remaining = 1 - rng.uniform(0.5, 0.95) / (1 + np.exp(-np.clip(place, -30, 30)))
    return np.asarray(image * remaining[None], dtype=np.float32)


def shift_fat(water: Array, fat: Array, pixels: float, axis: int = 2) -> Array:
    """Sum of water and fat images with fat displaced along the read-out axis (chemical shift)."""
    shift = [0.0, 0.0, 0.0]
    shift[axis] = pixels
    return np.asarray(water + ndimage.shift(fat, shift, order=1, mode="nearest"), dtype=np.float32)


def add_ghosts(image: Array, rng: np.random.Generator, axis: int | None = None) -> Array:
    """Faint displaced copies along the phase axis, as breathing and pulsation leave them."""
    axis = int(rng.integers(1, 3)) if axis is None else axis
    size = image.shape[axis]
    period = int(rng.integers(max(size // 8, 2), max(size // 2, 3)))
    strength = rng.uniform(0.01, 0.06)
    ghost = np.zeros_like(image)
    for order in (-2, -1, 1, 2):
        ghost += np.roll(image, order * period, axis=axis) * strength / abs(order)
    return np.asarray(image + ghost, dtype=np.float32)


def wrap(image: Array, pixels: int, axis: int = 2) -> Array:
    """Fold one edge of the image onto the other, as a field of view that is too small does."""
    folded = image.copy()
    source = [slice(None)] * 3
    target = [slice(None)] * 3
    source[axis], target[axis] = slice(0, pixels), slice(image.shape[axis] - pixels, None)
    folded[tuple(target)] += 0.7 * image[tuple(source)]
    return folded


def add_noise(image: Array, deviation: float, rng: np.random.Generator) -> Array:
    """Rician noise: the magnitude of a signal with Gaussian noise in both channels."""
    real = image + rng.normal(0, deviation, image.shape)
    imaginary = rng.normal(0, deviation, image.shape)
    return np.asarray(np.hypot(real, imaginary), dtype=np.float32)
