"""spine-generic and the whole-spine data set: BIDS with labels of TotalSpineSeg.

``sub-<id>/anat/sub-<id>_<T1w|T2w>.nii.gz`` with
``derivatives/labels[_iso]/sub-<id>/anat/<the image's name>_label-spine_dseg.nii.gz``; where they are there,
``_label-SC_seg`` (cord) and ``_label-canal_seg`` are laid over it. Values of TotalSpineSeg:
cord 1, canal 2, C1 to C7 11 to 17, T1 to T12 21 to 32, L1 to L5 (L6) 41 to 45 (46), sacrum 50,
discs 63 to 67 (below C2 to C6), 71 to 82 (below C7 to T11), 91 to 95 (below T12 to L4), 100.
spine-generic labels its ``T2star`` in the same way; these are axial, a few slices 5 mm apart, and left out.
Sources: https://github.com/spine-generic/data-multi-subject,
https://openneuro.org/datasets/ds005616, https://github.com/neuropoly/totalspineseg.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.io.weighting import weighting_from_name
from spinemets.training.datasets.cases import Case, Layout, need_cases
from spinemets.training.datasets.labels import Annotation, Extent, Meaning, Part, build_scan, check_values
from spinemets.training.images import load_pair
from spinemets.training.scans import LabelledScan

__all__ = ["LAYOUT", "TOTALSPINESEG"]

_CORD, _CANAL = 1, 2
_FIRST = {SpineRegion.CERVICAL: 11, SpineRegion.THORACIC: 21, SpineRegion.LUMBAR: 41}
TOTALSPINESEG: dict[int, Meaning] = {
    _CORD: Meaning(Part.CORD),
    _CANAL: Meaning(Part.SAC),
    **{
        _FIRST[level.region] + int(level.value[1:]) - 1: Meaning(Part.VERTEBRA, level)
        for level in VertebralLevel
        if level.region in _FIRST
    },
    50: Meaning(Part.SACRUM),
    **{value: Meaning(Part.DISC) for value in (*range(63, 68), *range(71, 84), *range(91, 97), 100)},
}
_LABEL_FOLDERS = ("labels", "labels_iso")
_CONTRASTS = ("_T1w", "_T2w")
_SPINE, _SC, _CANAL_ONLY = "_label-spine_dseg.nii.gz", "_label-SC_seg.nii.gz", "_label-canal_seg.nii.gz"


def find_cases(folder: Path) -> tuple[Case, ...]:
    """Every T1w and T2w image with a ``_label-spine_dseg``, sessions included."""
    cases: dict[str, Case] = {}
    for labels in sorted(folder.glob(f"derivatives/*/sub-*/**/anat/*{_SPINE}")):
        place = labels.relative_to(folder / "derivatives")
        stem = labels.name.removesuffix(_SPINE)
        image = folder.joinpath(*place.parts[1:-1]) / f"{stem}.nii.gz"
        if place.parts[0] not in _LABEL_FOLDERS or not stem.endswith(_CONTRASTS) or not image.is_file():
            continue
        files = {"image": image, "labels": labels}
        for key, suffix in (("cord", _SC), ("canal", _CANAL_ONLY)):
            extra = labels.with_name(f"{stem}{suffix}")
            if extra.is_file():
                files[key] = extra
        patient = place.parts[1].removeprefix("sub-")
        cases.setdefault(stem, Case(patient, stem, files, weighting_from_name(image.name)))
    expected = (
        f"sub-<id>/anat/<image>.nii.gz, a T1w or T2w, and derivatives/labels/sub-<id>/anat/<image>{_SPINE}"
    )
    return need_cases(list(cases.values()), folder, expected)


def read_case(case: Case) -> LabelledScan:
    """Read one image with its labels.

    Raises
    ------
    InputError
        A file cannot be read, they do not fit together, or a label is strange.
    """
    image, labels = load_pair(case.files["image"], case.files["labels"])
    check_values(labels, TOTALSPINESEG, case.files["labels"])
    for key, value, under in (("canal", _CANAL, (0,)), ("cord", _CORD, (0, _CANAL))):
        if key in case.files:
            _, mask = load_pair(case.files["image"], case.files[key])
            labels[(mask > 0) & np.isin(labels, under)] = value
    return build_scan(f"bids/{case.name}", image, Annotation(labels), case.weighting, TOTALSPINESEG, Extent())


LAYOUT = Layout(find_cases, read_case)
