"""Phantoms on grids, drawn once for all tests of the simulation."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.simulation.phantom import PhantomOptions, SpinePhantom, draw_spine
from spinemets.simulation.rasterisation import PhantomLabels, rasterise
from spinemets.volume import Grid


def whole_spine_grid(phantom: SpinePhantom, spacing_mm: float = 1.5) -> Grid:
    centroids = np.array(list(phantom.centroids_mm().values()))
    low = centroids.min(axis=0) - (40, 75, 30)
    high = np.array((40, 40, 25)) + centroids.max(axis=0)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = low
    x, y, z = (int(n) for n in (high - low) / spacing_mm)
    return Grid((x, y, z), affine)


@pytest.fixture(scope="session", params=[("usual", 11), ("T13", 12), ("no T12", 14)], ids=lambda p: p[0])
def drawn(request) -> tuple[SpinePhantom, PhantomLabels]:
    numbering, seed = request.param
    phantom = draw_spine(np.random.default_rng(seed), PhantomOptions(numbering=numbering))
    return phantom, rasterise(phantom, whole_spine_grid(phantom))


@pytest.fixture(scope="session")
def usual() -> tuple[SpinePhantom, PhantomLabels]:
    options = PhantomOptions(numbering="usual", age_years=(40, 41), mimics=0.0, fracture=0.0)
    phantom = draw_spine(np.random.default_rng(21), options)
    return phantom, rasterise(phantom, whole_spine_grid(phantom, 2.0))
