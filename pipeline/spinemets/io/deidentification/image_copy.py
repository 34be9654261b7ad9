"""NIfTI, NRRD and MetaImage files with nothing but voxels and geometry in them."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel

from spinemets.errors import OutputError, UnreadableFileError, UnsupportedInputError
from spinemets.io.files import NIFTI_DAMAGE_ERRORS

__all__ = ["copy_image", "copy_suffix"]

# Free text, as byte ranges of the two versions' headers, and where the flag of extensions lies.
_TEXT_FIELDS = {
    348: ((4, 38), (148, 252), (328, 344)),
    540: ((240, 344), (508, 524), (525, 540)),
}


def copy_suffix(source: Path) -> str:
    """The suffix of a file's copy.

    >>> copy_suffix(Path("JANE_DOE.nii.gz")), copy_suffix(Path("jane.nrrd"))
    ('.nii.gz', '.mha')
    """
    return ".nii.gz" if source.name.lower().endswith((".nii", ".nii.gz")) else ".mha"


def copy_image(source: Path, target: Path) -> None:
    """Write a copy without names, descriptions, comments and extensions.

    Raises
    ------
    UnreadableFileError
        The file is damaged.
    UnsupportedInputError
        Its orientation is not stated, which the copy could not say.
    OutputError
        The copy cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.at(target, error) from None
    copy = _copy_nifti if copy_suffix(source) == ".nii.gz" else _copy_by_itk
    copy(source, target)


def _copy_nifti(source: Path, target: Path) -> None:
    try:
        bare = _bare_nifti(source)
    except NIFTI_DAMAGE_ERRORS:
        raise UnreadableFileError("its file is damaged") from None
    try:
        target.write_bytes(bare)
    except OSError as error:
        raise OutputError.at(target, error) from None


def _bare_nifti(source: Path) -> bytes:
    """The file's header with its text blanked, and its voxels as they are stored."""
    image: Any = nibabel.load(source)
    content = source.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    size = int(image.header["sizeof_hdr"])
    # The header's own offset is set to zero when it is read.
    start = int(image.dataobj.offset)
    length = math.prod(image.shape) * image.header.get_data_dtype().itemsize
    voxels = content[start : start + length]
    if start < size or len(voxels) < length:
        raise ValueError("cut short")
    header = bytearray(start)
    header[:size] = content[:size]
    for first, last in _TEXT_FIELDS[size]:
        header[first:last] = bytes(last - first)
    return gzip.compress(bytes(header) + voxels, compresslevel=1, mtime=0)


def _copy_by_itk(source: Path, target: Path) -> None:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(source))
    try:
        reader.ReadImageInformation()
        oriented = not source.name.lower().endswith((".nrrd", ".nhdr")) or reader.HasMetaDataKey("NRRD_space")
        image = reader.Execute()
    except RuntimeError:
        raise UnreadableFileError("its file is damaged") from None
    if not oriented:
        raise UnsupportedInputError("its file does not say which side is left; write it with its orientation")
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    try:
        SimpleITK.WriteImage(image, str(target), useCompression=False)
    except RuntimeError:
        raise OutputError(f"{target}: cannot be written; check space and permissions") from None
