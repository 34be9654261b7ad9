"""SPIDER as published: ``images/<n>_<sequence>.mha`` with ``masks/<n>_<sequence>.mha``.

Sequences are ``t1``, ``t2`` and ``t2_SPACE``; ``<n>`` is the patient. Of a mask, 1 to 25 are
vertebrae from the lowest lumbar one upwards, 101 to 125 the same where only a part is in view,
100 is the spinal canal, 201 to 225 the disc below vertebra 1 to 25. The sacrum is not labelled.
Source: van der Graaf et al., Sci Data 2024, doi:10.1038/s41597-024-03090-w;
https://zenodo.org/records/10159290, CC BY 4.0.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import NoUsableInputError, UnreadableFileError, UnsupportedInputError
from spinemets.training.datasets.cases import Case, Layout, Subset, images_in, need_cases
from spinemets.training.datasets.labels import Meaning, Part, check_values
from spinemets.training.datasets.volumes import crop_to_spine, to_training_spacing, training_affine
from spinemets.training.images import load_pair
from spinemets.training.scans import (
    ANY,
    LabelledScan,
    bit,
    channels_of,
    mark_sacrum,
    spider_structures,
    to_bytes,
)
from spinemets.volume import Weighting

__all__ = ["LAYOUT"]

CANAL = 100
_LUMBAR = 5
_MEANINGS = {
    **{value: Meaning(Part.VERTEBRA) for value in range(1, 26)},
    **{value: Meaning(Part.VERTEBRA) for value in range(101, 126)},
    **{value: Meaning(Part.DISC) for value in range(201, 226)},
    CANAL: Meaning(Part.CANAL),
}
_WEIGHTINGS = {"t1": Weighting.T1, "t2": Weighting.T2, "t2_space": Weighting.T2}
_SUBSETS: dict[str, Subset] = {"training": "train", "validation": "validation"}


def find_cases(folder: Path) -> tuple[Case, ...]:
    """Every image that has a mask; ``overview.csv`` says its subset where it is there."""
    subsets = _subsets(folder / "overview.csv")
    cases = []
    for image in images_in(folder / "images"):
        name = image.name.removesuffix(".mha")
        patient, _, sequence = name.partition("_")
        mask = folder / "masks" / image.name
        if sequence.lower() not in _WEIGHTINGS:
            continue
        if not mask.is_file():
            raise NoUsableInputError(f"{image}: has no mask; expected {mask}")
        files = {"image": image, "labels": mask}
        cases.append(Case(patient, name, files, _WEIGHTINGS[sequence.lower()], subsets.get(name)))
    return need_cases(cases, folder, "images/<n>_t1.mha, _t2.mha or _t2_SPACE.mha and the same in masks/")


def _subsets(overview: Path) -> dict[str, Subset]:
    if not overview.is_file():
        return {}
    try:
        with overview.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
        said = {row["new_file_name"].strip(): row["subset"].strip().lower() for row in rows}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        # Without it, those that SPIDER keeps for validation would be trained on.
        raise UnreadableFileError(
            f"{overview}: is no UTF-8 table with new_file_name and subset between commas: {error!r}"
        ) from error
    return {name: _SUBSETS[subset] for name, subset in said.items() if name and subset in _SUBSETS}


def read_case(case: Case) -> LabelledScan:
    """Read one image with its mask.

    Raises
    ------
    InputError
        A file cannot be read, the two do not fit together, or a label is missing or strange.
    """
    path = case.files["labels"]
    image, raw = load_pair(case.files["image"], path)
    check_values(raw, _MEANINGS, path)
    if not (raw == CANAL).any():
        raise UnsupportedInputError(f"{path}: no voxel is labelled {CANAL} (spinal canal), as in SPIDER")
    if not (raw % 100 <= 25)[(raw > 0) & (raw < 126) & (raw != CANAL)].any():
        raise UnsupportedInputError(f"{path}: no voxel is labelled 1 to 25 (vertebra), as in SPIDER")
    voxels, spacing = to_training_spacing(image.voxels, image.grid.spacing_mm, labels=False)
    resampled, _ = to_training_spacing(raw, image.grid.spacing_mm, labels=True)
    box = crop_to_spine(resampled > 0, spacing)
    labels = resampled[box].astype(np.int32)
    three = _three_classes(labels)
    structures = spider_structures(three, spacing)
    allowed = (1 << channels_of(structures)).astype(np.uint16)
    allowed[three == 3] = bit(Channel.THECAL_SAC, Channel.CORD)
    thoracic = (labels % 100 > _LUMBAR) & (labels < 200) & (structures == Structure.VERTEBRAL_BODY)
    allowed[thoracic] = bit(Channel.THORACIC_BODY)
    mark_sacrum(three, structures, allowed, spacing)
    tops = np.flatnonzero((three == 1).any(axis=(0, 1)))
    allowed[:, :, tops.max() + 1 :] = ANY
    subject = f"spider/{case.name}"
    affine = training_affine(image.grid, box)
    return LabelledScan(
        subject, to_bytes(voxels[box]), allowed, structures, spacing, case.weighting, affine=affine
    )


def _three_classes(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """1 vertebra, 2 disc, 3 canal: what the reader of the joined labels takes."""
    three = np.zeros(labels.shape, dtype=np.float32)
    three[(labels > 0) & (labels < 126)] = 1
    three[labels > 200] = 2
    three[labels == CANAL] = 3
    return three


LAYOUT = Layout(find_cases, read_case)
