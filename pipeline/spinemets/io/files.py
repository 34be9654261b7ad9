"""NIfTI, NRRD and MetaImage files: grid and intensities, RAS+.

*NIfTI.* The sform is used where its code is above 0 and it is a valid affine, else the qform. If
both are there and put a corner of the image more than 1 mm apart or an axis more than 1 degree,
a caution says so. With neither, voxels are taken to lie along RAS and a caution says that left
and right are not known. Metres and microns become millimetres.

*NRRD and MetaImage* are read by SimpleITK; this is the second of the two places where LPS
coordinates become RAS+.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from spinemets.errors import GeometryError, UnreadableFileError, UnsupportedInputError
from spinemets.volume import Grid, Series

__all__ = [
    "NIFTI_DAMAGE_ERRORS",
    "ImageHeader",
    "is_dicom_series",
    "is_image_file",
    "is_label_map_by_header",
    "read_image",
    "read_image_header",
]

# What nibabel and gzip raise where a file's header or its voxels are damaged or cut short.
NIFTI_DAMAGE_ERRORS = (
    OSError, EOFError, ValueError, OverflowError, zlib.error,
    ImageFileError, HeaderDataError, WrapStructError, OrientationError,
)  # fmt: skip
_NIFTI_SUFFIXES = (".nii", ".nii.gz")
_ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_CONFLICT_MM, _CONFLICT_DEG = 1.0, 1.0
# Real images have hundreds of values; label maps have few, in large uniform patches.
_MOST_LABELS, _UNIFORM_SHARE = 64, 0.95
# NIFTI_INTENT_LABEL of nifti1.h.
_LABEL_INTENT = 1002
_HOUNSFIELD_OF_FAT_AND_AIR = -300.0
# Of the range of all other values: air of an image without padding lies closer to the rest.
_PADDING_GAP = 0.05
# A few values below 0 do not make an image a standardised one, nor is the very lowest always its air.
_STANDARDISED_PERCENT, _DARKEST_PERCENT = 5.0, 0.1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Where an image file's voxels lie, and what was doubtful about it."""

    grid: Grid
    cautions: tuple[str, ...] = ()


def is_image_file(path: Path) -> bool:
    """Whether the name is that of a NIfTI, NRRD or MetaImage file."""
    return path.name.lower().endswith(_NIFTI_SUFFIXES + _ITK_SUFFIXES)


def is_dicom_series(series: Series) -> bool:
    """Whether a series was read from DICOM files."""
    return bool(series.files) and not is_image_file(series.files[0])


def is_label_map_by_header(path: Path, *, names_structure: bool) -> bool:
    """Whether a NIfTI header says that its values are labels; False for a file that cannot be read.

    Parameters
    ----------
    names_structure
        The file is named for a structure, so that single bytes are enough of a sign.
    """
    if not path.name.lower().endswith(_NIFTI_SUFFIXES):
        return False
    try:
        header = _open_nifti(path).header
    except UnreadableFileError:
        return False
    if header["intent_code"] == _LABEL_INTENT:
        return True
    return names_structure and bool(header.get_data_dtype().itemsize == 1)


def read_image_header(path: Path) -> ImageHeader:
    """Read a file's geometry without its voxels.

    Raises
    ------
    UnreadableFileError
        The file is damaged or not of the format its name says.
    UnsupportedInputError
        It is not one grey-value 3-D image.
    GeometryError
        Its affine is not one.
    """
    if path.name.lower().endswith(_NIFTI_SUFFIXES):
        return _nifti_header(path, _open_nifti(path))
    return _itk_header(path, _itk_reader(path))


