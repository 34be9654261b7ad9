"""Noise has the scale it claims, and blobs lie where and as large as they were asked for."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest

from spinemets.simulation.shapes import blob, smooth_noise

SPACING_MM = (4.0, 1.0, 1.0)


def test_noise_has_zero_mean_unit_spread_and_the_shape_asked_for():
    field = smooth_noise((9, 80, 90), SPACING_MM, 10.0, np.random.default_rng(1))
    assert field.shape == (9, 80, 90)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 1e-4
    assert field.std() == pytest.approx(1.0, abs=1e-4)


def test_noise_of_a_larger_scale_is_smoother():
    def step(scale_mm):
        return np.abs(
            np.diff(smooth_noise((4, 200, 200), SPACING_MM, scale_mm, np.random.default_rng(2)), axis=1)
        ).mean()

    assert step(5.0) > 2 * step(20.0) > 4 * step(80.0)


def test_noise_is_as_smooth_in_millimetres_along_every_axis():
    field = smooth_noise((60, 240, 240), SPACING_MM, 24.0, np.random.default_rng(3))
    across = np.abs(np.diff(field, axis=0)).mean() / 4.0
    along = np.abs(np.diff(field, axis=1)).mean()
    assert across == pytest.approx(along, rel=0.25)


def test_the_seed_decides_noise_and_blob():
    for draw in (
        lambda rng: smooth_noise((4, 30, 30), SPACING_MM, 8.0, rng),
        lambda rng: blob((9, 60, 60), SPACING_MM, (4, 30, 30), (6, 8, 9), rng)[1],
    ):
        first, second, other = (draw(np.random.default_rng(seed)) for seed in (4, 4, 5))
        assert np.array_equal(first, second)
        assert first.shape != other.shape or not np.array_equal(first, other)


def volumes_over_ellipsoid(radii_mm):
    """Of twelve blobs, on a lattice of 1 mm."""
    ellipsoid = 4 / 3 * np.pi * np.prod(radii_mm)
    draws = (
        blob((50, 90, 90), (1.0, 1.0, 1.0), (25, 45, 45), radii_mm, np.random.default_rng(seed))
        for seed in range(12)
    )
    return np.array([(level < 1).sum() / ellipsoid for _, level in draws])


@pytest.mark.parametrize("radii_mm", [(6.0, 6.0, 6.0), (4.0, 8.0, 12.0), (10.0, 10.0, 5.0)])
def test_a_blob_has_the_order_of_volume_of_its_ellipsoid(radii_mm):
    volumes = volumes_over_ellipsoid(radii_mm)
    assert 0.8 < np.median(volumes) < 2.0
    assert volumes.min() > 0.4


@pytest.mark.parametrize("radii_mm", [(6.0, 6.0, 6.0), (4.0, 8.0, 12.0)])
def test_a_blob_is_one_piece_within_its_box(radii_mm):
    for seed in range(12):
        _, level = blob((50, 90, 90), (1.0, 1.0, 1.0), (25, 45, 45), radii_mm, np.random.default_rng(seed))
        assert cc3d.connected_components(level < 1, return_N=True)[1] == 1
        assert all((level.take(end, axis) >= 1).all() for axis in range(3) for end in (0, -1))


def test_a_smooth_round_blob_is_a_ball_in_millimetres():
    box, level = blob(
        (15, 60, 60), SPACING_MM, (7, 30, 30), (8.0,) * 3, np.random.default_rng(6), roughness=0.0
    )
    axes = [np.arange(s.start, s.stop) for s in box]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    distance = np.sqrt(((x - 7) * 4.0) ** 2 + (y - 30) ** 2 + (z - 30) ** 2)
    assert np.array_equal(level < 1, distance < 8)


def test_a_blob_is_roughened_around_its_centre():
    box, level = blob((30, 60, 60), (2.0, 1.0, 1.0), (15, 30, 30), (10.0,) * 3, np.random.default_rng(7))
    centre = np.argwhere(level < 1).mean(axis=0) + [s.start for s in box]
    assert np.abs((centre - (15, 30, 30)) * (2, 1, 1)).max() < 4


@pytest.mark.parametrize("centre", [(0, 0, 0), (8, 59, 59), (4, 0, 59)])
def test_a_blob_at_the_edge_stays_inside_the_lattice(centre):
    shape = (9, 60, 60)
    box, level = blob(shape, SPACING_MM, centre, (7, 9, 11), np.random.default_rng(8))
    assert all(0 <= s.start < s.stop <= n for s, n in zip(box, shape, strict=True))
    assert level.shape == tuple(s.stop - s.start for s in box)
    assert (level < 1).any()
