"""Random smooth fields and rough ellipsoids on a voxel lattice, at scales given in millimetres."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from spinemets.volume import PointMm

__all__ = ["Box", "blob", "log_uniform", "smooth_noise", "squared_distance"]

Array = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]

_SURFACE_WAVES = 6
_LARGEST_BULGE = 1.6  # of the radius


def log_uniform(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """A number between two others, where doubling is as likely anywhere."""
    return float(np.exp(rng.uniform(*np.log(limits))))


def smooth_noise(
    shape: tuple[int, ...], spacing_mm: PointMm, scale_mm: float, rng: np.random.Generator
) -> Array:
    """Smooth random field of zero mean and unit standard deviation.

    Parameters
    ----------
    scale_mm
        Distance between the independent values that are interpolated between.

    Returns
    -------
    Array
        float32 of the given shape (three axes).
    """
    coarse = [
        max(2, int(np.ceil(n * step / scale_mm)) + 1) for n, step in zip(shape, spacing_mm, strict=True)
    ]
    values = torch.from_numpy(rng.standard_normal(coarse, dtype=np.float32))[None, None]
    field = F.interpolate(values, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0].numpy()
    deviation = float(field.std())
    return np.asarray((field - field.mean()) / max(deviation, 1e-6), dtype=np.float32)


def blob(
    shape: tuple[int, ...],
    spacing_mm: PointMm,
    centre: npt.ArrayLike,
    radii_mm: npt.ArrayLike,
    rng: np.random.Generator,
    roughness: float = 0.25,
) -> tuple[Box, Array]:
    """A rough, randomly turned ellipsoid.

    Parameters
    ----------
    shape, spacing_mm
        Of the whole lattice.
    centre
        Voxel indices, shape (3,).
    radii_mm
        Semi-axes, shape (3,).
    roughness
        Relative standard deviation of the surface's distance from the centre.

    Returns
    -------
    box
        Where in the lattice the blob can lie.
    level
        float32 on that box: below 1 inside, 1 on the surface.
    """
    spacing, middle = np.asarray(spacing_mm, dtype=float), np.asarray(centre, dtype=float)
    radii = np.asarray(radii_mm, dtype=float)
    reach = np.ceil(radii.max() * _LARGEST_BULGE / spacing).astype(int) + 1
    lower = np.maximum(np.floor(middle).astype(int) - reach, 0)
    upper = np.minimum(np.floor(middle).astype(int) + reach + 1, shape)
    box = (slice(lower[0], upper[0]), slice(lower[1], upper[1]), slice(lower[2], upper[2]))
    axes = [
        (np.arange(start, stop) - m) * step
        for start, stop, m, step in zip(lower, upper, middle, spacing, strict=True)
    ]
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ turn / radii
    level = np.linalg.norm(offsets, axis=-1)
    # The surface is uneven by direction alone, so that every ray leaves the blob once and the
    # blob stays in one piece.
    directions = offsets / np.maximum(level, 1e-6)[..., None]
    waves = rng.standard_normal((_SURFACE_WAVES, 3))
    waves *= (rng.uniform(1.5, 5.0, _SURFACE_WAVES) / np.linalg.norm(waves, axis=1))[:, None]
    phases = rng.uniform(0, 2 * np.pi, _SURFACE_WAVES)
    unevenness = np.sqrt(2 / _SURFACE_WAVES) * np.cos(directions @ waves.T + phases).sum(axis=-1)
    level = level / np.clip(1 + roughness * unevenness, 2 - _LARGEST_BULGE, _LARGEST_BULGE)
    return box, level.astype(np.float32)


def squared_distance(
    box: Box, centre: npt.ArrayLike, radii_mm: npt.ArrayLike, spacing_mm: PointMm
) -> npt.NDArray[np.float64]:
    """Squared distance from a voxel in units of an upright ellipsoid's semi-axes, over a box."""
    middle, radii = np.asarray(centre, dtype=float), np.asarray(radii_mm, dtype=float)
    x, y, z = (
        ((np.arange(cut.start, cut.stop) - c) * step / r) ** 2
        for cut, c, step, r in zip(box, middle, spacing_mm, radii, strict=True)
    )
    return np.asarray(x[:, None, None] + y[None, :, None] + z[None, None, :])
