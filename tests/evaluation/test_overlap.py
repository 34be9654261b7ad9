"""Dice and surface Dice on arrays small enough to count by hand."""

import numpy as np
import pytest

from spinemets.evaluation.overlap import dice, share_near, surface_dice


def box(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def test_dice_is_twice_the_common_over_the_sum():
    first = box((4, 4, 1), slice(0, 2), slice(0, 4))
    second = box((4, 4, 1), slice(1, 4), slice(0, 2))
    assert dice(first, second) == pytest.approx(2 * 2 / (8 + 6))


def test_two_empty_masks_have_no_dice_and_one_empty_mask_has_none_in_common():
    empty, full = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    assert dice(empty, empty) is None
    assert dice(empty, full) == 0.0
    assert surface_dice(empty, empty, (1, 1, 1), 1.0) is None
    assert surface_dice(empty, full, (1, 1, 1), 1.0) == 0.0


def test_surfaces_one_voxel_apart_are_near_only_within_the_tolerance_in_mm():
    plate = box((7, 1, 1), 2)
    moved = box((7, 1, 1), 3)
    assert surface_dice(plate, moved, (3.0, 1.0, 1.0), 2.9) == 0.0
    assert surface_dice(plate, moved, (3.0, 1.0, 1.0), 3.0) == 1.0
    assert surface_dice(plate, moved, (1.0, 1.0, 1.0), 1.0) == 1.0


def test_surface_dice_counts_both_surfaces():
    line = box((9, 1, 1), slice(2, 4))
    longer = box((9, 1, 1), slice(2, 7))
    # Surface voxels: 2, 3 and 2, 6. From the line 2 and 3 lie at 0 and 1 mm; from the longer
    # one 2 lies at 0 and 6 at 3 mm.
    assert surface_dice(line, longer, (1.0, 1.0, 1.0), 1.0) == pytest.approx(3 / 4)


def test_the_edge_of_the_image_is_no_surface():
    reaching = box((6, 1, 1), slice(0, 3))
    shorter = box((6, 1, 1), slice(1, 3))
    # Surface voxels: 2 of the first, whose end at the edge does not count; 1 and 2 of the second.
    assert surface_dice(reaching, shorter, (1.0, 1.0, 1.0), 0.0) == pytest.approx(2 / 3)


def test_the_wrong_side_is_not_near():
    left = box((10, 4, 4), slice(0, 2), slice(1, 3), slice(1, 3))
    right = left[::-1]
    assert surface_dice(left, right, (1.0, 1.0, 1.0), 2.0) == 0.0


def test_what_lies_near_counts_in_millimetres():
    truth = np.zeros((3, 4, 4), bool)
    truth[:, 1:3, 1:3] = True
    middle = truth & (np.arange(3) == 1)[:, None, None]
    assert share_near(truth, middle, (4.0, 1.0, 1.0), 3.9) == pytest.approx(1 / 3)
    assert share_near(truth, middle, (4.0, 1.0, 1.0), 4.0) == 1.0
    assert share_near(truth, np.zeros_like(truth), (4.0, 1.0, 1.0), 4.0) == 0.0
    assert share_near(np.zeros_like(truth), truth, (4.0, 1.0, 1.0), 4.0) is None
