"""Pixels of a DICOM stack: decoded, rescaled, in spatial order, with holes filled on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from spinemets.errors import UnreadableFileError, UnsupportedInputError
from spinemets.io.dicom_geometry import SliceHeader, SliceStack
from spinemets.io.dicom_headers import DAMAGE_ERRORS, functional_group, lenient_headers

__all__ = ["read_stack"]


def read_stack(stack: SliceStack) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Read the images of a stack.

    Rescale slope and intercept are applied, image by image. MONOCHROME1 (low is bright) is
    inverted. What the header calls padding is 0. Missing slices are interpolated linearly between
    their neighbours.

    Returns
    -------
    array
        float32, shape ``stack.grid.shape``, axes (slice, row, column).
    tuple of str
        What a reviewer must know of it.

    Raises
    ------
    UnreadableFileError
        A file is damaged or truncated, or its pixels are not of the size its header says.
    UnsupportedInputError
        No decoder for a file's transfer syntax is installed.
    """
    array = np.zeros(stack.grid.shape, dtype=np.float32)
    files: dict[Path, list[tuple[int, SliceHeader]]] = {}
    for place, header in enumerate(stack.slices):
        if header is not None:
            files.setdefault(header.path, []).append((place, header))
    inverted: list[int] = []
    padding: dict[int, npt.NDArray[np.bool_]] = {}
    for path, wanted in files.items():
        dataset, frames = _decode(path)
        low_is_bright = str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"
        if low_is_bright:
            inverted += [place for place, _ in wanted]
        for place, header in wanted:
            frame = header.frame or 0
            if frame >= len(frames) or frames[frame].shape != array.shape[1:]:
                raise UnreadableFileError(
                    f"{path.name}: its pixels have the shape {frames.shape}, which its header contradicts"
                )
            slope, intercept = _rescale(path, dataset, header.frame)
            array[place] = frames[frame].astype(np.float32) * np.float32(slope) + np.float32(intercept)
            padded = _padding(dataset, frames[frame], low_is_bright)
            if padded is not None:
                array[place][padded] = 0.0
                padding[place] = padded
    if inverted:
        array[inverted] = array[inverted].max() + array[inverted].min() - array[inverted]
        for place, padded in padding.items():
            array[place][padded] = 0.0
    return array, _fill_missing(array, stack)


def _decode(path: Path) -> tuple[pydicom.Dataset, npt.NDArray[Any]]:
    """Header and stored values, shape (frames, rows, columns)."""
    try:
        with lenient_headers():
            dataset = pydicom.dcmread(path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                implicit = dataset.original_encoding[0]
                dataset.file_meta.TransferSyntaxUID = (
                    ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
                )
            _refuse_unknown_syntax(path, dataset.file_meta.TransferSyntaxUID)
            pixels = dataset.pixel_array
    except DAMAGE_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFileError(
            f"{path.name}: its pixels cannot be decoded ({reason}); the file may be truncated, copy it again"
        ) from error
    return dataset, pixels if pixels.ndim == 3 else pixels[np.newaxis]


def _refuse_unknown_syntax(path: Path, syntax: UID) -> None:
    if not syntax.is_transfer_syntax:
        raise UnreadableFileError(f"{path.name}: its transfer syntax is none that is known")
    if syntax.is_encapsulated and not _is_decodable(syntax):
        raise UnsupportedInputError(
            f"{path.name}: the transfer syntax {syntax.name} cannot be decoded here; export it uncompressed"
        )


def _is_decodable(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _rescale(path: Path, dataset: pydicom.Dataset, frame: int | None) -> tuple[float, float]:
    source = dataset
    try:
        if frame is not None:
            groups = dataset.PerFrameFunctionalGroupsSequence[frame]
            source = functional_group(dataset, groups, "PixelValueTransformationSequence")
        slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
        # A slope of 0 would blank the image; it is written by tools that mean "none".
        return float(slope or 1.0), float(intercept or 0.0)
    except DAMAGE_ERRORS as error:
        raise UnreadableFileError(
            f"{path.name}: its RescaleSlope or RescaleIntercept is not one number; export it again"
        ) from error


def _padding(
    dataset: pydicom.Dataset, stored: npt.NDArray[Any], inverted: bool
) -> npt.NDArray[np.bool_] | None:
    """Which pixels hold PixelPaddingValue, up to its limit; None without one that lies beyond all others."""
    try:
        ends = [int(dataset.PixelPaddingValue)]
        ends.append(int(dataset.get("PixelPaddingRangeLimit", ends[0])))
    except (AttributeError, TypeError, ValueError):
        return None
    if np.issubdtype(stored.dtype, np.signedinteger):
        # Often written as if pixels were unsigned.
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    low, high = min(ends), max(ends)
    if low <= stored.min() <= high or (inverted and low <= stored.max() <= high):
        return np.asarray((stored >= low) & (stored <= high))
    return None


def _fill_missing(array: npt.NDArray[np.float32], stack: SliceStack) -> tuple[str, ...]:
    present = [place for place, header in enumerate(stack.slices) if header is not None]
    for place in stack.missing:
        below = max(other for other in present if other < place)
        above = min(other for other in present if other > place)
        weight = np.float32((place - below) / (above - below))
        array[place] = (1 - weight) * array[below] + weight * array[above]
    if not stack.missing:
        return ()
    verb, whose = ("was", "its") if len(stack.missing) == 1 else ("were", "their")
    return (f"{stack.gaps} and {verb} interpolated from {whose} neighbours: findings there are unreliable",)
