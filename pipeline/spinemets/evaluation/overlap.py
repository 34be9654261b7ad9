"""Agreement of two masks: Dice, Dice of their surfaces, and what of one lies near the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.volume import Mask

__all__ = ["dice", "share_near", "surface_dice"]

Spacing = tuple[float, float, float]


def dice(predicted: Mask, truth: Mask) -> float | None:
    """Twice the common voxels over the sum of both; None where both masks are empty.

    Examples
    --------
    >>> dice(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool))
    0.4
    """
    total = int(predicted.sum()) + int(truth.sum())
    if total == 0:
        return None
    return 2 * int((predicted & truth).sum()) / total


def surface_dice(predicted: Mask, truth: Mask, spacing_mm: Spacing, tolerance_mm: float) -> float | None:
    """The share of both surfaces that lies within a tolerance of the other one.

    Surfaces are the masks' outermost voxels, distances those between voxel centres; the
    image's edge is no surface. The normalised surface distance of Nikolov et al.
    (J Med Internet Res 2021), with voxels in place of surface elements.

    Returns
    -------
    float or None
        In [0, 1]; 0 where only one mask has a surface, None where neither has one and they
        are the same.
    """
    surfaces = _surface(predicted), _surface(truth)
    total = sum(int(surface.sum()) for surface in surfaces)
    if total == 0 and np.array_equal(predicted, truth):
        return None
    if not (surfaces[0].any() and surfaces[1].any()):
        return 0.0
    near = 0
    for surface, other in (surfaces, surfaces[::-1]):
        distance_mm = ndimage.distance_transform_edt(~other, sampling=spacing_mm)
        near += int((distance_mm[surface] <= tolerance_mm).sum())
    return near / total


def share_near(truth: Mask, predicted: Mask, spacing_mm: Spacing, tolerance_mm: float) -> float | None:
    """The share of the true voxels whose centre lies within a tolerance of a predicted one's.

    Returns
    -------
    float or None
        In [0, 1]; 0 where nothing was predicted, None where nothing is true.

    Examples
    --------
    >>> row = np.array([[[1, 1, 1, 1]]], bool)
    >>> share_near(row, row & [True, False, False, False], (1, 1, 2.5), tolerance_mm=3)
    0.5
    """
    if not truth.any():
        return None
    if not predicted.any():
        return 0.0
    distance_mm = ndimage.distance_transform_edt(~predicted, sampling=spacing_mm)
    return float((distance_mm[truth] <= tolerance_mm).mean())


def _surface(mask: Mask) -> npt.NDArray[np.bool_]:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, border_value=1))
