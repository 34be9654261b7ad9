"""Regions of a slice as closed polygons along pixel edges.

A polygon holds exactly the pixel centres of its region, so whoever fills it gets the mask back.
A region with a hole is cut in two through the hole, again and again, since planning systems
do not agree on how a polygon inside another is meant.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.volume import Mask

__all__ = ["Polygon", "outlines"]

Polygon = npt.NDArray[np.float64]


def outlines(region: Mask) -> list[Polygon]:
    """The outlines of a region of any shape.

    Parameters
    ----------
    region
        Shape (rows, columns).

    Returns
    -------
    list of array
        Polygons of shape (points, 2): row and column of each corner, half-integers at pixel
        edges. They do not overlap, and together they cover the region.

    Examples
    --------
    >>> outlines(np.ones((1, 2), dtype=bool))[0].tolist()
    [[-0.5, -0.5], [-0.5, 1.5], [0.5, 1.5], [0.5, -0.5]]
    """
    labels, count = ndimage.label(region)
    polygons = []
    for number in range(1, count + 1):
        part = labels == number
        holes = ndimage.binary_fill_holes(part) & ~part
        if not holes.any():
            polygons.append(_outline(part))
            continue
        cut = int(np.nonzero(holes)[0][0])
        for half in (slice(None, cut + 1), slice(cut + 1, None)):
            piece = np.zeros_like(part)
            piece[half] = part[half]
            polygons += outlines(piece)
    return polygons


def _outline(part: Mask) -> Polygon:
    """The one outline of a connected region without holes, its corners only, clockwise."""
    padded = np.pad(part, 1)
    steps: dict[tuple[int, int], tuple[int, int]] = {}
    # Corner (r, c) is the upper left one of padded pixel (r, c); the region lies to the right hand.
    for row, column in np.argwhere(padded[1:] & ~padded[:-1]):
        steps[row + 1, column] = (row + 1, column + 1)
    for row, column in np.argwhere(padded[:-1] & ~padded[1:]):
        steps[row + 1, column + 1] = (row + 1, column)
    for row, column in np.argwhere(padded[:, :-1] & ~padded[:, 1:]):
        steps[row, column + 1] = (row + 1, column + 1)
    for row, column in np.argwhere(padded[:, 1:] & ~padded[:, :-1]):
        steps[row + 1, column + 1] = (row, column + 1)
    start = min(steps)
    corners, before, here = [start], start, steps[start]
    while here != start:
        after = steps[here]
        if after[0] - here[0] != here[0] - before[0] or after[1] - here[1] != here[1] - before[1]:
            corners.append(here)
        before, here = here, after
    return np.array(corners, dtype=np.float64) - 1.5
