"""What each data set says of a voxel, and what it leaves open, becomes the set of channels it may be."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import GeometryError, UnreadableFileError
from spinemets.training.scans import ANY, bit, read_spider
from spinemets.volume import Weighting


@pytest.fixture(scope="module")
def spider(tiny):
    return tiny.spider()


@pytest.fixture(scope="module")
def sct(tiny):
    return tiny.sct()


def body_at(scan, number):
    """Allowed channels at the centre of a body, counted upwards from L5."""
    return scan.allowed[7, 63, int(44 + 8 + number * 30 + 11)]


def test_bits_are_a_set():
    assert bit(Channel.BACKGROUND) == 1
    assert bit(Channel.DISC, Channel.CORD) == 2**Channel.DISC + 2**Channel.CORD
    assert bit(*Channel) == ANY


def test_spider_is_brought_to_one_millimetre_in_plane(spider):
    assert spider.spacing_mm == (2.0, 1.0, 1.0)
    assert spider.image.shape == spider.allowed.shape == spider.structures.shape == (14, 96, 240)
    assert spider.image.dtype == np.uint8
    assert spider.weighting is Weighting.T2


def test_left_stays_left_in_a_file_that_runs_from_right_to_left(spider):
    where = np.argwhere(spider.image > 240)
    assert (where[:, 0] == 1).all()


def test_spider_bodies_are_parted_from_arches_at_the_canal(spider):
    assert spider.structures[7, 63, 63] == Structure.VERTEBRAL_BODY
    assert spider.structures[7, 22, 60] == Structure.POSTERIOR_ELEMENTS
    rows = np.nonzero(spider.structures == Structure.VERTEBRAL_BODY)[1]
    assert rows.min() >= 44
    bodies = spider.allowed[spider.structures == Structure.POSTERIOR_ELEMENTS]
    assert (bodies[bodies != ANY] == bit(Channel.POSTERIOR_ELEMENTS)).all()


def test_the_five_lowest_bodies_are_lumbar_and_the_next_is_thoracic(spider):
    assert [body_at(spider, number) for number in range(5)] == [bit(Channel.LUMBAR_BODY)] * 5
    assert body_at(spider, 5) == bit(Channel.THORACIC_BODY)


def with_more_bone(tiny, folder, box):
    """The SPIDER scan with a box of its labels made vertebra."""
    root = tiny.folder / "spider"
    file = nib.load(root / "sub-tiny_dseg.nii.gz")
    labels = np.asarray(file.dataobj).copy()
    labels[box] = 1
    nib.save(nib.Nifti1Image(labels, file.affine), folder / "dseg.nii.gz")
    return read_spider(root / "sub-tiny_T2w.nii.gz", folder / "dseg.nii.gz", "changed")


def test_bodies_whose_labels_touch_are_counted_one_by_one(tiny, tmp_path):
    # A bridge in front of the disc between the fifth and the sixth body.
    scan = with_more_bone(tiny, tmp_path, np.s_[6:8, 95:99, 232:248])
    assert body_at(scan, 4) == bit(Channel.LUMBAR_BODY)
    assert body_at(scan, 5) == bit(Channel.THORACIC_BODY)


def test_a_scrap_above_the_highest_body_is_thoracic(tiny, tmp_path):
    scan = with_more_bone(tiny, tmp_path, np.s_[5:9, 61:97, 289:299])
    above = scan.allowed[(scan.structures == Structure.VERTEBRAL_BODY) & (np.arange(240) > 230)]
    assert len(above)
    assert set(np.unique(above)) <= {bit(Channel.THORACIC_BODY), ANY}


def test_the_spider_canal_may_be_sac_or_cord(spider):
    canal = spider.allowed[7, 38, 60:200]
    assert (canal == bit(Channel.THECAL_SAC, Channel.CORD)).all()


def test_spider_discs_are_discs(spider):
    assert (spider.allowed[spider.structures == Structure.DISC] == bit(Channel.DISC)).all()


def test_a_block_below_the_last_disc_stands_in_for_s1_and_its_surroundings_are_open(spider):
    below = spider.allowed[7, 63, 20:42]
    assert (below == bit(Channel.SACRUM)).mean() > 0.8
    assert spider.structures[7, 63, 30] == Structure.SACRUM
    beside = spider.allowed[7, 90, 30]
    assert beside & bit(Channel.SACRUM)
    assert beside & bit(Channel.BACKGROUND)
    assert beside != ANY


def test_nothing_is_known_above_the_highest_spider_vertebra(spider):
    top = 44 + 6 * 30 + 1
    assert (spider.allowed[:, :, top + 2 :] == ANY).all()
    assert spider.allowed[7, 90, 150] == bit(Channel.BACKGROUND)


def test_the_likeliest_structure_is_among_the_allowed_ones(spider, sct):
    channel = {
        Structure.POSTERIOR_ELEMENTS: Channel.POSTERIOR_ELEMENTS, Structure.DISC: Channel.DISC,
        Structure.THECAL_SAC: Channel.THECAL_SAC, Structure.CORD: Channel.CORD,
        Structure.SACRUM: Channel.SACRUM,
    }  # fmt: skip
    for scan in (spider, sct):
        for structure, expected in channel.items():
            assert (scan.allowed[scan.structures == structure] & bit(expected) > 0).all()


def test_sct_knows_the_cord_and_says_what_is_not_cord(sct):
    assert sct.allowed[20, 90, 30] == bit(Channel.CORD)
    assert sct.structures[20, 90, 30] == Structure.CORD
    assert sct.allowed[20, 130, 30] == ANY & ~bit(Channel.CORD)


def test_sct_fluid_is_the_bright_ring_around_the_cord(sct):
    assert sct.allowed[20, 96, 30] == bit(Channel.THECAL_SAC)
    assert sct.structures[20, 96, 30] == Structure.THECAL_SAC
    assert sct.structures[20, 102, 30] == Structure.BACKGROUND


def test_sct_says_nothing_beyond_the_slices_whose_cord_is_drawn(sct):
    assert (sct.allowed[20, 130, :8] == ANY).all()
    assert (sct.allowed[20, 130, 50:] == ANY).all()


def test_sct_voxels_far_from_the_cord_are_background(sct):
    assert sct.allowed[20, 178, 30] == bit(Channel.BACKGROUND)


def test_a_file_that_is_no_image_is_refused(tmp_path, tiny):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    with pytest.raises(UnreadableFileError, match=r"broken\.nii\.gz"):
        read_spider(broken, tiny.folder / "spider/sub-tiny_dseg.nii.gz", "x")
    with pytest.raises(UnreadableFileError, match="absent"):
        read_spider(tmp_path / "absent.nii.gz", broken, "x")


def test_labels_that_lie_elsewhere_are_refused(tiny, tmp_path):
    root = tiny.folder / "spider"
    file = nib.load(root / "sub-tiny_dseg.nii.gz")
    affine = file.affine.copy()
    affine[2, 3] += 40
    nib.save(nib.Nifti1Image(np.asarray(file.dataobj), affine), tmp_path / "moved.nii.gz")
    with pytest.raises(GeometryError, match=r"moved\.nii\.gz: does not lie where sub-tiny_T2w"):
        read_spider(root / "sub-tiny_T2w.nii.gz", tmp_path / "moved.nii.gz", "x")


def test_signals_beyond_a_byte_are_scaled(spider, tiny, tmp_path):
    root = tiny.folder / "spider"
    file = nib.load(root / "sub-tiny_T2w.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(file.dataobj).astype(np.int16) * 6, file.affine), tmp_path / "t.nii")
    scaled = read_spider(tmp_path / "t.nii", root / "sub-tiny_dseg.nii.gz", "x")
    assert np.corrcoef(scaled.image.ravel(), spider.image.ravel())[0, 1] > 0.95


def test_a_file_that_is_cut_short_is_named(tiny, tmp_path):
    whole = (tiny.folder / "spider/sub-tiny_T2w.nii.gz").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFileError, match=r"short\.nii\.gz"):
        read_spider(tmp_path / "short.nii.gz", tiny.folder / "spider/sub-tiny_dseg.nii.gz", "x")
