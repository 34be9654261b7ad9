"""Short ways to write an image, and to list and read an input."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from spinemets.config import ReadingConfig
from spinemets.io import Rejection, StudyListing, discover, read_study
from spinemets.volume import Study, Volume

AFFINE = np.array([[4.0, 0, 0, -14], [0, 0, -1.5, 30], [0, -1.25, 0, 20], [0, 0, 0, 1]])
T1_TAGS = {"SeriesDescription": "T1 TSE sag", "EchoTime": 10, "RepetitionTime": 600, "SeriesNumber": 6}


def save_nifti(path: Path, seed: int = 0, shape: tuple[int, ...] = (8, 12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 3000, shape).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    nibabel.save(image, path)
    return path


def verdicts(listing: StudyListing) -> dict[str, Rejection | None]:
    return {entry.series.description: entry.rejection for entry in listing.series}


def read(path: Path, config: ReadingConfig | None = None) -> Study:
    (listing,) = discover(path)
    return read_study(listing, config or ReadingConfig())


def only_volume(path: Path, config: ReadingConfig | None = None) -> Volume:
    study = read(path, config)
    assert len(study.volumes) == 1
    return study.reference
