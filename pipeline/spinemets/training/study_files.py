"""How images of made studies are named, and how they and prepared arrays are written."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from spinemets.atomic import atomic_write_bytes
from spinemets.errors import OutputError
from spinemets.volume import Weighting

__all__ = ["SUFFIXES", "need_own_place", "write_arrays", "write_nifti"]

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


def need_own_place(folder: Path, name: str, weightings: Iterable[Weighting]) -> None:
    """See that nothing in a folder would be taken for a part of the study to be written there.

    Raises
    ------
    OutputError
        There is a sequence of that study that is not written anew, of another spine or without its
        lesions; or the truth of one sequence alone, which would count before that of the study.
    """
    written = {SUFFIXES[weighting] for weighting in weightings}
    others = [
        folder / "studies" / f"{name}_{suffix}.nii.gz"
        for suffix in SUFFIXES.values()
        if suffix not in written
    ]
    if len(written) > 1:
        others += [folder / "truth" / f"{name}_{suffix}.json" for suffix in sorted(written)]
    for path in others:
        if path.exists():
            raise OutputError(
                f"{path}: is there from another run, and would be taken for a part of the same study; "
                "take another folder"
            )


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