def read_image(path: Path) -> tuple[npt.NDArray[np.float32], ImageHeader]:
    """Read a file's voxels, float32 in the file's own axis order, and its geometry.

    The header's scale is applied. NaN and infinity become 0, or as dark as the darkest of an image
    standardised to a mean of 0; padding that lies beyond all other values becomes the lowest of
    these; each with a caution.

    Raises
    ------
    UnreadableFileError, UnsupportedInputError, GeometryError
        As for the header; and if voxels are truncated, constant, labels, or those of a CT.
    """
    if path.name.lower().endswith(_NIFTI_SUFFIXES):
        image = _open_nifti(path)
        header = _nifti_header(path, image)
        try:
            array = _nifti_voxels(path, image).reshape(header.grid.shape)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UnreadableFileError(
                f"{path.name}: its voxels are damaged or cut short ({error})"
            ) from error
    else:
        reader = _itk_reader(path)
        header = _itk_header(path, reader)
        array = _itk_array(path, reader)
    finite = np.isfinite(array)
    cautions = header.cautions
    if not finite.all():
        count, value = int(array.size - finite.sum()), _darkness(array[finite])
        array = np.where(finite, array, value)
        cautions += (f"{count} voxels were not finite numbers and were set to {value:g}",)
    array, of_padding = _without_padding(array)
    _refuse_what_is_no_mr_image(path, array)
    return array, ImageHeader(header.grid, cautions + of_padding)


def _open_nifti(path: Path) -> Any:
    # nibabel.load takes matrices of surfaces (CIFTI) for an image of another kind, with another header.
    is_second_version, _ = nibabel.Nifti2Image.path_maybe_image(path)
    try:
        return (nibabel.Nifti2Image if is_second_version else nibabel.Nifti1Image).from_filename(path)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise UnreadableFileError(f"{path.name}: cannot be read as NIfTI ({error})") from error
    except (HeaderDataError, WrapStructError) as error:
        raise UnreadableFileError(f"{path.name}: its NIfTI header is damaged ({error})") from error


def _nifti_voxels(path: Path, image: Any) -> npt.NDArray[np.float32]:
    if not path.name.lower().endswith(".gz"):
        return np.asarray(image.dataobj, dtype=np.float32)
    with gzip.open(path) as file:
        array = np.asarray(type(image).from_stream(file).dataobj, dtype=np.float32)
        # The checksum is compared at the end alone, which no voxel lies at.
        while file.read(_CHUNK_BYTES):
            pass
    return array


def _nifti_header(path: Path, image: Any) -> ImageHeader:
    shape = tuple(int(n) for n in image.shape)
    _refuse_shape(path, shape)
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        kind = "colour" if dtype.fields is not None else "complex"
        raise UnsupportedInputError(f"{path.name}: holds {kind} values; a grey-value image is needed")
    affine, cautions = _nifti_affine(path, image.header, shape[:3])
    return ImageHeader(Grid(shape[:3], affine), cautions)  # type: ignore[arg-type]


