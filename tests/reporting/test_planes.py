from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spinemets.reporting.overlays import plane_through
from spinemets.reporting.places import counted_axis
from spinemets.reporting.planes import body_axes, inside, native_slice, sample
from spinemets.volume import Grid, Plane, Series

ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def grid_of(order, flips, spacing=(4.0, 1.0, 2.0), shape=(6, 40, 30)):
    affine = np.eye(4)
    for column, axis in enumerate(order):
        affine[:3, column] = 0
        affine[axis, column] = -spacing[axis] if flips[column] else spacing[axis]
        affine[axis, 3] = (shape[axis] - 1) * spacing[axis] if flips[column] else 0.0
    return Grid(tuple(shape[axis] for axis in order), affine)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_body_axes_point_right_front_and_head_for_every_axis_order_and_flip(order, flips):
    axes = body_axes(grid_of(order, flips))
    np.testing.assert_allclose(axes.directions, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes.spacing_mm, (4, 1, 2))
    np.testing.assert_allclose(axes.lower_mm, (-2, -0.5, -1))
    np.testing.assert_allclose(axes.upper_mm, (22, 39.5, 59))


def test_body_axes_of_an_oblique_grid_are_its_own():
    turn = Rotation.from_euler("xyz", (20, -15, 10), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag((4.0, 1.0, 1.0))
    directions = body_axes(Grid((5, 30, 30), affine)).directions
    np.testing.assert_allclose(directions, turn.T, atol=1e-12)


def test_body_axes_of_a_sheared_grid_are_orthonormal():
    affine = np.diag((4.0, 1.0, 1.0, 1.0))
    affine[1, 2] = 0.2
    directions = body_axes(Grid((5, 30, 30), affine)).directions
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "left", "up"),
    [
        (Plane.SAGITTAL, (0, 1, 0), (0, 0, 1)),
        (Plane.CORONAL, (1, 0, 0), (0, 0, 1)),
        (Plane.AXIAL, (1, 0, 0), (0, 1, 0)),
    ],
)
def test_pictures_are_laid_out_as_radiologists_read_them(kind, left, up):
    plane = plane_through(
        body_axes(grid_of((2, 0, 1), (True, False, True))), kind, (8, 20, 30), (21, 11), 0.5
    )
    x, y = plane.to_pixel((8, 20, 30))
    assert (x, y) == pytest.approx((10, 5))
    towards_left = plane.to_pixel(np.array((8, 20, 30)) + np.array(left))
    towards_top = plane.to_pixel(np.array((8, 20, 30)) + np.array(up))
    assert towards_left == pytest.approx((8, 5))
    assert towards_top == pytest.approx((10, 3))


def test_a_pixel_and_its_point_belong_together():
    plane = plane_through(
        body_axes(grid_of((1, 0, 2), (False, True, False))), Plane.CORONAL, (9, 11, 13), (17, 9), 0.7
    )
    points = plane.points_mm()
    assert points.shape == (9, 17, 3)
    assert plane.to_pixel(points[6, 12]) == pytest.approx((12, 6))


def test_a_picture_moves_to_stay_in_the_image_and_is_centred_where_the_image_is_narrow():
    axes = body_axes(grid_of((0, 1, 2), (False, False, False)))
    plane = plane_through(axes, Plane.CORONAL, (0, 20, 58), (100, 20), 1.0)
    points = plane.points_mm()
    assert points[0, 0, 2] <= 59
    assert points[:, :, 0].mean() == pytest.approx(10)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_sampling_finds_the_value_that_lies_there(order, flips):
    grid = grid_of(order, flips)
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    array = world @ np.array((1.0, 10.0, 100.0))
    points = np.array(((4.0, 20.0, 30.0), (7.0, 3.5, 9.0)))
    np.testing.assert_allclose(sample(array, grid, points), points @ (1.0, 10.0, 100.0), rtol=1e-5)


def test_outside_the_image_there_is_nothing():
    grid = grid_of((0, 1, 2), (False, False, False))
    points = np.array(((21.9, 39.4, 58.9), (22.1, 0.0, 0.0), (-2.1, 5.0, 5.0), (500.0, 0.0, 0.0)))
    assert inside(grid, points).tolist() == [True, False, False, False]
    assert sample(np.ones(grid.shape), grid, points).tolist() == [1, 0, 0, 0]


def test_labels_are_sampled_by_equality_not_by_value():
    grid = grid_of((0, 1, 2), (False, False, False))
    labels = np.zeros(grid.shape, dtype=np.int32)
    labels[:3], labels[3:] = 2, 6
    between = np.array(((10.0, 10.0, 10.0),))
    assert sample(labels, grid, between, label=2) == pytest.approx(0.5)
    assert sample(labels, grid, between, label=4) == 0
    assert sample(labels, grid, between, nearest=True)[0] in (2, 6)


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, True, False))])
def test_an_acquired_slice_is_counted_as_the_grid_does_and_a_reformat_is_none(make_report, order, flips):
    grid = make_report(order=order, flips=flips, series=1, lesions=False).segmentation.grid
    axes, index = body_axes(grid), [5, 5, 5]
    index[order.index(0)] = 3
    centre = grid.to_world(index)
    planes = {kind: plane_through(axes, kind, centre, (40, 40), 0.5) for kind in Plane}
    assert native_slice(grid, grid.slice_axis, planes[Plane.SAGITTAL]) == (4, 15)
    assert native_slice(grid, grid.slice_axis, planes[Plane.CORONAL]) is None
    between = replace(
        planes[Plane.SAGITTAL], origin_mm=planes[Plane.SAGITTAL].origin_mm + 2.0 * axes.directions[0]
    )
    assert native_slice(grid, grid.slice_axis, between) is None


def test_a_coronal_dicom_series_of_equal_spacings_counts_coronal_slices():
    grid = Grid((20, 40, 30), np.array([[0, 0, 1.0, -15], [1.0, 0, 0, -10], [0, -1.0, 0, 20], [0, 0, 0, 1]]))
    files = tuple(Path(f"{number}.dcm") for number in range(20))
    axis = counted_axis(Series("study", "series", files=files), grid)
    planes = {kind: plane_through(body_axes(grid), kind, (0.0, -4.0, 0.0), (20, 20), 0.5) for kind in Plane}
    assert native_slice(grid, axis, planes[Plane.CORONAL]) == (7, 20)
    assert native_slice(grid, axis, planes[Plane.SAGITTAL]) is None
    # In an image file nothing tells how it was acquired: it is read as spines are.
    assert counted_axis(Series("study", "series"), grid) == 2
