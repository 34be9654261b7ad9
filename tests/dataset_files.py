"""Small data sets on disk in the layouts that they are published in, all of one drawn spine."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from spinemets.anatomy import Structure
from spinemets.training.datasets import LAYOUTS

SHAPE, SPACING_MM = (16, 120, 200), (2.0, 1.0, 1.0)
BODIES, BODY_MM, DISC_MM, FOOT_MM = 5, 22, 8, 40
# Left-right index of a bright mark on the patient's left, in RAS+ order.
LEFT = 1


def spine():
    """body, arch, disc, sac, cord, sacrum (values of Structure) and the vertebra's number from the lowest."""
    x, y, z = np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING_MM, strict=True)], indexing="ij")
    x = x - x.mean()
    anatomy, number = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    block = (y > 57) & (y < 86) & (np.abs(x) < 11)
    # A closed ring around the canal: two laminae, a spinous process, pedicles.
    arch = (y > 34) & (y <= 57) & (np.abs(x) < 13)
    spinous = (y > 20) & (y <= 36) & (np.abs(x) < 3)
    for index in range(BODIES):
        foot = FOOT_MM + DISC_MM + index * (BODY_MM + DISC_MM)
        anatomy[block & (z >= foot - DISC_MM) & (z < foot)] = Structure.DISC
        for where, part, height in (
            (block, Structure.VERTEBRAL_BODY, 0), (arch | spinous, Structure.POSTERIOR_ELEMENTS, 4),
        ):  # fmt: skip
            inside = where & (z >= foot) & (z < foot + BODY_MM - height)
            anatomy[inside], number[inside] = part, index + 1
    anatomy[block & (z >= 10) & (z < FOOT_MM)] = Structure.SACRUM
    canal = np.hypot((y - 48) / 8, x / 9) < 1
    anatomy[canal & (z > 6) & (z < 196)] = Structure.THECAL_SAC
    anatomy[(np.hypot((y - 48) / 4, x / 5) < 1) & (z > 110) & (z < 196)] = Structure.CORD
    number[canal] = 0
    return anatomy, number


def image(anatomy, seed=0):
    levels = np.array((40, 110, 90, 50, 200, 130, 100), np.float32)
    values = levels[anatomy] + np.random.default_rng(seed).normal(0, 4, anatomy.shape)
    values[LEFT, 30:40] = 400
    return values.clip(0, 400).astype(np.int16)


