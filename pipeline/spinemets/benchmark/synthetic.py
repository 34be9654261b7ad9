"""Studies to measure speed on: images of a plain spine, of usual sizes.

They say nothing about accuracy. They have bodies, discs, a canal and a cord, so that the steps
behind the network have something to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from spinemets.io import write_probability_map
from spinemets.volume import Grid

__all__ = ["CASES", "Case", "write_study"]

_PITCH_MM = 35.0  # of a lumbar body and its disc
_NOISE_SD = 0.03


@dataclass(frozen=True, slots=True)
class Case:
    """One study: the shape and spacing of each series (left-right, back-front, foot-head), and which."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    weightings: tuple[str, ...] = ("T2w",)


CASES: Mapping[str, Case] = MappingProxyType(
    {
        "lumbar": Case((15, 512, 512), (4.0, 0.6, 0.6)),
        "three sequences": Case((15, 512, 512), (4.0, 0.6, 0.6), ("T1w", "T2w", "STIR")),
        "whole spine": Case((20, 512, 1200), (4.0, 0.6, 0.6)),
        "isotropic": Case((60, 300, 700), (1.0, 1.0, 1.0)),
    }
)


def write_study(case: Case, folder: Path) -> None:
    """Write one NIfTI file for each series of a case.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    grid = Grid(case.shape, np.diag([*case.spacing_mm, 1.0]))
    for seed, weighting in enumerate(case.weightings):
        image = _plain_spine(case, dark_marrow=weighting != "T1w")
        image += np.random.default_rng(seed).normal(0, _NOISE_SD, case.shape).astype(np.float32)
        write_probability_map(folder / f"exam_{weighting}.nii.gz", np.clip(image, 0, 1), grid)


def _plain_spine(case: Case, *, dark_marrow: bool) -> npt.NDArray[np.float32]:
    """Intensities in [0, 1], shape ``case.shape``: a straight column in soft tissue."""
    centred = [
        (np.arange(size) - (size - 1) / 2) * step
        for size, step in zip(case.shape, case.spacing_mm, strict=True)
    ]
    x, y, z = np.ix_(*centred)
    marrow, disc, fluid = (0.35, 0.6, 0.9) if dark_marrow else (0.6, 0.35, 0.12)
    image = np.where((np.abs(x) < 200) & (np.abs(y) < 110), 0.2, 0.0) + 0 * z
    place = np.mod(z, _PITCH_MM)
    column = (np.abs(x) < 22) & (np.abs(y - 10) < 17)
    image = np.where(column & (place < 27), marrow, np.where(column & (place >= 28), disc, image))
    radius = np.hypot(x, y + 17) + 0 * z
    image = np.where(radius < 8.5, fluid, image)
    image = np.where(radius < 4.0, 0.45, image)
    arch = (np.abs(x) < 12) & (np.abs(y + 34) < 8) & (place < 22)
    return np.where(arch, marrow, image).astype(np.float32)
