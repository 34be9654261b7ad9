"""Resampling keeps places, sides and intensities; transforms turn and shift, and nothing else."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moved_grids import reordered, rigid
from spinemets.errors import GeometryError
from spinemets.resampling import RigidTransform, block_mean, coverage, extent_overlap, resample
from spinemets.volume import Grid, Series, Volume

ORDERS = st.sampled_from(list(itertools.permutations(range(3))))
FLIPS = st.sets(st.integers(0, 2)).map(tuple)


@given(order=ORDERS, flips=FLIPS, voxel=st.tuples(*[st.integers(2, 7)] * 3))
@settings(max_examples=30, deadline=None)
def test_left_stays_left_whatever_the_axis_order(order, flips, voxel):
    grid = Grid((10, 10, 10), np.array([[3.0, 0.2, 0, -15], [-0.2, 1, 0, -5], [0, 0, 1, -4], [0, 0, 0, 1]]))
    intensities = np.zeros(grid.shape, np.float32)
    intensities[voxel] = 100.0
    other = reordered(grid, order, flips)
    moved = resample(Volume(intensities, grid, Series("s", "v")), other)
    peak = np.unravel_index(moved.intensities.argmax(), other.shape)
    np.testing.assert_allclose(other.to_world(peak), grid.to_world(voxel), atol=1e-6)
    assert moved.intensities[peak] == pytest.approx(100.0, abs=1e-3)


def test_linear_intensities_are_interpolated_exactly_and_outside_is_zero():
    grid = Grid((6, 6, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    points = grid.to_world(np.stack(np.indices(grid.shape), axis=-1))
    ramp = Volume((points @ (1.0, 2.0, 3.0) + 50).astype(np.float32), grid, Series("s", "v"))
    shifted = np.eye(4)
    shifted[:3, 3] = (1.0, 1.0, -4.0)
    finer = resample(ramp, Grid((4, 4, 12), shifted))
    np.testing.assert_allclose(finer.intensities[2, 1, 6], 3 + 2 * 2 + 3 * 2 + 50, rtol=1e-6)
    assert not finer.intensities[..., :3].any()
    assert finer.intensities[..., 4:].all()


def test_a_transform_takes_reference_points_to_points_of_the_other_series():
    grid = Grid((8, 8, 8), np.eye(4))
    intensities = np.zeros(grid.shape, np.float32)
    intensities[5, 2, 6] = 1.0
    moved = resample(Volume(intensities, grid, Series("s", "v")), grid, rigid((3, -1, 2), (0, 0, 0)))
    assert np.unravel_index(moved.intensities.argmax(), grid.shape) == (2, 3, 4)


@given(
    shift=st.tuples(*[st.floats(-50, 50)] * 3),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    centre=st.tuples(*[st.floats(-100, 100)] * 3),
)
@settings(max_examples=30, deadline=None)
def test_a_transform_survives_the_way_through_itk(shift, angles, centre):
    transform = rigid(shift, angles)
    np.testing.assert_allclose(
        RigidTransform.from_itk(transform.to_itk(centre)).matrix, transform.matrix, atol=1e-6
    )


def test_coverage_marks_exactly_the_voxels_inside_the_other_grid():
    source = Grid((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))
    mask = coverage(source, Grid((10, 1, 1), np.eye(4)), rigid((-1, 0, 0), (0, 0, 0)))
    assert mask[:, 0, 0].tolist() == [True] * 9 + [False]


def test_overlap_of_separate_grids_is_zero_and_of_a_thin_slab_inside_is_one():
    slab = Grid((3, 20, 20), np.diag([2.0, 1.0, 1.0, 1.0]))
    wide = Grid((40, 20, 5), np.array([[1.0, 0, 0, -15], [0, 1, 0, 0], [0, 0, 1, 6], [0, 0, 0, 1]]))
    far = Grid((3, 3, 3), np.array([[1.0, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert extent_overlap(slab, wide) == pytest.approx(1.0)
    assert extent_overlap(slab, far) == 0.0


def test_block_means_keep_their_place_in_space():
    intensities = np.arange(4 * 6 * 7, dtype=np.float32).reshape(4, 6, 7)
    volume = Volume(intensities, Grid((4, 6, 7), np.diag([4.0, 1.0, 1.0, 1.0])), Series("s", "v"))
    means = block_mean(volume, 2.0)
    assert means.grid.shape == (4, 3, 3)
    assert means.grid.spacing_mm == (4.0, 2.0, 2.0)
    assert means.intensities[0, 0, 0] == intensities[0, :2, :2].mean()
    np.testing.assert_allclose(means.grid.to_world((0, 0, 0)), (0, 0.5, 0.5))


@pytest.mark.parametrize(
    "matrix",
    [np.diag([2.0, 1.0, 1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0]), np.eye(3), np.zeros(16)],
    ids=["scaling", "mirror", "3x3", "flat"],
)
def test_a_matrix_that_is_no_rotation_is_refused(matrix):
    with pytest.raises(GeometryError, match="rotation"):
        RigidTransform(matrix)
