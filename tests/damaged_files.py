"""NIfTI files that a bad disk or a broken transfer leaves behind."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np


def _cut_short(packed):
    return packed[: len(packed) // 2]


def _bad_checksum(packed):
    # gzip compares the checksum only where the voxels end too early.
    shorter = gzip.compress(gzip.decompress(packed)[:-100])
    return shorter[:-8] + bytes(4) + shorter[-4:]


def _bad_deflate(packed):
    # A second gzip member holds the last voxels; its first block is of no known type.
    raw = gzip.decompress(packed)
    return gzip.compress(raw[:-100]) + gzip.compress(raw[-100:])[:10] + b"\xff" * 100


def _bad_header(packed):
    raw = bytearray(gzip.decompress(packed))
    struct.pack_into("<h", raw, 70, 201)  # the code of the voxels' type
    return gzip.compress(bytes(raw))


def _header_cut_short(packed):
    return gzip.compress(gzip.decompress(packed)[:100])


DAMAGES = {
    "cut short": _cut_short, "bad checksum": _bad_checksum, "bad deflate": _bad_deflate,
    "bad header": _bad_header, "header cut short": _header_cut_short,
}  # fmt: skip


def damaged_nifti(folder, damage):
    """A label map stored from right to left, as most scanners do, and then damaged."""
    path = folder / "case1_lesions.nii.gz"
    labels = np.random.default_rng(0).integers(0, 3, (20, 24, 22)).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.diag([-1.0, 1.0, 1.0, 1.0])), path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    return path
