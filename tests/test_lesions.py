from dataclasses import replace

import numpy as np
import pytest

from phantoms import add_lesion, draw_phantom, with_volume
from spinemets.anatomy import Structure
from spinemets.config import LesionConfig
from spinemets.lesions import find_lesions
from spinemets.segmented import SpineSegmentation
from spinemets.volume import Grid, Weighting

CONFIG = LesionConfig(
    threshold=0.3, confidence_shift=0.0, confidence_evidence=1.0, confidence_size=0.0, confidence_series=0.0
)


def blank(shape=(20, 40, 40), spacing=(3.0, 1.0, 1.0)) -> SpineSegmentation:
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    nothing = np.zeros(shape, np.uint8)
    return SpineSegmentation(grid, nothing, nothing, np.zeros(shape, np.float32), (), ())


def with_probability(segmentation, *boxes):
    chance = segmentation.lesion_probability.copy()
    for box, value in boxes:
        chance[box] = value
    return replace(segmentation, lesion_probability=chance)


def test_no_probability_no_lesion(lumbar_spine):
    assert find_lesions(lumbar_spine.segmentation, CONFIG) == ()


def test_a_box_has_its_exact_volume_centroid_and_confidence():
    box = (slice(2, 6), slice(10, 20), slice(5, 11))
    (lesion,) = find_lesions(with_probability(blank(), (box, 0.8)), CONFIG)
    assert lesion.volume_mm3 == pytest.approx(4 * 10 * 6 * 3.0)
    assert lesion.centroid_mm == pytest.approx((3.5 * 3.0, 14.5, 7.5))
    assert lesion.confidence == pytest.approx(0.8, abs=1e-6)
    assert np.array_equal(lesion.mask(), with_probability(blank(), (box, 0.8)).lesion_probability > 0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.8, 0.8)])
def test_the_longest_diameter_of_a_ball_is_its_diameter(spacing):
    phantom = draw_phantom(highest="L2", lowest="L3", spacing_mm=spacing)
    centre = phantom.point("L2", phantom.body_front_mm("L2"))
    (lesion,) = find_lesions(add_lesion(phantom.segmentation, centre, (8.0, 8.0, 8.0)), CONFIG)
    assert lesion.longest_diameter_mm == pytest.approx(16.0, abs=max(spacing))
    assert lesion.volume_mm3 == pytest.approx(4 / 3 * np.pi * 8.0**3, rel=0.1)


def test_the_longest_diameter_runs_across_slices():
    line = (slice(3, 13), slice(10, 13), slice(10, 13))
    (lesion,) = find_lesions(with_probability(blank(), (line, 0.9)), CONFIG)
    assert lesion.longest_diameter_mm == pytest.approx(30.0, abs=1.0)


def test_a_lesion_in_another_one_s_hole_is_counted_once():
    shell = (slice(4, 16), slice(8, 32), slice(8, 32))
    gap, core = (slice(6, 14), slice(11, 29), slice(11, 29)), (slice(8, 12), slice(15, 25), slice(15, 25))
    segmentation = with_probability(blank(), (shell, 0.9), (gap, 0.0), (core, 0.9))
    lesions = find_lesions(segmentation, CONFIG)
    voxels = [{tuple(voxel) for voxel in lesion.voxels.tolist()} for lesion in lesions]
    assert len(voxels) == 2
    assert not voxels[0] & voxels[1]
    # All that the shell encloses is one of the two.
    assert len(voxels[0] | voxels[1]) == 12 * 24 * 24


def test_the_hole_of_a_lesion_in_another_ones_hole_is_the_inner_ones():
    def cube(half):
        return (slice(10 - half, 10 + half), slice(20 - half, 20 + half), slice(20 - half, 20 + half))

    shells = (cube(9), 0.9), (cube(7), 0.0), (cube(5), 0.9), (cube(3), 0.0)
    lesions = find_lesions(with_probability(blank(), *shells), CONFIG)
    assert sorted(len(lesion.voxels) for lesion in lesions) == [10**3, 18**3 - 10**3]


def test_lesions_are_numbered_from_head_to_foot_whatever_the_grids_direction():
    low = (slice(2, 5), slice(5, 12), slice(2, 9))
    high = (slice(10, 13), slice(5, 12), slice(28, 35))
    upright = with_probability(blank(), (low, 0.9), (high, 0.9))
    affine = np.diag([3.0, 1.0, -1.0, 1.0])
    upside_down = replace(upright, grid=Grid(upright.grid.shape, affine))
    for segmentation in (upright, upside_down):
        lesions = find_lesions(segmentation, CONFIG)
        assert [lesion.number for lesion in lesions] == [1, 2]
        assert lesions[0].centroid_mm[2] > lesions[1].centroid_mm[2]


