"""A C2 that was taken for two vertebrae is put together again.

C2 with its dens is as high as three bodies, and a line across it or a gap in its label can cut
it in two. Every name below would then be one off. What tells the halves from C2 and C3 is the
disc: between two cervical bodies there is one, as there is between the bodies below.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.volume import Grid
from spinemets.voxels import voxels_of

__all__ = ["join_divided_axis"]

Labels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

_IS_AXIS = 0.3  # share of the uppermost instance that the network takes for C2
_COMPARED = 3  # pairs below whose discs are the measure
_LESS_DISC = 0.3  # of theirs: on simulated necks the halves had at most 0.22, C2 and C3 at least 0.41
_LEAST_DISC_MM3 = 300.0  # where the discs below are hardly seen, a missing one says nothing
_DISC_SIDE_MM = 14.0


def join_divided_axis(vertebrae: Labels, anatomy: Labels, grid: Grid, axis_share: float) -> Labels:
    """The vertebrae with the two uppermost as one, where both are parts of C2.

    Parameters
    ----------
    vertebrae
        uint8, shape ``grid.shape``: 0, or 1..n from head to foot.
    anatomy
        uint8, same shape; values of ``Structure``.
    axis_share
        Of the uppermost instance's body, what the network takes for C2; in [0, 1].

    Returns
    -------
    npt.NDArray[np.uint8]
        ``vertebrae`` itself where nothing is to be joined.
    """
    count = min(int(vertebrae.max()), _COMPARED + 2)
    if axis_share < _IS_AXIS or count < _COMPARED + 2:
        return vertebrae
    voxels = voxels_of(anatomy == Structure.VERTEBRAL_BODY)
    numbers = vertebrae[tuple(voxels.T)]
    places = grid.to_world(voxels)
    bodies = [places[numbers == number] for number in range(1, count + 1)]
    # Of a C2 at the image's edge too little may be seen, and of the disc below it as well.
    if not all(len(body) for body in bodies) or _is_cut(voxels[numbers == 1], grid):
        return vertebrae
    discs = grid.to_world(voxels_of(anatomy == Structure.DISC))
    first, *others = _disc_voxels_between([body.mean(axis=0) for body in bodies], discs)
    usual = float(np.median(others))
    if usual * grid.voxel_volume_mm3 < _LEAST_DISC_MM3 or first >= _LESS_DISC * usual:
        return vertebrae
    return np.where(vertebrae > 1, vertebrae - 1, vertebrae).astype(np.uint8)


def _is_cut(voxels: npt.NDArray[np.intp], grid: Grid) -> bool:
    """Whether voxels reach the image's head or foot end."""
    along = int(np.abs(grid.affine[2, :3]).argmax())
    return bool(np.isin(voxels[:, along], (0, grid.shape[along] - 1)).any())


def _disc_voxels_between(centres_mm: Sequence[Array], discs_mm: Array) -> list[int]:
    """How many of the discs' voxels lie between each centre and the next, near the line that joins them."""
    counts = []
    for upper, lower in pairwise(centres_mm):
        way = lower - upper
        share = (discs_mm - upper) @ way / (way @ way)
        aside = np.linalg.norm(discs_mm - upper - share[:, None] * way, axis=1)
        counts.append(int(((share > 0) & (share < 1) & (aside < _DISC_SIDE_MM)).sum()))
    return counts
