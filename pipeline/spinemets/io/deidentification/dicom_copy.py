"""A DICOM file without identifiers, written anew: nothing of the source's bytes but pixels gets in.

Preamble, file meta information and padding are made new. Compressed pixels are decoded, since a
compressed stream may carry comments, and are cut at the length that the header gives them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from spinemets.errors import OutputError, UnreadableFileError, UnsupportedInputError
from spinemets.io.deidentification.burned_in import burned_in_reason
from spinemets.io.deidentification.header import Disguise, clean_header
from spinemets.io.dicom_headers import DAMAGE_ERRORS, lenient_headers

__all__ = ["copy_dicom"]


def copy_dicom(source: Path, target: Path, disguise: Disguise) -> str:
    """Write a de-identified copy of a file.

    Returns
    -------
    str
        The copy's Study Date, shifted; empty where dates are not retained.

    Raises
    ------
    UnsupportedInputError
        Text may be burned into its pixels.
    UnreadableFileError
        The file is damaged, or its pixels cannot be decoded.
    OutputError
        The copy cannot be written.
    """
    with lenient_headers():
        try:
            dataset = pydicom.dcmread(source, force=True)
            reason = burned_in_reason(dataset)
            if not reason:
                _make_plain(dataset)
                clean_header(dataset, disguise)
        except DAMAGE_ERRORS:
            # Neither the file's name nor the decoder's words may be passed on.
            raise UnreadableFileError("a file of it is damaged, or cannot be decoded here") from None
        if reason:
            raise UnsupportedInputError(reason)
        _write(dataset, target)
    return str(dataset.get("StudyDate") or "")


def _make_plain(dataset: FileDataset) -> None:
    """Decode the pixels, and cut off what follows them."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        dataset.decompress(generate_instance_uid=False)
    length = math.prod(
        int(dataset.get(keyword) or 1)
        for keyword in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
    )
    pixels = dataset.PixelData
    if syntax == ExplicitVRBigEndian:
        # Pixels of eight bits come in words of two where the VR says so (PS3.5 A.3).
        width = max(dataset.BitsAllocated // 8, 2 if dataset["PixelData"].VR == "OW" else 1)
        pixels = np.frombuffer(pixels[: len(pixels) // width * width], f">u{width}").byteswap().tobytes()
    pixels = pixels[: length // 8]
    if len(pixels) < length // 8:
        raise ValueError("pixels are cut short")
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    dataset["PixelData"].is_undefined_length = False


def _write(dataset: Dataset, target: Path) -> None:
    try:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        clean = FileDataset(str(target), dataset, preamble=b"\0" * 128, file_meta=meta)
        target.parent.mkdir(parents=True, exist_ok=True)
        clean.save_as(target, enforce_file_format=True)
    except OSError as error:
        raise OutputError.at(target, error) from error
    except DAMAGE_ERRORS:
        # What was read leniently may not be writable, and the error's words may quote it.
        raise UnreadableFileError(
            "a file of it lacks what DICOM requires, or holds what cannot be written"
        ) from None
