"""Scanner effects: each does what it says, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from spinemets.anatomy import Structure, VertebralLevel
from spinemets.simulation.acquisition import (
    AcquisitionOptions,
    acquire,
    add_bias,
    add_ghosts,
    add_noise,
    add_saturation_band,
    blur_in_plane,
    draw_sagittal_grid,
    shift_fat,
    wrap,
)
from spinemets.simulation.phantom import draw_spine
from spinemets.simulation.tissues import structure_of_tissue
from spinemets.volume import Grid, Plane, Weighting

GRID = Grid((5, 60, 80), np.diag([4.0, 1.0, 1.0, 1.0]))


def flat() -> np.ndarray:
    return np.ones(GRID.shape, dtype=np.float32)


def test_blur_keeps_slices_apart():
    image = np.zeros(GRID.shape, dtype=np.float32)
    image[2] = 1
    assert np.array_equal(blur_in_plane(image, 1.0, GRID.spacing_mm)[[0, 1, 3, 4]], image[[0, 1, 3, 4]])


def test_coil_is_brighter_behind_than_in_front():
    image = add_bias(flat(), GRID, np.random.default_rng(0), fall_off_mm=80.0)
    assert image[:, :10].mean() > 1.3 * image[:, -10:].mean()


def test_saturation_band_darkens_the_front_only():
    image = add_saturation_band(flat(), GRID, np.random.default_rng(1))
    assert image[:, :10].min() > 0.95
    assert image[:, -2:].mean() < 0.75


def test_noise_on_nothing_follows_rayleigh():
    image = add_noise(np.zeros((50, 50, 50), dtype=np.float32), 2.0, np.random.default_rng(2))
    assert image.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.01)


def test_ghosts_lie_along_one_axis():
    image = np.zeros(GRID.shape, dtype=np.float32)
    image[2, 30, 40] = 1
    places = np.argwhere(add_ghosts(image, np.random.default_rng(3), axis=1) > 0)
    assert len(places) > 2
    assert set(places[:, 0]) == {2}
    assert set(places[:, 2]) == {40}


def test_fat_moves_along_the_read_out_and_water_stays():
    water, fat = np.zeros(GRID.shape, dtype=np.float32), np.zeros(GRID.shape, dtype=np.float32)
    water[2, 30, 10] = fat[2, 30, 40] = 1
    image = shift_fat(water, fat, 2.0)
    assert image[2, 30, 10] == 1
    assert image[2, 30, 42] == pytest.approx(1)
    assert image[2, 30, 40] == 0


def test_wrap_folds_the_lower_edge_onto_the_upper():
    image = np.zeros(GRID.shape, dtype=np.float32)
    image[:, :, 3] = 1
    assert wrap(image, 10)[:, :, 73].min() == pytest.approx(0.7)


@pytest.mark.parametrize("seed", range(3))
def test_drawn_field_of_view_holds_part_of_the_spine(seed):
    rng = np.random.default_rng(seed)
    phantom = draw_spine(rng)
    grid = draw_sagittal_grid(phantom, rng)
    indices = grid.to_index(list(phantom.centroids_mm().values()))
    seen = ((indices > 0) & (indices < np.array(grid.shape))).all(axis=1)
    assert seen.sum() >= 4
    assert grid.plane is Plane.SAGITTAL


def test_scan_is_reproducible_and_lies_on_its_labels():
    def scan():
        rng = np.random.default_rng(5)
        phantom = draw_spine(rng)
        grid = draw_sagittal_grid(phantom, rng, shape=(5, 90, 100), spacing_mm=(4.0, 1.5, 1.5))
        return acquire(phantom, grid, Weighting.T2, rng, options=AcquisitionOptions(sub_slices=2))

    (image, labels), (again, _) = scan(), scan()
    assert image.shape == labels.tissue.shape
    assert np.array_equal(image, again)
    assert image.std() > 0


def test_chemical_shift_moves_the_fat_of_marrow_and_not_the_cord(usual):
    phantom, labels = usual
    x, y, z = phantom.centroids_mm()[VertebralLevel.T8]
    affine = labels.grid.affine.copy()
    affine[:3, 3] = (x, y - 80, z - 100)
    grid = Grid((1, labels.grid.shape[1], 100), affine)
    clean = AcquisitionOptions(noise=(1e-6, 2e-6), ghost_chance=0, wrap_chance=0, band_chance=0, sub_slices=1)

    def scan(options: AcquisitionOptions) -> tuple[np.ndarray, np.ndarray]:
        image, seen = acquire(phantom, grid, Weighting.T1, np.random.default_rng(4), options=options)
        return image, structure_of_tissue(seen.tissue)

    (still, structures), (moved, _) = scan(clean), scan(replace(clean, fat_shift_pixels=3.0))
    change = np.abs(moved - still) / np.median(still[structures == Structure.VERTEBRAL_BODY])
    assert np.quantile(change[structures == Structure.VERTEBRAL_BODY], 0.9) > 0.05
    core = ndimage.binary_erosion(structures == Structure.CORD, np.ones((1, 3, 1)))
    assert core.sum() > 10
    assert np.median(change[core]) < 0.02
