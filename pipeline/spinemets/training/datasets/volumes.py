"""Images and label maps in RAS+ axes, and brought to the spacing that training works at."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from spinemets.errors import GeometryError, UnreadableFileError, UnsupportedInputError
from spinemets.findings import PointMm
from spinemets.training.scans import finer_affine, to_1_mm
from spinemets.volume import Grid

__all__ = ["RasImage", "crop_to_spine", "load", "load_pair", "to_training_spacing", "training_affine"]

Array = npt.NDArray[np.float32]

# What nibabel and gzip raise where a file's header or its voxels are damaged or cut short.
_DAMAGE = (
    OSError, EOFError, ValueError, OverflowError, zlib.error,
    ImageFileError, HeaderDataError, WrapStructError, OrientationError,
)  # fmt: skip
_THIN_MM = 1.5
_SLICE_MM = 2.0
_GRID_TOLERANCE_MM = 0.5
# Left-right, back-front, foot-head: what a scan keeps around its labels.
_MARGIN_MM = (12.0, 70.0, 30.0)


@dataclass(frozen=True, slots=True, eq=False)
class RasImage:
    """A file's voxels, float32 of shape (left-right, back-front, foot-head), and its grid."""

    voxels: Array
    grid: Grid


def load(path: Path) -> RasImage:
    """Read a 3-D NIfTI, MetaImage or NRRD file, its axes turned to RAS+.

    Raises
    ------
    UnreadableFileError
        It is missing, damaged, or of no known format.
    UnsupportedInputError
        It is not 3-D.
    GeometryError
        Its affine is not one.
    """
    itk = path.name.lower().endswith((".mha", ".mhd", ".nrrd", ".nhdr"))
    try:
        image = _load_itk(path) if itk else nib.load(path)
        if len(image.shape) > 3 and max(image.shape[3:]) == 1:
            image = image.slicer[(slice(None),) * 3 + (0,) * (len(image.shape) - 3)]
        if len(image.shape) != 3:
            raise UnsupportedInputError(f"{path}: holds an image of shape {image.shape}; a 3-D one is needed")
        # Turning reads the voxels, and so finds what is damaged or cut short.
        image = nib.as_closest_canonical(image)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except _DAMAGE as error:
        raise UnreadableFileError(f"{path}: cannot be read as an image: {error}") from error
    try:
        grid = Grid(image.shape, np.asarray(image.affine, dtype=np.float64))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    return RasImage(np.nan_to_num(voxels), grid)


def _load_itk(path: Path) -> nib.Nifti1Image:
    """The file as a NIfTI image in memory: LPS coordinates become RAS+."""
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UnreadableFileError(f"{path}: cannot be read as an image: {reason}") from error
    affine = np.eye(4)
    size = image.GetDimension()
    affine[:size, :size] = np.array(image.GetDirection()).reshape(size, size) * np.array(image.GetSpacing())
    affine[:size, 3] = image.GetOrigin()
    array = SimpleITK.GetArrayFromImage(image)
    return nib.Nifti1Image(np.ascontiguousarray(array.T, dtype=np.float32), np.diag((-1, -1, 1, 1)) @ affine)


def load_pair(image_path: Path, labels_path: Path) -> tuple[RasImage, npt.NDArray[np.int32]]:
    """An image and its integer labels on the same grid.

    Raises
    ------
    GeometryError
        The two do not lie on the same grid.
    UnreadableFileError, UnsupportedInputError
        As for ``load``; also labels that are not whole numbers.
    """
    image, labels = load(image_path), load(labels_path)
    if image.voxels.shape != labels.voxels.shape:
        raise GeometryError(
            f"{labels_path}: shape {labels.voxels.shape} is not the image's, {image.voxels.shape}"
        )
    if not image.grid.is_close(labels.grid, _GRID_TOLERANCE_MM):
        raise GeometryError(f"{labels_path}: does not lie where {image_path.name} lies; resample one of them")
    return image, whole_numbers(labels, labels_path)


def whole_numbers(labels: RasImage, path: Path) -> npt.NDArray[np.int32]:
    """A label map's voxels as integers.

    Raises
    ------
    UnsupportedInputError
        A value is not a whole number.
    """
    rounded = np.rint(labels.voxels)
    if np.abs(rounded - labels.voxels).max() > 1e-3:
        raise UnsupportedInputError(f"{path}: holds values that are no whole numbers; labels were expected")
    return rounded.astype(np.int32)


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
