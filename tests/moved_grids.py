"""Rigid transforms, and grids whose axes run another way."""

import numpy as np
from scipy.spatial.transform import Rotation

from spinemets.resampling import RigidTransform
from spinemets.volume import Grid


def rigid(shift_mm, angles_degrees):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return RigidTransform(matrix)


def reordered(grid, order, flips):
    """The same lattice with its array axes permuted and reversed."""
    affine = np.array(grid.affine)
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (grid.shape[axis] - 1)
        affine[:3, axis] *= -1
    return Grid(tuple(grid.shape[axis] for axis in order), affine[:, [*order, 3]])
