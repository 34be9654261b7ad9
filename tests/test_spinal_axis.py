import numpy as np
import pytest

from phantoms import draw_phantom, ellipsoid
from spinemets.anatomy import Structure
from spinemets.spinal_axis import fit_spinal_axis


def canal_centres(phantom):
    return np.array([phantom.point(name, 0.0) for name in phantom.names if name != "S1"])


@pytest.mark.parametrize(("scoliosis_mm", "within_mm"), [(0.0, 1.0), (25.0, 2.0)])
def test_axis_runs_through_the_middle_of_the_canal(scoliosis_mm, within_mm):
    phantom = draw_phantom(scoliosis_mm=scoliosis_mm, kyphosis_degrees=20.0)
    axis = fit_spinal_axis(phantom.segmentation.anatomy, phantom.segmentation.grid)
    across = axis.project(canal_centres(phantom))[:, 1:]
    assert np.abs(across).max() < within_mm


def test_arc_length_grows_towards_the_foot_and_equals_the_way_along_the_canal(whole_spine):
    axis = fit_spinal_axis(whole_spine.segmentation.anatomy, whole_spine.segmentation.grid)
    along = axis.project(canal_centres(whole_spine))[:, 0]
    truth = [whole_spine.tops_mm[n] + whole_spine.heights_mm[n] / 2 for n in whole_spine.names if n != "S1"]
    np.testing.assert_allclose(np.diff(along), np.diff(truth), atol=0.5)


def test_front_and_right_are_the_patients(lumbar_spine):
    axis = fit_spinal_axis(lumbar_spine.segmentation.anatomy, lumbar_spine.segmentation.grid)
    place = axis.project([lumbar_spine.point("L3", 20.0, 7.0)])[0]
    np.testing.assert_allclose(place[1:], (20.0, 7.0), atol=0.8)
    assert lumbar_spine.point("L3", 20.0, 7.0)[0] > lumbar_spine.point("L3", 20.0, 0.0)[0]


def test_to_world_undoes_project(lumbar_spine):
    axis = fit_spinal_axis(lumbar_spine.segmentation.anatomy, lumbar_spine.segmentation.grid)
    points = np.array([lumbar_spine.point(name, 15.0, -8.0) for name in ("T12", "L2", "L4")])
    np.testing.assert_allclose(axis.to_world(axis.project(points)), points, atol=0.3)


def test_an_island_beside_the_spine_does_not_bend_the_axis(lumbar_spine):
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy.copy()
    anatomy[ellipsoid(grid, lumbar_spine.point("L2", -35.0), (6, 6, 6))] = Structure.THECAL_SAC
    axis = fit_spinal_axis(anatomy, grid)
    assert np.abs(axis.project(canal_centres(lumbar_spine))[:, 1:]).max() < 1.5


def test_a_false_canal_as_wide_as_the_true_one_does_not_draw_the_axis_to_it(whole_spine):
    grid, anatomy = whole_spine.segmentation.grid, whole_spine.segmentation.anatomy.copy()
    sac = np.isin(anatomy, (Structure.THECAL_SAC, Structure.CORD))
    heights = grid.to_world(np.argwhere(sac))[:, 2]
    top = sac.copy()
    top[tuple(np.argwhere(sac)[heights < heights.max() - 60].T)] = False
    shift = np.linalg.solve(grid.affine[:3, :3], (0.0, 55.0, 0.0)).round().astype(int)
    anatomy[np.roll(top, tuple(shift), axis=(0, 1, 2)) & (anatomy == 0)] = Structure.THECAL_SAC
    axis = fit_spinal_axis(anatomy, grid)
    assert np.abs(axis.project(canal_centres(whole_spine))[:, 1:]).max() < 3.0


def test_bodies_bridge_a_part_of_the_canal_that_was_not_labelled(lumbar_spine):
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy.copy()
    hidden = ellipsoid(grid, lumbar_spine.point("L2", 0.0), (30, 12, 25))
    anatomy[hidden & np.isin(anatomy, (Structure.THECAL_SAC, Structure.CORD))] = Structure.BACKGROUND
    axis = fit_spinal_axis(anatomy, grid)
    assert np.abs(axis.project([lumbar_spine.point("L2", 0.0)])[0, 1:]).max() < 2.0


def test_an_empty_label_map_has_no_axis(lumbar_spine):
    assert fit_spinal_axis(np.zeros((5, 5, 5), np.uint8), lumbar_spine.segmentation.grid) is None


def test_a_canal_that_ends_behind_the_lowest_body_goes_on_as_it_went(lumbar_spine):
    """The lowest heights of a tilted L5 show its front alone, which is no measure of the canal."""
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy.copy()
    canal = np.argwhere(np.isin(anatomy, (Structure.THECAL_SAC, Structure.CORD)))
    end_mm = lumbar_spine.point("L5", 0.0)[2] - 10.0
    anatomy[tuple(canal[grid.to_world(canal)[:, 2] < end_mm].T)] = Structure.BACKGROUND
    axis = fit_spinal_axis(anatomy, grid)
    assert abs(axis.project([lumbar_spine.point("S1", 0.0)])[0, 1]) < 10.0


def test_one_body_with_a_short_piece_of_canal_has_an_axis(lumbar_spine):
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy
    heights = grid.to_world(np.indices(anatomy.shape).reshape(3, -1).T)[:, 2].reshape(anatomy.shape)
    middle = lumbar_spine.point("L2", 0.0)[2]
    body = (anatomy == Structure.VERTEBRAL_BODY) & (np.abs(heights - middle) < 13)
    sac = np.isin(anatomy, (Structure.THECAL_SAC, Structure.CORD)) & (np.abs(heights - middle) < 4)
    little = np.where(body, Structure.VERTEBRAL_BODY, np.where(sac, Structure.THECAL_SAC, 0)).astype(np.uint8)
    assert fit_spinal_axis(little, grid) is not None