def write_nifti(path, array, flipped=True):
    """Stored from right to left where flipped, as most scanners do."""
    affine = np.diag([*SPACING_MM, 1.0])
    if flipped:
        affine[0, 0], affine[0, 3] = -SPACING_MM[0], (array.shape[0] - 1) * SPACING_MM[0]
        array = array[::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_mha(path, array):
    """Sagittal slices along the file's last axis, in LPS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # File axes: front to back, head to foot, right to left.
    stored = sitk.GetImageFromArray(np.ascontiguousarray(array[::-1, ::-1, ::-1].transpose(0, 2, 1)))
    stored.SetSpacing((1.0, 1.0, 2.0))
    # Columns of the direction are the file's axes in LPS: P, I, L is (0, 1, 0), (0, 0, -1), (1, 0, 0).
    stored.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    sitk.WriteImage(stored, str(path), useCompression=True)


def spider(folder, patients=("1", "2"), sequences=("t1", "t2")):
    anatomy, number = spine()
    labels = number.astype(np.int16)
    discs = anatomy == Structure.DISC
    heights = np.arange(SHAPE[2])[None, None, :]
    labels[discs] = (201 + (heights - FOOT_MM) // (BODY_MM + DISC_MM) + 0 * labels)[discs]
    labels[np.isin(anatomy, (Structure.THECAL_SAC, Structure.CORD))] = 100
    labels[labels == BODIES] = 100 + BODIES  # the highest is seen in part
    for patient in patients:
        for sequence in sequences:
            write_mha(folder / f"images/{patient}_{sequence}.mha", image(anatomy))
            write_mha(folder / f"masks/{patient}_{sequence}.mha", labels)
    return folder


def totalspineseg(anatomy, number, first=(45, 44, 43, 42, 41)):
    """L5 to L1 upwards, or what is given."""
    labels = np.zeros(SHAPE, np.uint8)
    for index, value in enumerate(first, start=1):
        labels[number == index] = value
    labels[anatomy == Structure.DISC] = 100
    labels[anatomy == Structure.THECAL_SAC] = 2
    labels[anatomy == Structure.CORD] = 1
    labels[anatomy == Structure.SACRUM] = 50
    return labels


def bids(folder, subjects=("amu01", "amu02"), first=(45, 44, 43, 42, 41)):
    anatomy, number = spine()
    for subject in subjects:
        stem = f"sub-{subject}/anat/sub-{subject}_T2w"
        write_nifti(folder / f"{stem}.nii.gz", image(anatomy))
        labels = totalspineseg(anatomy, number, first)
        write_nifti(folder / f"derivatives/labels/{stem}_label-spine_dseg.nii.gz", labels)
    (folder / "dataset_description.json").write_text('{"Name": "spine"}')
    return folder


def verse(folder, subjects=("verse004", "gl003"), ct=True):
    anatomy, number = spine()
    labels = np.zeros(SHAPE, np.uint8)
    for index, value in enumerate((24, 23, 22, 21, 20), start=1):
        labels[number == index] = value
    labels[(anatomy == Structure.VERTEBRAL_BODY) & (labels == 0)] = 24
    hounsfield = np.where(labels > 0, 300, 50).astype(np.int16)
    hounsfield[:, :14] = -1000
    hounsfield[:, 14:20] = -100
    for part, subject in zip(("training", "validation"), subjects, strict=True):
        root = folder / f"dataset-verse20{part}"
        name = f"sub-{subject}/sub-{subject}_dir-sag"
        write_nifti(root / f"derivatives/{name}_seg-vert_msk.nii.gz", labels)
        if ct:
            write_nifti(root / f"rawdata/{name}_ct.nii.gz", hounsfield)
    return folder


def mrspineseg(folder, cases=("1", "2")):
    anatomy, number = spine()
    labels = np.where(number > 0, number + 1, 0).astype(np.uint8)
    discs = anatomy == Structure.DISC
    heights = np.arange(SHAPE[2])[None, None, :]
    labels[discs] = (11 + (heights - FOOT_MM) // (BODY_MM + DISC_MM) + np.zeros(SHAPE, int))[discs]
    labels[anatomy == Structure.SACRUM] = 1
    for case in cases:
        write_nifti(folder / f"train/MR/Case{case}.nii.gz", image(anatomy))
        write_nifti(folder / f"train/Mask/mask_case{case}.nii.gz", labels)
    return folder


def lesions():
    """Lesion 1 in a body, lesion 2 in the cord."""
    found = np.zeros(SHAPE, np.uint8)
    found[6:9, 66:76, 80:90] = 1
    found[7:9, 46:50, 150:160] = 2
    return found


def own_masks(folder, patients=("p01", "p02"), anatomy_too=True):
    anatomy, _ = spine()
    for patient in patients:
        name = f"{patient}_T1w"
        write_nifti(folder / f"studies/{name}.nii.gz", image(anatomy))
        write_nifti(folder / f"truth/{name}_lesions.nii.gz", lesions())
        if anatomy_too:
            write_nifti(folder / f"truth/{name}_anatomy.nii.gz", anatomy)
        facts = [{"lesion": 1, "compartment": "extradural"}, {"lesion": 2, "compartment": "intramedullary"}]
        (folder / f"truth/{name}.json").write_text(json.dumps({"lesions": facts}))
    return folder


LABEL_NAMES = {
    "0": "background", "1": "vertebral_body", "2": "posterior_elements", "3": "disc",
    "4": "spinal_canal", "5": "sacrum", "6": "lesion",
}  # fmt: skip


def datalist(folder, labels=LABEL_NAMES, entry=None):
    anatomy, _ = spine()
    values = np.array((0, 1, 2, 3, 4, 4, 5), np.uint8)[anatomy]
    values[lesions() == 1] = 6
    for name in ("case1_T2", "case2_T2"):
        write_nifti(folder / f"imagesTr/{name}.nii.gz", image(anatomy))
        write_nifti(folder / f"labelsTr/{name}.nii.gz", values)
    entries = [
        {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} | (entry or {})
        for n in ("case1_T2", "case2_T2")
    ]
    document = {"labels": labels, "training": entries[:1], "validation": entries[1:], "test": ["x.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


# Every layout, by what writes a data set in it.
KINDS = {
    "spider": spider,
    "spine_generic": bids,
    "whole_spine": bids,
    "verse": verse,
    "mrspineseg": mrspineseg,
    "datalist": datalist,
    "own_masks": own_masks,
}


def read(kind, folder, index=0):
    """The case of this number of a data set."""
    layout = LAYOUTS[kind]
    return layout.read(layout.find(folder)[index])


def body_bits(scan):
    """Allowed channels of every body, from the lowest upwards."""
    bits = []
    for z in range(scan.image.shape[2]):
        found = np.unique(scan.allowed[:, :, z][scan.structures[:, :, z] == Structure.VERTEBRAL_BODY])
        bits += [int(one) for one in found if not bits or bits[-1] != int(one)]
    return bits
