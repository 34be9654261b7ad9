"""Data sets that bring lesions of their own: masks of one's own, and MONAI datalists."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

import dataset_files as files
from dataset_files import body_bits, read
from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import (
    UnreadableFileError,
    UnsupportedInputError,
)
from spinemets.training.datasets import LAYOUTS
from spinemets.training.datasets.labels import meaning_of_name
from spinemets.training.scans import ANY, UNKNOWN_LESION, bit
from spinemets.volume import Weighting


def test_own_masks_carry_lesions_by_number_and_the_anatomy_beside_them(scans):
    scan = scans["own_masks"]
    assert scan.weighting is Weighting.T1
    assert np.bincount(scan.lesions.ravel())[1:].tolist() == [300, 80]
    assert (scan.structures == Structure.VERTEBRAL_BODY).any()


def test_without_anatomy_a_compartment_tells_what_a_lesion_may_lie_in(tmp_path):
    scan = read("own_masks", files.own_masks(tmp_path, anatomy_too=False))
    first, second = (scan.allowed[scan.lesions == number] for number in (1, 2))
    assert (second == bit(Channel.CORD)).all()
    assert (first & bit(Channel.LUMBAR_BODY) > 0).all()
    assert not (first & bit(Channel.CORD)).any()
    assert (scan.allowed[scan.lesions == 0] == ANY).all()
    assert set(np.unique(scan.structures[scan.lesions > 0])) == {Structure.VERTEBRAL_BODY, Structure.CORD}


def test_what_is_below_0_in_a_lesion_mask_is_no_lesion_and_not_unknown(tmp_path, scans):
    folder = files.own_masks(tmp_path, ("p01",))
    drawn = files.lesions().astype(np.int16)
    files.write_nifti(folder / "truth/p01_T1w_lesions.nii.gz", np.where(drawn > 0, drawn, -1))
    assert np.array_equal(read("own_masks", folder).lesions, scans["own_masks"].lesions)


def test_what_is_unknown_stays_so_where_lesions_have_high_numbers(tmp_path):
    folder = files.own_masks(tmp_path, ("p01",))
    drawn = files.lesions().astype(np.int16) * 300
    drawn[:3] = 255
    files.write_nifti(folder / "truth/p01_T1w_lesions.nii.gz", drawn)
    scan = read("own_masks", folder)
    assert (scan.lesions[:3] == UNKNOWN_LESION).all()
    assert np.bincount(scan.lesions[3:].ravel())[1:].tolist() == [300, 80]


def test_a_case_may_have_brackets_in_its_name(tmp_path):
    folder = files.own_masks(tmp_path, ("p[1]",))
    assert read("own_masks", folder).lesions.any()


@pytest.mark.parametrize("patient", ["p01", "Patient 01"])
def test_one_truth_may_serve_several_sequences(tmp_path, patient):
    folder = files.own_masks(tmp_path, (patient,))
    for path in (folder / "truth").iterdir():
        path.rename(path.with_name(path.name.replace("_T1w", "")))
    first = (folder / f"studies/{patient}_T1w.nii.gz").read_bytes()
    (folder / f"studies/{patient}_T2w.nii.gz").write_bytes(first)
    cases = LAYOUTS["own_masks"].find(folder)
    assert [(case.patient, case.weighting) for case in cases] == [
        (patient, Weighting.T1),
        (patient, Weighting.T2),
    ]
    assert all({"lesions", "anatomy", "facts"} <= set(case.files) for case in cases)


def test_an_exam_without_lesions_or_anatomy_is_refused(tmp_path):
    folder = files.own_masks(tmp_path, ("p01",), anatomy_too=False)
    files.write_nifti(folder / "truth/p01_T1w_lesions.nii.gz", np.zeros(files.SHAPE, np.uint8))
    with pytest.raises(UnsupportedInputError, match="neither a lesion nor anatomy"):
        read("own_masks", folder)


def test_a_mask_of_255_alone_is_told_from_one_that_is_empty(tmp_path):
    folder = files.own_masks(tmp_path, ("p01",), anatomy_too=False)
    drawn = np.where(files.lesions() > 0, 255, 0).astype(np.uint8)
    files.write_nifti(folder / "truth/p01_T1w_lesions.nii.gz", drawn)
    with pytest.raises(UnsupportedInputError, match=r"shows is 255, .* lesions are numbered from 1"):
        read("own_masks", folder)


def test_a_mask_of_255_alone_is_told_where_anatomy_lets_it_train(tmp_path, caplog):
    folder = files.own_masks(tmp_path, ("p01",))
    read("own_masks", folder)
    assert not caplog.text
    drawn = np.where(files.lesions() > 0, 255, 0).astype(np.uint8)
    files.write_nifti(folder / "truth/p01_T1w_lesions.nii.gz", drawn)
    read("own_masks", folder)
    assert "lesions are numbered from 1" in caplog.text
    assert "p01" not in caplog.text


def test_a_datalist_s_lists_are_its_split_and_its_names_its_labels(tmp_path, scans):
    cases = LAYOUTS["datalist"].find(files.datalist(tmp_path))
    assert {case.patient: case.subset for case in cases} == {"case1": "train", "case2": "validation"}
    scan = scans["datalist"]
    assert scan.weighting is Weighting.T2
    assert body_bits(scan) == [
        bit(Channel.C2, Channel.CERVICAL_BODY, Channel.THORACIC_BODY, Channel.LUMBAR_BODY)
    ]
    assert (
        scan.allowed[scan.structures == Structure.THECAL_SAC] == bit(Channel.THECAL_SAC, Channel.CORD)
    ).all()
    # The lesion replaces the body's label: what lies beneath is not known.
    assert set(np.unique(scan.lesions)) == {0, 1}
    assert (scan.allowed[scan.lesions > 0] == ANY).all()


def test_labels_may_be_named_the_other_way_and_folds_give_the_validation(tmp_path):
    names = {name: int(value) for value, name in files.LABEL_NAMES.items()}
    folder = files.datalist(tmp_path, names, {"fold": 0, "patient": "p7", "weighting": "STIR/T2FS"})
    document = json.loads((folder / "dataset.json").read_text())
    document["training"] += document.pop("validation")
    document["training"][1]["fold"] = 1
    (folder / "dataset.json").write_text(json.dumps(document))
    cases = LAYOUTS["datalist"].find(folder)
    assert [case.subset for case in cases] == ["validation", "train"]
    assert {(case.patient, case.weighting) for case in cases} == {("p7", Weighting.T2_FS)}


@pytest.mark.parametrize(
    ("images", "patients", "names"),
    [
        (("p1/T1", "p1/T2", "p2/T2"), ["p1", "p1", "p2"], ["p1_T1", "p1_T2", "p2_T2"]),
        (("p1/day1/image", "p2/day1/image"), ["p1", "p2"], ["p1-day1_image", "p2-day1_image"]),
        (("t1/case1", "t2/case1", "t2/case2"), ["case1", "case1", "case2"], ["case1", "case1", "case2"]),
    ],
)
def test_images_of_a_datalist_that_name_no_patient_are_of_their_folder_s(tmp_path, images, patients, names):
    entries = [{"image": f"{image}.nii.gz", "label": f"{image}_mask.nii.gz"} for image in images]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    cases = LAYOUTS["datalist"].find(tmp_path)
    assert [case.patient for case in cases] == patients
    assert [case.name for case in cases] == names


def test_a_datalist_may_have_lesion_masks_alone(tmp_path):
    folder = files.datalist(tmp_path)
    document = json.loads((folder / "dataset.json").read_text())
    entry = document["training"][0]
    files.write_nifti(folder / "lesion.nii.gz", (files.lesions() > 0).astype(np.uint8))
    document = {"training": [{"image": entry["image"], "lesion": "lesion.nii.gz"}]}
    (folder / "dataset.json").write_text(json.dumps(document))
    scan = read("datalist", folder)
    assert set(np.unique(scan.lesions)) == {0, 1, 2}
    assert (scan.allowed == ANY).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("L5", ("VERTEBRA", "L5")), ("vertebrae_T12", ("VERTEBRA", "T12")), ("disc_C7_T1", ("DISC", None)),
        ("intervertebral disc", ("DISC", None)), ("vertebral_body", ("BODY", None)),
        ("L4 body", ("BODY", "L4")), ("S1", ("SACRUM", None)), ("spinal_canal", ("CANAL", None)),
        ("spinal_cord", ("CORD", None)), ("thecal_sac", ("SAC", None)),
        ("posterior_elements", ("POSTERIOR", None)),
        ("vertebral arch", ("POSTERIOR", None)), ("liver", None),
        ("SpinalCanal", ("CANAL", None)), ("Vertebra_Corpus", ("BODY", None)), ("L03", ("VERTEBRA", "L3")),
        ("L4/L5", ("DISC", None)), ("L5/S", ("DISC", None)), ("L5-S1", ("DISC", None)),
        ("T12_L1", ("DISC", None)), ("L4L5", ("DISC", None)), ("L4-5", ("DISC", None)),
        ("Vertebra_Disc", ("DISC", None)), ("L1-L5", None), ("L4 2", None), ("vertebra L4 L5", None),
        ("lesion", ("LESION", None)), ("vertebral_metastasis", ("LESION", None)),
        ("cord_lesion", ("LESION", None)), ("spinal_canal_tumor", ("LESION", None)),
        ("L3 Metastases", ("LESION", None)), ("other tumour", ("LESION", None)),
        ("vertebra_without_lesion", None), ("metastatic_vertebra", None),
        ("muscle_T12", None), ("rib_T12", None), ("vertebral_artery", None), ("epidural_fat", None),
        ("aortic_arch", None), ("posterior_body", None), ("L9", None), ("", None),
        ("background", ("BACKGROUND", None)), ("ignore", ("ANYTHING", None)), ("other", ("ANYTHING", None)),
        ("ignore_lesion", ("ANYTHING", None)),
    ],
)  # fmt: skip
def test_names_of_labels_are_understood(name, expected):
    found = meaning_of_name(name)
    assert (found and (found.part.name, found.level.value if found.level else None)) == expected


def renamed(folder, label_names):
    document = json.loads((folder / "dataset.json").read_text())
    document["labels"] |= label_names
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def test_a_lesion_is_known_by_any_word_of_its_name(tmp_path, scans):
    scan = read("datalist", renamed(files.datalist(tmp_path), {"6": "vertebral_metastasis"}))
    assert np.array_equal(scan.lesions, scans["datalist"].lesions)
    assert np.array_equal(scan.allowed, scans["datalist"].allowed)


@pytest.mark.parametrize("name", ["ignore", "other"])
def test_where_a_label_is_to_be_ignored_anything_may_be_and_a_lesion_too(tmp_path, scans, name):
    scan = read("datalist", renamed(files.datalist(tmp_path), {"4": name}))
    canal = scans["datalist"].structures == Structure.THECAL_SAC
    assert (scan.allowed[canal] == ANY).all()
    assert not scan.structures[canal].any()
    assert (scan.lesions[canal] == 255).all()
    assert np.array_equal(scan.lesions == 1, scans["datalist"].lesions == 1)


def test_a_second_name_for_the_background_is_background(tmp_path, scans):
    folder = renamed(files.datalist(tmp_path), {"7": "background"})
    path = LAYOUTS["datalist"].find(folder)[0].files["labels"]
    stored = nib.load(path)
    array = np.asarray(stored.dataobj).copy()
    array[array == 0] = 7
    nib.save(nib.Nifti1Image(array, stored.affine), path)
    assert np.array_equal(read("datalist", folder).allowed, scans["datalist"].allowed)


def test_values_without_a_name_are_refused_where_only_lesions_are_named(tmp_path):
    with pytest.raises(UnsupportedInputError, match=r"\[1, 2, 3, 4, 5\]"):
        read("datalist", files.datalist(tmp_path, {"0": "background", "6": "lesion"}))


def test_a_datalist_may_leave_a_list_empty_with_null(tmp_path):
    folder = files.datalist(tmp_path)
    document = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**document, "test": None}))
    assert [case.subset for case in LAYOUTS["datalist"].find(folder)] == ["train", "validation"]


@pytest.mark.parametrize("entries", [[5], {"image": "a.nii.gz", "label": "b.nii.gz"}, 3])
def test_what_is_no_list_of_images_is_refused(tmp_path, entries):
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    with pytest.raises(UnreadableFileError, match=r'dataset\.json: its "training" is no list of images'):
        LAYOUTS["datalist"].find(tmp_path)


def test_a_label_without_a_name_of_the_spine_is_refused(tmp_path):
    folder = files.datalist(tmp_path, {**files.LABEL_NAMES, "3": "liver"})
    with pytest.raises(UnsupportedInputError, match="liver"):
        read("datalist", folder)