def test_small_and_weak_components_are_dropped():
    small = (slice(2, 4), slice(5, 7), slice(5, 7))
    weak = (slice(8, 12), slice(5, 15), slice(5, 15))
    sound = (slice(14, 18), slice(25, 35), slice(25, 35))
    segmentation = with_probability(blank(), (small, 0.9), (weak, 0.55), (sound, 0.9))
    lesions = find_lesions(segmentation, CONFIG.model_copy(update={"minimum_confidence": 0.6}))
    assert len(lesions) == 1
    assert lesions[0].volume_mm3 == pytest.approx(4 * 10 * 10 * 3.0)


def test_a_hole_inside_a_lesion_belongs_to_it():
    shell = (slice(2, 9), slice(5, 15), slice(5, 15))
    hole = (slice(4, 7), slice(8, 12), slice(8, 12))
    (lesion,) = find_lesions(with_probability(blank(), (shell, 0.9), (hole, 0.1)), CONFIG)
    assert lesion.volume_mm3 == pytest.approx(7 * 10 * 10 * 3.0)


def test_parts_that_touch_by_a_corner_are_one_lesion():
    first = (slice(2, 5), slice(5, 10), slice(5, 10))
    second = (slice(5, 8), slice(10, 15), slice(10, 15))
    assert len(find_lesions(with_probability(blank(), (first, 0.9), (second, 0.9)), CONFIG)) == 1


def test_two_voxels_in_a_line_and_nothing_else_are_two_lesions():
    near = [((slice(7, 8), slice(9, 10), slice(column, column + 1)), 0.9) for column in (5, 7)]
    config = CONFIG.model_copy(update={"minimum_volume_mm3": 0.0})
    assert [len(lesion.voxels) for lesion in find_lesions(with_probability(blank(), *near), config)] == [1, 1]


def test_a_blurred_rim_does_not_lower_the_confidence():
    rim = (slice(2, 8), slice(5, 15), slice(5, 15))
    core = (slice(3, 7), slice(6, 14), slice(6, 14))
    (lesion,) = find_lesions(with_probability(blank(), (rim, 0.55), (core, 0.95)), CONFIG)
    assert lesion.confidence > 0.85


@pytest.mark.parametrize(("rows", "series"), [((0, 40), 2), ((0, 11), 2), ((0, 9), 1), ((20, 40), 1)])
def test_a_series_counts_where_it_covers_half_of_the_lesion(rows, series):
    config = CONFIG.model_copy(update={"confidence_series": 1.0})
    segmentation = with_probability(blank(), ((slice(2, 8), slice(5, 15), slice(5, 15)), 0.8))
    for weighting in (Weighting.T2, Weighting.T1):
        segmentation = with_volume(segmentation, np.ones(segmentation.grid.shape), weighting)
    part = np.zeros(segmentation.grid.shape, bool)
    part[:, slice(*rows)] = True
    (lesion,) = find_lesions(replace(segmentation, covered=(np.ones_like(part), part)), config)
    assert lesion.confidence == pytest.approx(4 * series / (1 + 4 * series), abs=1e-6)


@pytest.fixture(scope="module")
def scanned_spine():
    """T1-like and T2-like series with a coil that falls off towards the head."""
    phantom = draw_phantom(highest="T11", spacing_mm=(4.0, 1.4, 1.4), seed=2)
    segmentation = phantom.segmentation
    rng = np.random.default_rng(0)
    heights = segmentation.grid.to_world(np.indices(segmentation.grid.shape).reshape(3, -1).T)[:, 2]
    fall_off = np.interp(heights, (heights.min(), heights.max()), (1.6, 0.4)).reshape(segmentation.grid.shape)
    noise = rng.normal(1.0, 0.05, segmentation.grid.shape)
    t1 = np.array([300, 100, 90, 60, 30, 70, 100], float)[segmentation.anatomy]
    t2 = np.array([200, 100, 90, 60, 300, 120, 100], float)[segmentation.anatomy]
    return phantom, t1, t2, fall_off * noise


