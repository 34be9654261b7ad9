"""What a lesion lies in and among: the structures labelled in it, and close around it; and what no
series shows.

What surrounds it tells more than its own voxels, which a network may label as anything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spinemets.findings import Lesion, SpineSegmentation
from spinemets.volume import Mask
from spinemets.voxels import shell_of

__all__ = ["labels_about", "unseen_part"]

_REACH_MM = 3.0  # some voxels within a slice, none across thick ones

Labels = npt.NDArray[np.uint8]


def labels_about(lesion: Lesion, segmentation: SpineSegmentation) -> tuple[Labels, Labels]:
    """The values of ``Structure`` of a lesion's own voxels, (n,), and of those within 3 mm of it, (m,)."""
    grid, anatomy = segmentation.grid, segmentation.anatomy
    box, shell = shell_of(lesion.voxels, grid.shape, grid.spacing_mm, _REACH_MM)
    return anatomy[tuple(lesion.voxels.T)], anatomy[box][shell]


def unseen_part(segmentation: SpineSegmentation) -> Mask | None:
    """Where no series has values, shape of the grid; None where there is no such place."""
    if not segmentation.covered:
        return None
    unseen = ~np.logical_or.reduce(segmentation.covered)
    return unseen if unseen.any() else None
