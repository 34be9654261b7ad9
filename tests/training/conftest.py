"""Tiny labelled scans in the layouts that the data sets are published in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from dataset_files import KINDS, read
from spinemets.training.scans import LabelledScan, read_sct, read_spider

SPIDER_SPACING_MM = (2.0, 0.8, 0.8)
BODIES = 6
BODY_MM, DISC_MM, LOWEST_DISC_MM = 22.0, 8.0, 44.0


@dataclass(frozen=True)
class TinyFiles:
    """A folder with one SPIDER subject (``tiny``) and one SCT subject (``tiny``)."""

    folder: Path

    def spider(self) -> LabelledScan:
        root = self.folder / "spider"
        return read_spider(root / "sub-tiny_T2w.nii.gz", root / "sub-tiny_dseg.nii.gz", "spider/tiny")

    def sct(self) -> LabelledScan:
        root = self.folder / "sct"
        return read_sct(root / "tiny_T2w.nii.gz", root / "tiny_cord.nii.gz", "sct/tiny")


def spider_labels():
    """1 vertebra, 2 disc, 3 canal, in RAS+ order; L5 is the lowest body."""
    shape = (14, 120, 300)
    x, y, z = (np.arange(n) * s for n, s in zip(shape, SPIDER_SPACING_MM, strict=True))
    x, y, z = np.meshgrid(x - x.mean(), y, z, indexing="ij")
    labels = np.zeros(shape, np.uint8)
    labels[(np.abs(y - 38) < 8) & (np.abs(x) < 9) & (z > 20)] = 3
    block = (y > 47) & (y < 80) & (np.abs(x) < 11)
    behind = (y > 16) & (y < 29) & (np.abs(x) < 4)
    for number in range(BODIES):
        foot = LOWEST_DISC_MM + DISC_MM + number * (BODY_MM + DISC_MM)
        labels[block & (z >= foot - DISC_MM) & (z < foot)] = 2
        labels[block & (z >= foot) & (z < foot + BODY_MM)] = 1
        labels[behind & (z >= foot) & (z < foot + BODY_MM - 4)] = 1
    return labels


def write(path, array, spacing, flip_x):
    affine = np.diag([*spacing, 1.0])
    if flip_x:
        affine[0, 0] *= -1
        affine[0, 3] = (array.shape[0] - 1) * spacing[0]
        array = array[::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyFiles:
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    labels = spider_labels()
    image = np.array((60, 110, 50, 190), np.float32)[labels] + rng.normal(0, 4, labels.shape)
    image[1, 10:16, 10:16] = 255  # marks the patient's left
    for name, array in (("T2w", image.clip(0, 255).astype(np.uint8)), ("dseg", labels)):
        write(folder / f"spider/sub-tiny_{name}.nii.gz", array, SPIDER_SPACING_MM, flip_x=True)
    x, y = np.meshgrid(np.arange(40) - 20, np.arange(180) - 90, indexing="ij")
    radius = np.repeat(np.hypot(x, y)[..., None], 60, axis=2)
    neck = np.where(radius < 9, 900, 300) - 500 * (radius < 4) + rng.normal(0, 10, radius.shape)
    cord = (radius < 4).astype(np.uint8)
    cord[:, :, :8] = cord[:, :, 50:] = 0
    for name, array in (("T2w", neck.astype(np.int16)), ("cord", cord)):
        write(folder / f"sct/tiny_{name}.nii.gz", array, (1.0, 1.0, 1.0), flip_x=False)
    return TinyFiles(folder)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """The first case of every layout."""
    return {kind: read(kind, make(tmp_path_factory.mktemp(kind))) for kind, make in KINDS.items()}
