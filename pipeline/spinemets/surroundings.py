"""What a lesion lies in and among: the structures labelled in it, and close around it.

What surrounds it tells more than its own voxels, which a network may label as anything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spinemets.findings import Lesion
from spinemets.segmented import SpineSegmentation
from spinemets.voxels import shell_of

__all__ = ["labels_about"]

_REACH_MM = 3.0  # some voxels within a slice, none across thick ones

Labels = npt.NDArray[np.uint8]


def labels_about(lesion: Lesion, segmentation: SpineSegmentation) -> tuple[Labels, Labels]:
    """The values of ``Structure`` of a lesion's own voxels, (n,), and of those within 3 mm of it, (m,)."""
    grid, anatomy = segmentation.grid, segmentation.anatomy
    box, shell = shell_of(lesion.voxels, grid.shape, grid.spacing_mm, _REACH_MM)
    return anatomy[tuple(lesion.voxels.T)], anatomy[box][shell]
