"""The network's grid lies where the source lies, and resampling keeps places, sums and sides."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinemets.sampling import network_frame, resampling_matrix
from spinemets.volume import Grid

EXACT_MM = 0.01
# A triangle that is widened by a fraction of a sample has its centre of gravity slightly off.
DOWN_MM = 0.1


def turned_grid(shape, spacing_mm, order, flips, angles_deg=(0.0, 0.0, 0.0), origin=(-31.0, 12.5, 207.0)):
    """A grid whose array axis ``order[k]`` runs along world axis ``k``, reversed where flipped."""
    directions = np.zeros((3, 3))
    for world, axis in enumerate(order):
        directions[world, axis] = -1.0 if flips[world] else 1.0
    for axis, angle in enumerate(np.radians(angles_deg)):
        turn = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        directions = turn @ directions
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing_mm)
    affine[:3, 3] = origin
    return Grid(shape, affine)


@st.composite
def grids(draw):
    order = draw(st.sampled_from(list(permutations(range(3)))))
    flips = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    angles = draw(st.tuples(*[st.floats(-20, 20)] * 3))
    shape = draw(st.tuples(*[st.integers(12, 28)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.4, 4.5)] * 3))
    return turned_grid(shape, spacing, order, flips, angles)


def centres_mm(grid):
    return grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


def to_network(array, frame):
    """(…, 3 axes of the source) to the network's grid, by the frame's own description."""
    array = np.transpose(array, frame.order)
    array = np.flip(array, [axis for axis, flip in enumerate(frame.flipped) if flip])
    return apply(array, frame.down)


def to_source(array, frame):
    array = apply(array, frame.up)
    array = np.flip(array, [axis for axis, flip in enumerate(frame.flipped) if flip])
    return np.transpose(array, np.argsort(frame.order))


def apply(array, matrices):
    for axis, matrix in enumerate(matrices):
        array = np.moveaxis(np.tensordot(matrix.astype(np.float64), array, axes=(1, axis)), 0, axis)
    return array


def inside(grid, outer, margin_mm):
    """Voxels of ``grid`` that lie at least a margin inside the outermost centres of ``outer``."""
    indices = outer.to_index(centres_mm(grid))
    margin = margin_mm / np.array(outer.spacing_mm)
    return ((indices >= margin) & (indices <= np.array(outer.shape) - 1 - margin)).all(axis=-1)


@given(grids())
@settings(max_examples=60, deadline=None)
def test_a_ramp_in_world_coordinates_stays_where_it_was_on_the_way_down(grid):
    frame = network_frame(grid)
    places, target = centres_mm(grid), centres_mm(frame.grid)
    # The widened triangle reaches one new voxel to each side; nearer the edge it is cut off.
    interior = inside(frame.grid, grid, margin_mm=max(frame.grid.spacing_mm))
    for axis in range(3):
        error = np.abs(to_network(places[..., axis], frame) - target[..., axis])
        assert error[interior].max(initial=0) < DOWN_MM


@given(grids())
@settings(max_examples=60, deadline=None)
def test_a_ramp_in_world_coordinates_stays_where_it_was_on_the_way_up(grid):
    frame = network_frame(grid)
    places, target = centres_mm(frame.grid), centres_mm(grid)
    spacings = zip([grid.spacing_mm[axis] for axis in frame.order], frame.grid.spacing_mm, strict=True)
    # Where the source is the coarser one, the way back is a widened triangle too.
    coarser = any(source > 1.001 * network for source, network in spacings)
    limit, margin_mm = (DOWN_MM, max(grid.spacing_mm)) if coarser else (EXACT_MM, 0.0)
    interior = inside(grid, frame.grid, margin_mm)
    for axis in range(3):
        error = np.abs(to_source(places[..., axis], frame) - target[..., axis])
        assert error[interior].max(initial=0) < limit


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (True, True, True)])
def test_a_ramp_is_exact_where_slices_and_pixels_divide_evenly(order, flips):
    spacing = np.empty(3)
    spacing[list(order)] = (1.0, 0.5, 0.5)
    shape = np.empty(3, dtype=int)
    shape[list(order)] = (18, 40, 48)
    grid = turned_grid(tuple(shape), tuple(spacing), order, flips, (4.0, -7.0, 11.0))
    frame = network_frame(grid)
    assert frame.grid.shape == (6, 20, 24)
    places, target = centres_mm(grid), centres_mm(frame.grid)
    interior = inside(frame.grid, grid, margin_mm=3.0)
    assert interior.any()
    for axis in range(3):
        assert np.abs(to_network(places[..., axis], frame) - target[..., axis])[interior].max() < EXACT_MM


@given(grids())
@settings(max_examples=60, deadline=None)
def test_the_network_grid_runs_left_to_right_back_to_front_foot_to_head(grid):
    frame = network_frame(grid)
    directions = frame.grid.affine[:3, :3] / np.array(frame.grid.spacing_mm)
    assert np.abs(directions).argmax(axis=0).tolist() == [0, 1, 2]
    assert (np.diag(directions) > 0).all()


@given(grids())
@settings(max_examples=40, deadline=None)
def test_left_stays_left_there_and_back(grid):
    frame = network_frame(grid)
    centre = grid.to_world((np.array(grid.shape) - 1) / 2)
    left = (centres_mm(grid)[..., 0] < centre[0]).astype(float)
    down = to_network(left, frame)
    x = centres_mm(frame.grid)[..., 0] - centre[0]
    far = 2 * max(frame.grid.spacing_mm + grid.spacing_mm)
    assert down[x < -far].min(initial=1) > 0.99
    assert down[x > far].max(initial=0) < 0.01
    back = to_source(down, frame)
    x = centres_mm(grid)[..., 0] - centre[0]
    assert back[x < -2 * far].min(initial=1) > 0.99
    assert back[x > 2 * far].max(initial=0) < 0.01


@given(grids())
@settings(max_examples=40, deadline=None)
def test_both_grids_cover_the_same_extent_around_the_same_centre(grid):
    frame = network_frame(grid)
    middle = [g.to_world((np.array(g.shape) - 1) / 2) for g in (grid, frame.grid)]
    assert np.abs(middle[0] - middle[1]).max() < 1e-6
    for axis, (size, spacing) in enumerate(zip(frame.grid.shape, frame.grid.spacing_mm, strict=True)):
        source = frame.order[axis]
        extent = grid.shape[source] * grid.spacing_mm[source]
        assert abs(size * spacing - extent) <= max(spacing / 2 + 1e-6, spacing - extent)


@given(
    st.tuples(st.integers(1, 60), st.floats(0.3, 6)),
    st.tuples(st.integers(1, 60), st.floats(0.3, 6)),
    st.floats(-20, 20),
)
@settings(max_examples=100, deadline=None)
def test_every_row_is_an_average(source, target, offset_mm):
    matrix = resampling_matrix(source, target, offset_mm)
    assert matrix.shape == (target[0], source[0])
    assert matrix.dtype == np.float32
    assert (matrix >= 0).all()
    assert np.abs(matrix.sum(axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("slice_mm", "slices", "expected_mm"),
    [(0.9, 30, 2.7), (1.0, 30, 3.0), (0.5, 60, 3.0), (1.5, 20, 3.0), (2.0, 15, 4.0), (2.5, 12, 2.5),
     (4.4, 15, 4.4)],
)  # fmt: skip
def test_thin_slices_are_averaged_to_about_three_millimetres(slice_mm, slices, expected_mm):
    frame = network_frame(Grid((slices, 40, 40), np.diag([slice_mm, 1.0, 1.0, 1.0])))
    assert frame.grid.spacing_mm == pytest.approx((expected_mm, 1.0, 1.0))


def test_every_thin_slice_counts_the_same():
    frame = network_frame(Grid((30, 8, 8), np.diag([1.0, 1.0, 1.0, 1.0])))
    assert frame.down[0].sum(axis=0)[4:-4] == pytest.approx(np.full(22, 1 / 3), abs=1e-6)


def test_native_slices_pass_unchanged():
    frame = network_frame(Grid((15, 32, 32), np.diag([4.0, 0.7, 0.7, 1.0])))
    assert np.array_equal(frame.down[0], np.eye(15, dtype=np.float32))
    assert np.array_equal(frame.up[0], np.eye(15, dtype=np.float32))


@pytest.mark.parametrize("pixel_mm", [0.25, 0.4, 0.5])
def test_a_fine_checkerboard_does_not_alias(pixel_mm):
    grid = Grid((4, 120, 120), np.diag([4.0, pixel_mm, pixel_mm, 1.0]))
    _, rows, columns = np.indices(grid.shape)
    board = ((rows + columns) % 2).astype(float)
    down = to_network(board, network_frame(grid))[:, 3:-3, 3:-3]
    assert np.abs(down - 0.5).max() < 0.02


@pytest.mark.parametrize("axis", range(3))
def test_an_axial_stack_is_seen_in_the_same_orientation_as_a_sagittal_one(axis):
    spacing = [0.8, 0.8, 0.8]
    spacing[axis] = 4.0
    grid = Grid((20, 20, 20), np.diag([*spacing, 1.0]))
    frame = network_frame(grid)
    assert frame.order == (0, 1, 2)
    assert frame.grid.spacing_mm[1:] == pytest.approx((1.0, 1.0))
