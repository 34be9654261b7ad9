"""Every public layout is read as it is published: levels, parts, left and right, what stays open."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

import dataset_files as files
from dataset_files import KINDS, body_bits, read
from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import (
    GeometryError,
    NoUsableInputError,
    UnreadableFileError,
    UnsupportedInputError,
)
from spinemets.training.datasets import LAYOUTS
from spinemets.training.scans import ANY, bit
from spinemets.volume import Weighting


def heights_of(scan, structure):
    return np.flatnonzero((scan.structures == structure).any(axis=(0, 1)))


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


def test_a_row_of_the_overview_may_say_nothing(tmp_path):
    folder = files.spider(tmp_path, ("1", "2"), ("t2",))
    (folder / "overview.csv").write_text("new_file_name,subset\n1_t2\n2_t2,validation\n")
    assert [case.subset for case in LAYOUTS["spider"].find(folder)] == [None, "validation"]


@pytest.mark.parametrize(
    "table", [b"new_file_name,subset\n1_t2,\xe4\n", b"new_file_name;subset\n2_t2;validation\n", b"a,b\n1,2\n"]
)
def test_an_overview_that_does_not_tell_subsets_is_refused_by_name(tmp_path, table):
    folder = files.spider(tmp_path, ("1", "2"), ("t2",))
    (folder / "overview.csv").write_bytes(table)
    with pytest.raises(UnreadableFileError, match=r"overview\.csv.*new_file_name and subset"):
        LAYOUTS["spider"].find(folder)


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


def test_axial_images_that_spine_generic_labels_too_are_left_out(tmp_path):
    folder = files.bids(tmp_path, ("x01",))
    anatomy, number = files.spine()
    files.write_nifti(folder / "sub-x01/anat/sub-x01_T2star.nii.gz", files.image(anatomy))
    files.write_nifti(
        folder / "derivatives/labels/sub-x01/anat/sub-x01_T2star_label-spine_dseg.nii.gz",
        files.totalspineseg(anatomy, number),
    )
    assert [case.name for case in LAYOUTS["spine_generic"].find(folder)] == ["sub-x01_T2w"]


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
