"""Grids: which have the same voxels."""

import numpy as np
import pytest

from spinemets.volume import Grid

SAGITTAL = Grid((13, 96, 80), np.array([[4.0, 0, 0, -24], [0, 2, 0.1, -95], [0, -0.1, 2, -95], [0, 0, 0, 1]]))


def stored_otherwise(grid):
    """The same lattice, its axes in another order and one of them reversed."""
    affine = np.array(grid.affine)
    affine[:3, 3] += affine[:3, 1] * (grid.shape[1] - 1)
    affine[:3, 1] *= -1
    i, j, k = grid.shape
    return Grid((k, i, j), affine[:, [2, 0, 1, 3]])


def test_a_grid_stored_in_another_order_has_the_same_places():
    assert SAGITTAL.has_same_places(stored_otherwise(SAGITTAL))
    assert not SAGITTAL.is_close(stored_otherwise(SAGITTAL))


@pytest.mark.parametrize("change", ["coarser", "shifted", "longer", "turned"])
def test_a_grid_that_differs_has_other_places(change):
    affine, shape = np.array(SAGITTAL.affine), SAGITTAL.shape
    if change == "coarser":
        affine[:3, 2] *= 1.01
    elif change == "shifted":
        affine[2, 3] += 0.5
    elif change == "longer":
        shape = (14, 96, 80)
    else:
        affine[:3, 1:3] = affine[:3, 2:0:-1]
    assert not SAGITTAL.has_same_places(Grid(shape, affine))
    assert not SAGITTAL.has_same_places(stored_otherwise(Grid(shape, affine)))
