"""Images and label maps brought to the spacing that training works at, and cut to the spine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spinemets.training.scans import finer_affine, to_1_mm
from spinemets.volume import Grid, PointMm

__all__ = ["crop_to_spine", "to_training_spacing", "training_affine"]

Array = npt.NDArray[np.float32]

_THIN_MM = 1.5
_SLICE_MM = 2.0
# Left-right, back-front, foot-head: what a scan keeps around its labels.
_MARGIN_MM = (12.0, 70.0, 30.0)


def to_training_spacing(
    array: npt.NDArray[np.generic], spacing: PointMm, labels: bool
) -> tuple[Array, PointMm]:
    """An image or labels at 1 mm in plane, slices thinner than 1.5 mm joined to about 2 mm.

    Of joined slices the image keeps the mean, labels keep the middle slice.
    """
    voxels, (slice_mm, *_) = to_1_mm(array.astype(np.float32), spacing, nearest=labels)
    factor = _joined(len(voxels), slice_mm)
    if factor > 1:
        count = len(voxels) // factor
        stacked = voxels[: count * factor].reshape(count, factor, *voxels.shape[1:])
        voxels = stacked[:, factor // 2] if labels else stacked.mean(axis=1)
        slice_mm *= factor
    return np.ascontiguousarray(voxels), (slice_mm, 1.0, 1.0)


def training_affine(grid: Grid, box: tuple[slice, slice, slice] | None = None) -> npt.NDArray[np.float64]:
    """Voxel indices to mm of what ``to_training_spacing`` makes of a grid, or of a box of that."""
    first = (0, 0, 0) if box is None else (box[0].start, box[1].start, box[2].start)
    return finer_affine(grid, _joined(grid.shape[0], grid.spacing_mm[0]), first)


def _joined(count: int, slice_mm: float) -> int:
    """How many of so many slices become one."""
    factor = round(_SLICE_MM / slice_mm) if slice_mm < _THIN_MM else 1
    return factor if count >= factor else 1


def crop_to_spine(known: npt.NDArray[np.bool_], spacing: PointMm) -> tuple[slice, slice, slice]:
    """The part of an image around its labels; whole body scans would not fit into memory otherwise."""
    slices = []
    for axis, (margin, step) in enumerate(zip(_MARGIN_MM, spacing, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(known.any(axis=others))
        reach = int(np.ceil(margin / step))
        slices.append(slice(max(0, int(places.min()) - reach), int(places.max()) + reach + 1))
    return slices[0], slices[1], slices[2]
