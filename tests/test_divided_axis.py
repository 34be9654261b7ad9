"""Two halves of C2 become one vertebra, and C2 and C3 stay two."""

from __future__ import annotations

import numpy as np
import pytest

from phantoms import draw_phantom
from spinemets.anatomy import Structure
from spinemets.divided_axis import join_divided_axis
from spinemets.volume import Grid


@pytest.fixture(scope="module")
def neck():
    segmentation = draw_phantom(highest="C2", lowest="T3", spacing_mm=(3.0, 1.0, 1.0)).segmentation
    return segmentation.vertebrae.astype(np.uint8), segmentation.anatomy, segmentation.grid


def cut_axis(vertebrae, anatomy, grid):
    """The uppermost instance parted at its body's middle."""
    halves = vertebrae + (vertebrae > 0)
    body = (vertebrae == 1) & (anatomy == Structure.VERTEBRAL_BODY)
    heights = grid.to_world(np.argwhere(vertebrae == 1))[:, 2]
    middle = np.median(grid.to_world(np.argwhere(body))[:, 2])
    halves[tuple(np.argwhere(vertebrae == 1)[heights > middle].T)] = 1
    assert (halves == 1).any()
    assert (halves == 2).any()
    return halves.astype(np.uint8)


def test_halves_without_a_disc_between_them_are_joined(neck):
    vertebrae, anatomy, grid = neck
    joined = join_divided_axis(cut_axis(*neck), anatomy, grid, 0.8)
    assert np.array_equal(joined, vertebrae)


def test_axis_and_third_vertebra_stay_two(neck):
    vertebrae, anatomy, grid = neck
    assert join_divided_axis(vertebrae, anatomy, grid, 0.8) is vertebrae


def test_nothing_is_joined_where_the_uppermost_is_no_axis(neck):
    halves = cut_axis(*neck)
    assert join_divided_axis(halves, neck[1], neck[2], 0.1) is halves


def test_a_missing_disc_says_nothing_where_no_disc_is_seen(neck):
    _, anatomy, grid = neck
    halves = cut_axis(*neck)
    blind = np.where(anatomy == Structure.DISC, Structure.BACKGROUND, anatomy).astype(np.uint8)
    assert join_divided_axis(halves, blind, grid, 0.8) is halves


def test_a_part_at_the_image_s_edge_is_left_alone(neck):
    _, anatomy, grid = neck
    halves = cut_axis(*neck)
    along = int(np.abs(grid.affine[2, :3]).argmax())
    body = np.argwhere((halves == 1) & (anatomy == Structure.VERTEBRAL_BODY))
    upwards = grid.affine[2, along] > 0
    end = int(np.median(body[:, along]))
    shown = slice(None, end + 1) if upwards else slice(end, None)
    index = tuple(shown if axis == along else slice(None) for axis in range(3))
    origin = [0, 0, 0] if upwards else [end if axis == along else 0 for axis in range(3)]
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(origin)
    parts = halves[index]
    assert join_divided_axis(parts, anatomy[index], Grid(parts.shape, affine), 0.8) is parts


@pytest.mark.parametrize("highest", [2, 4])
def test_a_view_of_few_vertebrae_is_left_alone(neck, highest):
    _, anatomy, grid = neck
    halves = cut_axis(*neck)
    few = np.where(halves > highest, 0, halves).astype(np.uint8)
    assert join_divided_axis(few, anatomy, grid, 0.8) is few
