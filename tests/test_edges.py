"""Agreement of edges for every shift at once, on numbers that NumPy gives one by one."""

import itertools

import numpy as np
import pytest

from spinemets.edges import ShiftedAgreement, _correlations_when_moved, edge_agreement_when_shifted
from spinemets.volume import Grid, Series, Volume


@pytest.mark.parametrize("axes", [(1, 2), (0, 2), (0, 1)])
def test_the_agreement_for_every_shift_at_once_is_that_of_each(axes):
    random = np.random.default_rng(4)
    first = random.normal(3, 1, (12, 20, 17))
    second = 0.5 * np.roll(first, (2, -3), axes) + random.normal(-5, 1, first.shape)
    mask = random.random(first.shape) > 0.4
    together = _correlations_when_moved(first, second, mask, axes)
    assert np.unravel_index(together.argmax(), together.shape) == (together.shape[0] - 2, 3)
    for shift in itertools.product((-3, 0, 2), (-1, 3)):
        moved = np.roll(second, shift, axes)
        expected = np.corrcoef(first[mask], moved[mask])[0, 1]
        assert together[shift] == pytest.approx(expected, abs=1e-12)


def test_nothing_agrees_where_there_is_next_to_nothing_to_compare():
    first = np.random.default_rng(4).normal(size=(3, 20, 20))
    mask = np.zeros(first.shape, dtype=bool)
    assert not _correlations_when_moved(first, first, mask, (1, 2)).any()
    mask[0, :9, :9] = True
    assert not _correlations_when_moved(first, first, mask, (1, 2)).any()
    assert not _correlations_when_moved(first, np.ones(first.shape), ~mask, (1, 2)).any()


def test_the_best_shift_is_told_in_millimetres_and_lies_within_reach():
    values = np.zeros((4, 5))
    values[0, 0], values[1, 4], values[2, 0] = 0.1, 0.3, 0.5
    shifts = ShiftedAgreement(values, 400, np.array([0.0, 2, 4, 2]), np.array([0.0, 1.5, 3, 3, 1.5]))
    assert shifts.here == 0.1
    assert shifts.best(reach_mm=3) == (0.3, 2.5)
    assert shifts.best(reach_mm=40) == (0.5, 4.0)
    assert shifts.best(reach_mm=1) == (0.1, 0.0)


def test_an_image_that_was_shifted_within_its_slices_agrees_best_when_shifted_back():
    grid = Grid((6, 40, 50), np.diag([4.0, 1.5, 2.0, 1.0]))
    intensities = np.random.default_rng(3).uniform(50, 100, grid.shape).astype(np.float32)
    first = Volume(intensities, grid, Series("study", "a"))
    second = Volume(np.roll(300 - intensities, (2, -3), (1, 2)), grid, Series("study", "b"))
    shifts = edge_agreement_when_shifted(first, second, np.ones(grid.shape, dtype=bool))
    agreement, shift_mm = shifts.best(reach_mm=20)
    assert agreement > 0.8 > 0.2 > abs(shifts.here)
    assert shift_mm == pytest.approx(np.hypot(2 * 1.5, 3 * 2.0))
    assert shifts.voxels > 0.9 * intensities.size


def test_slices_lie_across_the_widest_spacing_however_oblique_they_are():
    """Another axis may be nearer to left-right than their normal is."""
    normal = np.array([0.6, 0.57, 0.5614])
    within = np.cross(normal, np.cross([1.0, 0.0, 0.0], normal))
    axes = [axis / np.linalg.norm(axis) for axis in (normal, within, np.cross(normal, within))]
    affine = np.eye(4)
    affine[:3, :3] = np.stack(axes, axis=1) * (4.0, 1.0, 1.0)
    assert Grid((9, 20, 20), affine).slice_axis == 0
