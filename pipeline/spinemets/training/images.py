"""Image files and label maps as arrays in RAS+ axes, whatever their format and their own axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from spinemets.errors import GeometryError, UnreadableFileError, UnsupportedInputError
from spinemets.io.files import NIFTI_DAMAGE_ERRORS, read_image_header
from spinemets.volume import Grid

__all__ = ["RasImage", "load", "load_pair", "whole_numbers"]

Array = npt.NDArray[np.float32]

_GRID_TOLERANCE_MM = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class RasImage:
    """A file's voxels, float32 of shape (left-right, back-front, foot-head), and its grid."""

    voxels: Array
    grid: Grid


def load(path: Path) -> RasImage:
    """Read a 3-D NIfTI, MetaImage or NRRD file, its axes turned to RAS+; NaN and infinity become 0.

    Raises
    ------
    UnreadableFileError
        It is missing, damaged, or of no known format.
    UnsupportedInputError
        It is not 3-D, or holds colours or complex values.
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
        if path.name.lower().endswith((".nii", ".nii.gz")):
            # As a detection takes it: where a header tells no orientation, nibabel assumes another one.
            image = nib.Nifti1Image(image.dataobj, read_image_header(path).grid.affine, image.header)
        # Turning reads the voxels, and so finds what is damaged or cut short.
        image = nib.as_closest_canonical(image)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except NIFTI_DAMAGE_ERRORS as error:
        raise UnreadableFileError(f"{path}: cannot be read as an image: {error}") from error
    try:
        grid = Grid(image.shape, np.asarray(image.affine, dtype=np.float64))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    return RasImage(np.nan_to_num(voxels, posinf=0.0, neginf=0.0), grid)


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
        As for ``load``; also labels that are not whole numbers, and an image that shows nothing.
    """
    image, labels = load(image_path), load(labels_path)
    if np.ptp(image.voxels) == 0:
        raise UnsupportedInputError(f"{image_path}: every voxel has the same value; there is nothing to see")
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
