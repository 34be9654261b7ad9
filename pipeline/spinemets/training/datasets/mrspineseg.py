"""MRSpineSeg as handed out: ``train/MR/Case<n>.nii.gz`` with ``train/Mask/mask_case<n>.nii.gz``.

Sagittal lumbar T2. 1 is the sacrum, 2 to 6 are L5 to L1, 7 to 10 T12 to T9, 11 the disc L5/S,
12 to 19 the discs L4/L5 to T9/T10. Neither canal nor cord is labelled, and a vertebra and its
arch are one label: the border between them is drawn along the rear of the discs, and what lies
within 3 mm of it may be either. Signed agreement, not for commercial use.
Source: Pang et al., IEEE Trans Med Imaging 2021;40:262-273; https://www.spinesegmentation-challenge.com.
"""

from __future__ import annotations

from pathlib import Path

from spinemets.anatomy import VertebralLevel
from spinemets.channels import Channel
from spinemets.errors import NoUsableInputError
from spinemets.training.datasets.cases import Case, Layout, images_in, need_cases
from spinemets.training.datasets.labels import Annotation, Extent, Meaning, Part, build_scan, check_values
from spinemets.training.images import load_pair
from spinemets.training.scans import LabelledScan, bit
from spinemets.volume import Weighting

__all__ = ["LAYOUT"]

_VERTEBRAE = ("L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9")
_MEANINGS = {
    1: Meaning(Part.SACRUM),
    **{value: Meaning(Part.VERTEBRA, VertebralLevel(name)) for value, name in enumerate(_VERTEBRAE, start=2)},
    **{value: Meaning(Part.DISC) for value in range(11, 20)},
}
# The canal is there and not labelled; arches at the edge of the field of view now and then are not.
_EXTENT = Extent(bit(Channel.BACKGROUND, Channel.THECAL_SAC, Channel.CORD), whole_sacrum=False)


def find_cases(folder: Path) -> tuple[Case, ...]:
    """Every image that has a mask; ``folder`` holds ``MR`` and ``Mask``, or ``train`` with both."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    masks = {path.name.lower(): path for path in images_in(root / "Mask")}
    cases = []
    for image in images_in(root / "MR", "[Cc]ase*"):
        mask = masks.get(f"mask_{image.name.lower()}")
        if mask is None:
            raise NoUsableInputError(
                f"{image}: has no mask; expected {root / 'Mask' / f'mask_{image.name.lower()}'}"
            )
        name = image.name.partition(".")[0]
        cases.append(Case(name, name, {"image": image, "labels": mask}, Weighting.T2))
    return need_cases(cases, folder, "train/MR/Case<n>.nii.gz and train/Mask/mask_case<n>.nii.gz")


def read_case(case: Case) -> LabelledScan:
    """Read one image with its mask.

    Raises
    ------
    InputError
        A file cannot be read, the two do not fit together, or a label is strange.
    """
    image, labels = load_pair(case.files["image"], case.files["labels"])
    check_values(labels, _MEANINGS, case.files["labels"])
    return build_scan(
        f"mrspineseg/{case.name}", image, Annotation(labels), case.weighting, _MEANINGS, _EXTENT
    )


LAYOUT = Layout(find_cases, read_case)