def _nifti_affine(
    path: Path, header: Any, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    try:
        qform = header.get_qform() if int(header["qform_code"]) > 0 else None
    except (ValueError, HeaderDataError):
        qform = None
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    scale = np.diag([_mm_per_unit(path, header)] * 3 + [1.0])
    usable = [form for form in (sform, qform) if form is not None and _is_affine(form)]
    if usable:
        cautions: tuple[str, ...] = ()
        if len(usable) == 2:
            cautions = _conflict(scale @ usable[0], scale @ usable[1], shape)
        elif sform is not None and not _is_affine(sform):
            cautions = ("the header's sform is no affine; its qform was used",)
        return scale @ usable[0], cautions
    if sform is not None or qform is not None:
        raise GeometryError(f"{path.name}: neither sform nor qform is an affine; write its header again")
    spacing = [float(zoom) for zoom in header.get_zooms()[:3]]
    if not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise GeometryError(f"{path.name}: voxel sizes {spacing} and no orientation in the header")
    caution = "no orientation in the header; RAS assumed: left and right, and head and foot, may be wrong"
    return scale @ np.diag([*spacing, 1.0]), (caution,)


def _mm_per_unit(path: Path, header: Any) -> float:
    try:
        return _MM_PER_UNIT[header.get_xyzt_units()[0]]
    except KeyError:
        code = int(header["xyzt_units"])
        raise UnreadableFileError(
            f"{path.name}: its NIfTI header is damaged (units {code} are not defined); write it again"
        ) from None


def _is_affine(form: npt.NDArray[np.float64]) -> bool:
    return bool(np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 1e-12)


def _conflict(
    sform: npt.NDArray[np.float64], qform: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[str, ...]:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    distance_mm = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    axes = [form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform)]
    cosines = np.clip((axes[0] * axes[1]).sum(axis=0), -1.0, 1.0)
    angle_deg = float(np.degrees(np.arccos(cosines.min())))
    if distance_mm <= _CONFLICT_MM and angle_deg <= _CONFLICT_DEG:
        return ()
    return (
        f"sform and qform disagree by up to {distance_mm:.1f} mm and {angle_deg:.1f} degrees; "
        "the sform was used",
    )


def _itk_reader(path: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UnreadableFileError(f"{path.name}: cannot be read ({_last_line(error)})") from error
    return reader


def _itk_header(path: Path, reader: Any) -> ImageHeader:
    shape = tuple(int(n) for n in reader.GetSize())
    _refuse_shape(path, shape)
    if reader.GetNumberOfComponents() > 1:
        raise UnsupportedInputError(
            f"{path.name}: holds {reader.GetNumberOfComponents()} values per voxel; "
            "a grey-value 3-D image is needed"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    cautions: tuple[str, ...] = ()
    if path.name.lower().endswith((".nrrd", ".nhdr")) and not reader.HasMetaDataKey("NRRD_space"):
        cautions = ("no orientation in the header; LPS assumed: left and right may be wrong",)
    return ImageHeader(Grid(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine), cautions)  # type: ignore[arg-type]


def _itk_array(path: Path, reader: Any) -> npt.NDArray[np.float32]:
    import SimpleITK

    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise UnreadableFileError(
            f"{path.name}: its voxels are damaged or cut short ({_last_line(error)})"
        ) from error
    array = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    return np.asarray(array.transpose(2, 1, 0))


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__


def _refuse_shape(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) < 3 or min(shape) < 1:
        raise UnsupportedInputError(
            f"{path.name}: holds a {len(shape)}-D image of {shape}; a 3-D one is needed"
        )
    extra = [n for n in shape[3:] if n > 1]
    if extra or (len(shape) > 3 and not path.name.lower().endswith(_NIFTI_SUFFIXES)):
        raise UnsupportedInputError(
            f"{path.name}: holds a {len(shape)}-D image of {' x '.join(map(str, shape))} voxels; "
            "a 3-D one is needed, so split it into its volumes"
        )


def _darkness(values: npt.NDArray[np.float32]) -> np.float32:
    """What air would be among some values, (n,): 0, unless many lie below it."""
    if not values.size or np.percentile(values, _STANDARDISED_PERCENT) >= 0:
        return np.float32(0.0)
    return np.float32(np.percentile(values, _DARKEST_PERCENT))


def _without_padding(array: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """The voxels with padding at their lowest value: as bright as nothing else, it would darken them.

    Padding is a value other than 0 that all corners share, above all others or well below them.
    """
    corners = array[np.ix_(*((0, n - 1) for n in array.shape))]
    value = float(corners.flat[0])
    if value == 0 or np.any(corners != value):
        return array, ()
    padded = array == value
    rest = array[~padded]
    if not rest.size:
        return array, ()
    low, high = float(rest.min()), float(rest.max())
    if low - _PADDING_GAP * (high - low) <= value <= high:
        return array, ()
    caution = f"{padded.sum()} voxels of the value {value:g} around the image were taken as padding"
    return np.where(padded, np.float32(low), array), (caution,)


def _refuse_what_is_no_mr_image(path: Path, array: npt.NDArray[np.float32]) -> None:
    lowest, highest = float(array.min()), float(array.max())
    if lowest == highest:
        raise UnsupportedInputError(f"{path.name}: every voxel is {lowest:g}; there is nothing to see")
    if (
        lowest < _HOUNSFIELD_OF_FAT_AND_AIR
        and np.quantile(array[::4, ::4, ::4], 0.05) < _HOUNSFIELD_OF_FAT_AND_AIR
    ):
        raise UnsupportedInputError(
            f"{path.name}: looks like a CT (values from {lowest:g}); only MR is analysed"
        )
    if not np.array_equal(array, np.rint(array)) or len(np.unique(array)) > _MOST_LABELS:
        return
    # Along every axis, so that a coarse axis does not hide how uniform the others are.
    uniform = max(
        float(np.mean(np.diff(array, axis=axis) == 0)) for axis in range(3) if array.shape[axis] > 1
    )
    if uniform > _UNIFORM_SHARE:
        values = len(np.unique(array))
        raise UnsupportedInputError(
            f"{path.name}: looks like a label map ({values} values in uniform patches)"
        )
