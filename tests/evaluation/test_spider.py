"""Scoring against SPIDER's labels on a drawn column of blocks."""

import numpy as np
import pytest

from spinemets.anatomy import Structure
from spinemets.anatomy import VertebralLevel as Level
from spinemets.errors import GeometryError
from spinemets.evaluation.spider import SpiderPrediction, body_centres_mm, score_spider, scored_slices
from spinemets.volume import Grid

GRID = Grid((3, 20, 60), np.diag([4.0, 2.0, 2.0, 1.0]))
NAMES = {24: Level.L5, 23: Level.L4, 22: Level.L3, 21: Level.L2, 20: Level.L1, 19: Level.T12}
NUMBERS = [24, 23, 22]
# From the foot: sacrum 0-10, disc 10-13, L5 13-24, disc, L4 27-38, disc, L3 41-52, disc, L2 to the edge.
DISCS = [(10, 13), (24, 27), (38, 41), (52, 55)]
BODIES = [(13, 24), (27, 38), (41, 52), (55, 60)]


def truth_map():
    truth = np.zeros(GRID.shape, np.uint8)
    for low, high in BODIES:
        truth[:, 2:10, low:high] = 1
    for low, high in DISCS:
        truth[:, 2:10, low:high] = 2
    truth[:, 11:15, 8:60] = 3
    return truth


def perfect(truth):
    anatomy = np.zeros(GRID.shape, np.uint8)
    anatomy[truth == 1] = Structure.VERTEBRAL_BODY
    anatomy[truth == 2] = Structure.DISC
    anatomy[truth == 3] = Structure.THECAL_SAC
    levels = np.zeros(GRID.shape, np.uint8)
    for number, (low, high) in zip([24, 23, 22, 21], BODIES, strict=True):
        levels[:, 2:10, low:high] = number
    return anatomy, levels


def predict(anatomy, levels, lesions=None):
    return SpiderPrediction(
        anatomy, levels, NAMES, np.zeros(GRID.shape, np.uint8) if lesions is None else lesions
    )


def test_a_perfect_result_scores_one_everywhere():
    truth = truth_map()
    row = score_spider("007", predict(*perfect(truth)), truth, GRID).row()
    assert [row[f"{name} Dice"] for name in ("vertebra", "disc", "canal")] == [1.0] * 3
    assert [row[f"{name} surface Dice"] for name in ("vertebra", "disc", "canal")] == [1.0] * 3
    assert (row["levels right"], row["levels"], row["wrong levels"], row["lesions"]) == (3, 3, None, 0)


def test_what_lies_below_the_labelled_slices_is_not_scored():
    truth = truth_map()
    anatomy, levels = perfect(truth)
    anatomy[:, 2:10, 0:10] = Structure.SACRUM
    anatomy[:, 15:18, 0:10] = Structure.POSTERIOR_ELEMENTS
    anatomy[:, 2:10, 3:5] = Structure.DISC
    anatomy[:, 11:15, 0:8] = Structure.THECAL_SAC
    scores = score_spider("007", predict(anatomy, levels), truth, GRID).dice
    assert scores == {"vertebra": 1.0, "disc": 1.0, "canal": 1.0}


def test_false_voxels_within_the_labelled_slices_lower_the_score():
    truth = truth_map()
    anatomy, levels = perfect(truth)
    anatomy[:, 15:19, 20:40] = Structure.POSTERIOR_ELEMENTS
    bones = int((truth == 1).sum())
    scores = score_spider("007", predict(anatomy, levels), truth, GRID).dice
    assert scores["vertebra"] == pytest.approx(2 * bones / (2 * bones + 3 * 4 * 20))


def test_the_cord_is_part_of_the_canal():
    truth = truth_map()
    anatomy, levels = perfect(truth)
    anatomy[:, 12:14, 30:60] = Structure.CORD
    assert score_spider("007", predict(anatomy, levels), truth, GRID).dice["canal"] == 1.0


def test_bodies_are_counted_upwards_from_the_lowest_disc():
    centres = body_centres_mm(truth_map(), GRID)
    assert list(centres) == [Level.L5, Level.L4, Level.L3]
    np.testing.assert_allclose(centres[Level.L5], (4.0, 11.0, 36.0))


def test_a_crumb_of_a_disc_label_does_not_shift_the_count():
    truth = truth_map()
    truth[0, 2, 4] = 2
    assert list(body_centres_mm(truth, GRID)) == [Level.L5, Level.L4, Level.L3]


def test_names_off_by_one_are_all_wrong_and_listed():
    truth = truth_map()
    anatomy, levels = perfect(truth)
    row = score_spider("007", predict(anatomy, np.where(levels > 0, levels - 1, 0)), truth, GRID).row()
    assert row["levels right"] == 0
    assert row["wrong levels"] == "L5 as L4, L4 as L3, L3 as L2"


def test_a_missed_vertebra_and_lesions_that_are_none_are_counted():
    truth = truth_map()
    anatomy, levels = perfect(truth)
    lesions = np.zeros(GRID.shape, np.uint8)
    lesions[1, 3, 30], lesions[1, 3, 45] = 1, 2
    row = score_spider("007", predict(anatomy, np.where(levels == 23, 0, levels), lesions), truth, GRID).row()
    assert row["wrong levels"] == "L4 as none"
    assert row["lesions"] == 2


@pytest.mark.parametrize("flip", [False, True])
def test_slices_run_along_the_head_foot_axis_whatever_its_place(flip):
    affine = np.array([[0, 0, 4.0, 0], [0, 2.0, 0, 0], [-2.0 if flip else 2.0, 0, 0, 0], [0, 0, 0, 1]])
    mask = np.zeros((10, 6, 4), bool)
    mask[3:5, 1, 1] = True
    assert scored_slices(mask, Grid(mask.shape, affine)) == (slice(3, 5), slice(None), slice(None))


def test_an_empty_truth_scores_no_slices():
    slices = scored_slices(np.zeros(GRID.shape, bool), GRID)
    assert np.zeros(GRID.shape)[slices].size == 0


def test_maps_of_another_shape_are_refused():
    truth = truth_map()
    with pytest.raises(GeometryError, match="does not fit"):
        score_spider("007", predict(*perfect(truth)), truth[:2], GRID)
