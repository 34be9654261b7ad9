"""Every public layout is read as it is published: levels, parts, left and right, what stays open."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

import dataset_files as files
from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import (
    GeometryError,
    NoUsableInputError,
    UnreadableFileError,
    UnsupportedInputError,
)
from spinemets.training.datasets import LAYOUTS
from spinemets.training.datasets.labels import meaning_of_name
from spinemets.training.scans import ANY, bit
from spinemets.volume import Weighting

KINDS = {
    "spider": files.spider,
    "spine_generic": files.bids,
    "whole_spine": files.bids,
    "verse": files.verse,
    "mrspineseg": files.mrspineseg,
    "datalist": files.datalist,
    "own_masks": files.own_masks,
}


def read(kind, folder, index=0):
    layout = LAYOUTS[kind]
    return layout.read(layout.find(folder)[index])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """The first case of every layout."""
    return {kind: read(kind, make(tmp_path_factory.mktemp(kind))) for kind, make in KINDS.items()}


def heights_of(scan, structure):
    return np.flatnonzero((scan.structures == structure).any(axis=(0, 1)))


def body_bits(scan):
    """Allowed channels of every body, from the lowest upwards."""
    bits = []
    for z in range(scan.image.shape[2]):
        found = np.unique(scan.allowed[:, :, z][scan.structures[:, :, z] == Structure.VERTEBRAL_BODY])
        bits += [int(one) for one in found if not bits or bits[-1] != int(one)]
    return bits


def test_every_layout_has_a_fixture_here():
    assert set(KINDS) == set(LAYOUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_is_at_one_millimetre_in_plane_and_its_arrays_fit(scans, kind):
    scan = scans[kind]
    assert scan.spacing_mm == (2.0, 1.0, 1.0)
    assert scan.image.shape == scan.allowed.shape == scan.structures.shape
    assert (scan.image.dtype, scan.allowed.dtype, scan.structures.dtype) == (np.uint8, np.uint16, np.uint8)
    assert (scan.structures == Structure.VERTEBRAL_BODY).sum() > 5000
    assert (scan.allowed > 0).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "verse"])
def test_left_stays_left_and_bodies_lie_in_front_of_arches(scans, kind):
    scan = scans[kind]
    mark = np.argwhere(scan.image > 240)
    assert mark[:, 0].max() < scan.image.shape[0] / 3
    body, arch = (
        np.argwhere(scan.structures == part)[:, 1].mean()
        for part in (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS)
    )
    assert body > arch + 20


@pytest.mark.parametrize("kind", ["spider", "spine_generic", "verse", "mrspineseg"])
def test_the_likeliest_structure_is_among_the_allowed_ones(scans, kind):
    channel = {
        Structure.POSTERIOR_ELEMENTS: Channel.POSTERIOR_ELEMENTS, Structure.DISC: Channel.DISC,
        Structure.THECAL_SAC: Channel.THECAL_SAC, Structure.CORD: Channel.CORD,
        Structure.SACRUM: Channel.SACRUM,
    }  # fmt: skip
    scan = scans[kind]
    for structure, expected in channel.items():
        assert (scan.allowed[scan.structures == structure] & bit(expected) > 0).all()


def test_spider_counts_from_l5_and_takes_a_vertebra_seen_in_part(scans):
    scan = scans["spider"]
    assert scan.weighting is Weighting.T1
    assert body_bits(scan) == [bit(Channel.LUMBAR_BODY)]
    canal = (scan.structures == Structure.THECAL_SAC)[..., :150]
    assert (scan.allowed[..., :150][canal] == bit(Channel.THECAL_SAC, Channel.CORD)).all()
    # Its five bodies, the highest labelled 105 as partially visible.
    heights = heights_of(scan, Structure.VERTEBRAL_BODY)
    assert heights.max() - heights.min() == pytest.approx(5 * 22 + 4 * 8 - 1, abs=2)


def test_spider_above_the_fifth_vertebra_is_thoracic(tmp_path):
    folder = files.spider(tmp_path, ("3",), ("t2_SPACE",))
    import SimpleITK as sitk

    path = str(folder / "masks/3_t2_SPACE.mha")
    labels = sitk.ReadImage(path)
    array = sitk.GetArrayFromImage(labels)
    array[array == 3] = 6
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(labels)
    sitk.WriteImage(changed, path)
    scan = read("spider", folder)
    assert scan.weighting is Weighting.T2
    assert body_bits(scan) == [bit(Channel.LUMBAR_BODY), bit(Channel.THORACIC_BODY), bit(Channel.LUMBAR_BODY)]


def test_spider_subsets_come_from_its_overview(tmp_path):
    folder = files.spider(tmp_path, ("1", "2"), ("t2",))
    (folder / "overview.csv").write_text("new_file_name,subset\n1_t2,training\n2_t2,validation\n")
    assert [case.subset for case in LAYOUTS["spider"].find(folder)] == ["train", "validation"]


def test_totalspineseg_levels_name_the_bodies_and_the_cord_is_kept_from_the_sac(tmp_path):
    scan = read("spine_generic", files.bids(tmp_path, ("x01",), first=(41, 32, 31, 21, 17)))
    lumbar, thoracic, cervical = (
        bit(one) for one in (Channel.LUMBAR_BODY, Channel.THORACIC_BODY, Channel.CERVICAL_BODY)
    )
    assert body_bits(scan) == [lumbar, thoracic, cervical]
    assert (scan.allowed[scan.structures == Structure.THECAL_SAC] == bit(Channel.THECAL_SAC)).all()
    assert (scan.allowed[scan.structures == Structure.CORD] == bit(Channel.CORD)).all()
    assert (scan.structures == Structure.CORD).sum() > 500


def test_the_axis_has_a_channel_of_its_own_and_the_atlas_no_body(tmp_path):
    scan = read("spine_generic", files.bids(tmp_path, ("x01",), first=(15, 14, 13, 12, 11)))
    assert body_bits(scan) == [bit(Channel.CERVICAL_BODY), bit(Channel.C2)]
    atlas = heights_of(scan, Structure.POSTERIOR_ELEMENTS).max()
    assert heights_of(scan, Structure.VERTEBRAL_BODY).max() < atlas - 15


def test_unlabelled_is_background_between_the_labels_and_open_above_and_below(scans):
    scan = scans["spine_generic"]
    assert scan.allowed[1, -1, 100] == bit(Channel.BACKGROUND)
    assert (scan.allowed[:, :, 0] == ANY).all()
    assert (scan.allowed[:, :, -1] == ANY).all()


def test_masks_of_cord_and_canal_are_laid_over_the_labels(tmp_path):
    folder = files.bids(tmp_path, ("x01",))
    anatomy, _ = files.spine()
    labels = folder / "derivatives/labels/sub-x01/anat"
    stored = nib.load(labels / "sub-x01_T2w_label-spine_dseg.nii.gz")
    without = np.asarray(stored.dataobj).copy()
    without[without == 1] = 2
    nib.save(nib.Nifti1Image(without, stored.affine), labels / "sub-x01_T2w_label-spine_dseg.nii.gz")
    assert not (read("spine_generic", folder).structures == Structure.CORD).any()
    files.write_nifti(
        labels / "sub-x01_T2w_label-SC_seg.nii.gz", (anatomy == Structure.CORD).astype(np.uint8)
    )
    assert (read("spine_generic", folder).structures == Structure.CORD).any()


def test_verse_shapes_become_an_mr_scan_with_canal_discs_and_cord(scans):
    scan = scans["verse"]
    assert {int(v) for v in np.unique(scan.structures)} >= {
        Structure.BACKGROUND, Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS, Structure.DISC,
        Structure.THECAL_SAC,
    }  # fmt: skip
    assert body_bits(scan)[0] == bit(Channel.LUMBAR_BODY)
    canal = np.argwhere(scan.structures == Structure.THECAL_SAC)
    body = np.argwhere(scan.structures == Structure.VERTEBRAL_BODY)
    assert canal[:, 1].mean() < body[:, 1].mean() - 15
    anatomy, _ = files.spine()
    discs = (anatomy == Structure.DISC)[..., files.FOOT_MM + 8 :].sum()
    assert (scan.structures == Structure.DISC).sum() == pytest.approx(discs, rel=0.3)


def test_a_verse_case_is_always_simulated_alike_and_another_is_not(tmp_path, scans):
    folder = files.verse(tmp_path, ct=True)
    again, other = read("verse", folder), read("verse", folder, 1)
    first = scans["verse"]
    assert {first.subject, again.subject, other.subject} == {
        "verse/sub-gl003_dir-sag",
        "verse/sub-verse004_dir-sag",
    }
    same = again if again.subject == first.subject else other
    assert np.array_equal(first.image, same.image)
    assert not np.array_equal(again.image, other.image)


def test_verse_s_own_folders_are_its_subsets_and_a_ct_is_not_needed(tmp_path):
    cases = LAYOUTS["verse"].find(files.verse(tmp_path, ct=False))
    assert {case.patient: case.subset for case in cases} == {"verse004": "train", "gl003": "validation"}
    assert (LAYOUTS["verse"].read(cases[0]).structures == Structure.THECAL_SAC).any()


def test_vertebrae_without_arches_are_refused(tmp_path):
    folder = files.verse(tmp_path)
    for path in folder.glob("*/derivatives/*/*"):
        stored = nib.load(path)
        array = np.asarray(stored.dataobj).copy()
        array[:, :58] = 0
        nib.save(nib.Nifti1Image(array, stored.affine), path)
    with pytest.raises(UnsupportedInputError, match="arches"):
        read("verse", folder)


def test_mrspineseg_bodies_are_parted_at_the_discs_and_the_border_is_open(scans):
    scan = scans["mrspineseg"]
    assert scan.weighting is Weighting.T2
    bits = set(body_bits(scan))
    assert bits == {bit(Channel.LUMBAR_BODY), bit(Channel.LUMBAR_BODY, Channel.POSTERIOR_ELEMENTS)}
    rows = np.argwhere(scan.structures == Structure.VERTEBRAL_BODY)[:, 1]
    arches = np.argwhere(scan.structures == Structure.POSTERIOR_ELEMENTS)[:, 1]
    assert rows.min() > arches.max() - 3


def test_mrspineseg_says_nothing_of_the_canal(scans):
    scan = scans["mrspineseg"]
    open_canal = bit(Channel.BACKGROUND, Channel.THECAL_SAC, Channel.CORD)
    assert (scan.allowed[:, :, 120:130] == open_canal).sum() > 1000


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


def test_one_truth_may_serve_several_sequences(tmp_path):
    folder = files.own_masks(tmp_path, ("p01",))
    for path in (folder / "truth").iterdir():
        path.rename(path.with_name(path.name.replace("_T1w", "")))
    (folder / "studies/p01_T2w.nii.gz").write_bytes((folder / "studies/p01_T1w.nii.gz").read_bytes())
    cases = LAYOUTS["own_masks"].find(folder)
    assert [(case.patient, case.weighting) for case in cases] == [
        ("p01", Weighting.T1),
        ("p01", Weighting.T2),
    ]
    assert all({"lesions", "anatomy", "facts"} <= set(case.files) for case in cases)


def test_an_exam_without_lesions_or_anatomy_is_refused(tmp_path):
    folder = files.own_masks(tmp_path, ("p01",), anatomy_too=False)
    files.write_nifti(folder / "truth/p01_T1w_lesions.nii.gz", np.zeros(files.SHAPE, np.uint8))
    with pytest.raises(UnsupportedInputError, match="neither a lesion nor anatomy"):
        read("own_masks", folder)


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


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_is_refused_and_what_was_expected_is_said(tmp_path, kind):
    with pytest.raises(NoUsableInputError, match="expected") as caught:
        LAYOUTS[kind].find(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", ["spider", "mrspineseg", "own_masks"])
def test_an_image_without_its_mask_is_refused_by_name(tmp_path, kind):
    folder = KINDS[kind](tmp_path)
    for path in [
        *folder.glob("masks/1_t1*"),
        *folder.glob("train/Mask/*1.*"),
        *folder.glob("truth/p01*les*"),
    ]:
        path.unlink()
    with pytest.raises(NoUsableInputError, match=r"(1_t1|Case1|p01).*no mask"):
        LAYOUTS[kind].find(folder)


@pytest.mark.parametrize("kind", ["spider", "spine_generic", "verse", "mrspineseg", "datalist"])
def test_strange_label_values_are_named(tmp_path, kind):
    folder = KINDS[kind](tmp_path)
    case = LAYOUTS[kind].find(folder)[0]
    path = case.files["labels"]
    if kind == "spider":
        array = files.spine()[1].astype(np.int16)
        array[0, 0, 0] = 77
        files.write_mha(path, array)
    else:
        stored = nib.load(path)
        array = np.asarray(stored.dataobj).copy()
        array[0, 0, 0] = 77 if kind != "spine_generic" else 99
        nib.save(nib.Nifti1Image(array, stored.affine), path)
    with pytest.raises(UnsupportedInputError, match=rf"{path.name}.*\[(77|99)\]"):
        LAYOUTS[kind].read(case)


@pytest.mark.parametrize("kind", ["spider", "spine_generic", "mrspineseg", "own_masks", "datalist"])
def test_labels_of_another_grid_are_refused(tmp_path, kind):
    folder = KINDS[kind](tmp_path)
    case = LAYOUTS[kind].find(folder)[0]
    path = case.files["lesions" if kind == "own_masks" else "labels"]
    if kind == "spider":
        files.write_mha(path, files.spine()[1][:, :-1].astype(np.int16))
    else:
        stored = nib.load(path)
        affine = stored.affine.copy()
        affine[2, 3] += 12
        nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), affine), path)
    with pytest.raises(GeometryError, match=path.name):
        LAYOUTS[kind].read(case)


@pytest.mark.parametrize("kind", ["spider", "verse"])
def test_a_damaged_file_is_refused_by_name(tmp_path, kind):
    case = LAYOUTS[kind].find(KINDS[kind](tmp_path))[0]
    path = case.files["labels"]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UnreadableFileError, match=path.name):
        LAYOUTS[kind].read(case)


def test_a_label_without_a_name_of_the_spine_is_refused(tmp_path):
    folder = files.datalist(tmp_path, {**files.LABEL_NAMES, "3": "liver"})
    with pytest.raises(UnsupportedInputError, match="liver"):
        read("datalist", folder)
