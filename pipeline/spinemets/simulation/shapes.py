"""Random smooth fields and rough ellipsoids on a voxel lattice, at scales given in millimetres."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from spinemets.findings import PointMm

__all__ = ["Box", "blob", "smooth_noise"]

Array = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]


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
    reach = np.ceil(radii.max() * (1 + 2 * roughness) / spacing).astype(int) + 1
    lower = np.maximum(np.floor(middle).astype(int) - reach, 0)
    upper = np.minimum(np.floor(middle).astype(int) + reach + 1, shape)
    box = (slice(lower[0], upper[0]), slice(lower[1], upper[1]), slice(lower[2], upper[2]))
    axes = [
        (np.arange(start, stop) - m) * step
        for start, stop, m, step in zip(lower, upper, middle, spacing, strict=True)
    ]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    # A sphere needs no turn, and stays round on a lattice that was squeezed on purpose.
    if np.ptp(radii) > 0:
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        offsets = offsets @ turn
    level = np.linalg.norm(offsets / radii, axis=-1)
    extent = tuple(int(n) for n in upper - lower)
    level = level * (1 + roughness * smooth_noise(extent, spacing_mm, float(radii.mean()), rng))
    return box, level.astype(np.float32)
