"""How images of made studies are named, and how they and prepared arrays are written."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from spinemets.atomic import atomic_write_bytes
from spinemets.volume import Weighting

__all__ = ["SUFFIXES", "write_arrays", "write_nifti"]

# Higher ones make noise hardly smaller.
_GZIP_LEVEL = 1

SUFFIXES: Mapping[Weighting, str] = {
    Weighting.T1: "T1w",
    Weighting.T2: "T2w",
    Weighting.T2_FS: "STIR",
    Weighting.T1_GD: "T1w_Gd",
    Weighting.T1_FS_GD: "T1w_fs_Gd",
}
"""Ends of file names, from which ``io.weighting`` reads the weighting again."""


def write_nifti(path: Path, array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> None:
    """Write an array in a scanner's coordinates, by both of NIfTI's forms, whole or not at all.

    Parameters
    ----------
    path
        Ends in ``.nii.gz``. The same array gives the same bytes.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    file = nib.Nifti1Image(array, affine)
    file.set_sform(affine, code=1)
    file.set_qform(affine, code=1)
    atomic_write_bytes(path, gzip.compress(file.to_bytes(), _GZIP_LEVEL, mtime=0))


def write_arrays(
    path: Path, arrays: Mapping[str, npt.NDArray[np.generic]], *, compressed: bool = False
) -> None:
    """Write arrays as ``.npz``, complete or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays)
    atomic_write_bytes(path, buffer.getvalue())
