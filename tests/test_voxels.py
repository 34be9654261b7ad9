"""Short cuts about masks give what the long ways of NumPy and SciPy do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spinemets.voxels import bounding_box, grown, islands_of, thin_out, voxels_of


@st.composite
def masks(draw):
    shape = draw(st.tuples(*[st.integers(1, 11)] * 3))
    share = draw(st.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 999))).random(shape) < share


@settings(deadline=None)
@given(masks())
def test_voxels_come_in_the_order_of_argwhere(mask):
    assert np.array_equal(voxels_of(mask), np.argwhere(mask))
    assert np.array_equal(voxels_of(mask, at_most=7), thin_out(np.argwhere(mask), 7))


@settings(deadline=None)
@given(masks())
def test_the_box_is_the_smallest_that_holds_everything(mask):
    box = bounding_box(mask)
    if not mask.any():
        assert box is None
        return
    voxels = np.argwhere(mask)
    assert [edge.start for edge in box] == voxels.min(axis=0).tolist()
    assert [edge.stop - 1 for edge in box] == voxels.max(axis=0).tolist()


@settings(deadline=None)
@given(masks(), st.tuples(*[st.integers(0, 13)] * 3))
def test_growing_is_dilation_by_a_box(mask, reach):
    expected = ndimage.maximum_filter(mask.astype(np.uint8), size=[2 * far + 1 for far in reach]) > 0
    assert np.array_equal(grown(mask, reach), expected)


@settings(deadline=None)
@given(masks())
def test_islands_join_across_corners_and_are_counted_in_order(mask):
    islands = islands_of(mask)
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert islands.shape == mask.shape
    assert np.array_equal(islands > 0, mask)
    assert len(np.unique(np.stack([islands, expected]).reshape(2, -1)[:, mask.ravel()], axis=1).T) == count
    assert int(islands.max(initial=0)) == count


@pytest.mark.parametrize("shape", [(1, 1, 3), (9, 1, 1), (1, 8, 1), (3, 3, 1), (1, 9, 151)])
def test_islands_that_lie_as_close_as_they_can_are_counted(shape):
    mask = np.zeros(shape, dtype=bool)
    mask[::2, ::2, ::2] = True
    assert int(islands_of(mask).max()) == mask.sum()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 2)])
def test_an_array_without_voxels_has_no_box(shape):
    assert bounding_box(np.zeros(shape, dtype=bool)) is None
