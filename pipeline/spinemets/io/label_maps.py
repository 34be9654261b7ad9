"""Label maps and probability maps as NIfTI, on the grid of the series they belong to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from spinemets.atomic import atomic_write_bytes, atomic_write_text
from spinemets.errors import GeometryError, OutputError
from spinemets.volume import FloatArray, Grid
from spinemets.voxels import bounding_box

__all__ = ["write_label_map", "write_probability_map"]

# Level 6 takes three times as long for files of the same size.
_GZIP_LEVEL = 1
_SCANNER_COORDINATES = 1
_LARGEST_LABEL = _PROBABILITY_STEPS = 65535


def write_label_map(
    path: Path,
    array: npt.NDArray[np.integer],
    grid: Grid,
    labels: Mapping[int, str],
    sidecar: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write a label map with its names beside it.

    Parameters
    ----------
    path
        Ends in ``.nii.gz`` or ``.nii``.
    array
        Integers 0 to 65,535, shape ``grid.shape``; 0 is background. Stored as uint8, or as
        uint16 where a value exceeds 255.
    grid
        Stored as both sform and qform with code 1 (scanner coordinates).
    labels
        A name for every value that may occur, background aside.
    sidecar
        What the ``.json`` says besides.

    Returns
    -------
    tuple of Path
        The image, ``.json`` holding ``{"labels": {"<number>": "<name>"}}``, and a ``.tsv`` of
        index and name as in BIDS.

    Raises
    ------
    GeometryError
        The array's shape is not the grid's.
    OutputError
        A value does not fit or has no name, or a file cannot be written.
    """
    # Most is background, which need not be sorted.
    values = [0, *map(int, np.unique(array[array != 0]))]
    if min(values) < 0 or values[-1] > _LARGEST_LABEL:
        raise OutputError(
            f"{path.name}: label values must be 0 to {_LARGEST_LABEL}, not {min(values)} to {max(values)}"
        )
    unnamed = sorted(set(values) - set(labels) - {0})
    if unnamed:
        raise OutputError(f"{path.name}: label values without a name: {unnamed}")
    stored = np.uint8 if values[-1] <= np.iinfo(np.uint8).max else np.uint16
    header = nibabel.Nifti1Header()
    header.set_data_dtype(stored)
    header.set_intent("label", name="labels")
    _write_nifti(path, array.astype(stored), grid, header)
    names = sorted(labels.items())
    json_path, tsv_path = _beside(path, ".json"), _beside(path, ".tsv")
    said = {**(sidecar or {}), "labels": {str(n): name for n, name in names}}
    atomic_write_text(json_path, json.dumps(said, indent=2) + "\n")
    atomic_write_text(tsv_path, "index\tname\n" + "".join(f"{n}\t{name}\n" for n, name in names))
    return path, json_path, tsv_path


def write_probability_map(path: Path, array: FloatArray, grid: Grid) -> Path:
    """Write probabilities in [0, 1], shape ``grid.shape``, as scaled 16-bit integers.

    The stored scale makes every reader see values in [0, 1], exact to 1 in 65,535.

    Raises
    ------
    GeometryError
        The array's shape is not the grid's.
    OutputError
        A value is not in [0, 1], or the file cannot be written.
    """
    if not (float(np.min(array)) >= 0.0 and float(np.max(array)) <= 1.0):
        raise OutputError(f"{path.name}: probabilities must lie in [0, 1] and be finite")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint16)
    header.set_slope_inter(1.0 / _PROBABILITY_STEPS, 0.0)
    steps = np.rint(np.asarray(array, dtype=np.float64) * _PROBABILITY_STEPS).astype(np.uint16)
    _write_nifti(path, steps, grid, header)
    return path


def _write_nifti(
    path: Path, stored: npt.NDArray[np.unsignedinteger], grid: Grid, header: nibabel.Nifti1Header
) -> None:
    """Write stored values as they are; the header's slope says what they mean."""
    if stored.shape != grid.shape:
        raise GeometryError(
            f"{path.name}: an array of shape {stored.shape} does not fit a grid of {grid.shape}"
        )
    if not path.name.endswith((".nii", ".nii.gz")):
        raise OutputError(f"{path.name}: a label map's name must end in .nii.gz or .nii")
    header.set_data_shape(stored.shape)
    header.set_xyzt_units("mm")
    header.set_sform(grid.affine, code=_SCANNER_COORDINATES)
    header.set_qform(grid.affine, code=_SCANNER_COORDINATES, strip_shears=True)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    no_extensions = bytes(4)
    content = header.binaryblock + no_extensions + _fortran_bytes(stored)
    if path.name.endswith(".gz"):
        # Without a time stamp the same labels give the same bytes.
        content = gzip.compress(content, compresslevel=_GZIP_LEVEL, mtime=0)
    atomic_write_bytes(path, content)


def _fortran_bytes(array: npt.NDArray[np.unsignedinteger]) -> bytes:
    """As ``array.tobytes(order="F")``, but zeros around what the array holds are not gone through."""
    box = bounding_box(array != 0)
    whole = np.zeros(array.shape, dtype=array.dtype, order="F")
    if box is not None:
        whole[box] = array[box]
    return whole.tobytes(order="F")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + suffix)