@pytest.mark.parametrize("level", ["T12", "L4"])
def test_signal_is_judged_against_the_marrow_nearby(scanned_spine, level):
    phantom, t1, t2, field = scanned_spine
    centre = phantom.point(level, phantom.body_front_mm(level))
    segmentation = add_lesion(phantom.segmentation, centre, (8, 8, 8))
    lesion = segmentation.lesion_probability > 0.5
    segmentation = with_volume(segmentation, np.where(lesion, 40, t1) * field, Weighting.T1)
    segmentation = with_volume(segmentation, np.where(lesion, 250, t2) * field, Weighting.T2_FS)
    (found,) = find_lesions(segmentation, CONFIG)
    assert [signal.appearance for signal in found.signals] == ["dark", "bright"]
    assert [signal.weighting for signal in found.signals] == ["T1", "STIR/T2FS"]
    assert found.signals[0].z_score < -2 < 2 < found.signals[1].z_score


def test_a_lesion_like_marrow_is_similar(scanned_spine):
    phantom, t1, _, field = scanned_spine
    centre = phantom.point("L2", phantom.body_front_mm("L2"))
    segmentation = add_lesion(phantom.segmentation, centre, (6, 6, 6))
    (found,) = find_lesions(with_volume(segmentation, t1 * field, Weighting.T1), CONFIG)
    assert found.signals[0].appearance == "similar"


def test_the_order_of_axes_of_equal_spacing_changes_no_signal():
    scores = []
    for order in ((0, 1, 2), (2, 1, 0)):
        phantom = draw_phantom(
            highest="L1", spacing_mm=(1.4, 1.4, 1.4), tilt_degrees=(5, 3, 8), axis_order=order
        )
        centre = phantom.point("L4", phantom.body_front_mm("L4"))
        segmentation = add_lesion(phantom.segmentation, centre, (6, 6, 6))
        place = segmentation.grid.to_world(np.indices(segmentation.grid.shape).reshape(3, -1).T)
        image = 200 + place @ (3.0, 2.0, 1.0)
        image = image.reshape(segmentation.grid.shape)
        (found,) = find_lesions(with_volume(segmentation, image, Weighting.T1), CONFIG)
        scores.append(found.signals[0].z_score)
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_marrow_of_no_vertebra_does_not_choose_the_reference(scanned_spine):
    phantom, t1, _, field = scanned_spine
    centre = phantom.point("L4", phantom.body_front_mm("L4"))
    segmentation = add_lesion(phantom.segmentation, centre, (6, 6, 6))
    instance = phantom.names.index("L4") + 1
    unowned = np.where(segmentation.vertebrae == instance, 0, segmentation.vertebrae)
    segmentation = with_volume(replace(segmentation, vertebrae=unowned), t1 * field, Weighting.T1)
    (found,) = find_lesions(segmentation, CONFIG)
    assert found.signals[0].appearance == "similar"


def test_a_lesion_in_the_sac_is_compared_with_csf(scanned_spine):
    phantom, _, t2, field = scanned_spine
    segmentation = add_lesion(phantom.segmentation, phantom.point("L3", 0.0), (4, 4, 6), Structure.BACKGROUND)
    lesion = segmentation.lesion_probability > 0.5
    (found,) = find_lesions(
        with_volume(segmentation, np.where(lesion, 150, t2) * field, Weighting.T2), CONFIG
    )
    assert found.signals[0].appearance == "dark"


@pytest.mark.parametrize(
    ("level", "structure", "reference"),
    [("L4", Structure.THECAL_SAC, "CSF"), ("T11", Structure.CORD, "cord")],
)
def test_a_lesion_of_the_canal_is_compared_with_what_it_lies_in(scanned_spine, level, structure, reference):
    """Beside it, in thick slices, lies more bone than canal."""
    phantom, _, t2, field = scanned_spine
    segmentation = add_lesion(phantom.segmentation, phantom.point(level, 0.0), (7, 4, 6), structure)
    (found,) = find_lesions(with_volume(segmentation, t2 * field, Weighting.T2), CONFIG)
    assert [signal.reference for signal in found.signals] == [reference]


def test_a_series_that_does_not_cover_the_lesion_says_nothing(scanned_spine):
    phantom, t1, _, _ = scanned_spine
    centre = phantom.point("L2", phantom.body_front_mm("L2"))
    segmentation = add_lesion(phantom.segmentation, centre, (6, 6, 6))
    (found,) = find_lesions(with_volume(segmentation, np.zeros_like(t1), Weighting.T1), CONFIG)
    assert found.signals[0].z_score is None
    assert found.signals[0].appearance == "unknown"
