"""NIfTI, NRRD and MetaImage in."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinemets.errors import GeometryError, UnreadableFileError, UnsupportedInputError
from spinemets.io import discover
from spinemets.io.files import read_image, read_image_header
from spinemets.volume import Grid

AFFINE = np.array([[4.0, 0, 0, -14], [0, 0, -1.5, 30], [0, -1.25, 0, 20], [0, 0, 0, 1]])


def noise(shape: tuple[int, ...] = (8, 12, 10)) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 3000, shape).astype(np.int16)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = AFFINE, **codes: int) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=codes.get("sform", 1))
    image.set_qform(affine, code=codes.get("qform", 1))
    nibabel.save(image, path)
    return path


def save_itk(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """``array`` in the axis order of the affine, RAS+."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    permutation=st.permutations((0, 1, 2)),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    angles=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    marked=st.tuples(st.integers(0, 7), st.integers(0, 11), st.integers(0, 9)),
    suffix=st.sampled_from((".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")),
)
def test_a_marked_voxel_keeps_its_place_in_the_patient(
    tmp_path_factory, oblique_affine, permutation, signs, angles, marked, suffix
):
    affine = oblique_affine(tuple(permutation), signs, angles)
    array = noise()
    array[marked] = 9000
    save = save_nifti if ".nii" in suffix else save_itk
    path = save(tmp_path_factory.mktemp("files") / f"image{suffix}", array, affine)
    voxels, header = read_image(path)
    assert voxels.shape == array.shape
    found = np.unravel_index(voxels.argmax(), voxels.shape)
    np.testing.assert_allclose(header.grid.to_world(found), (affine @ [*marked, 1])[:3], atol=0.01)
    assert header.cautions == ()
    assert read_image_header(path).grid.is_close(header.grid)


def test_scaled_values_are_unscaled(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", noise())
    image = nibabel.load(path)
    image.header.set_slope_inter(0.5, 10)
    stored = nibabel.Nifti1Image(np.asanyarray(image.dataobj), AFFINE, image.header)
    stored.header.set_slope_inter(0.5, 10)
    nibabel.save(stored, tmp_path / "b.nii.gz")
    raw = nibabel.load(tmp_path / "b.nii.gz")
    voxels, _ = read_image(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(voxels, raw.get_fdata(), rtol=1e-6)


def test_conflicting_qform_and_sform_take_the_sform_with_a_caution(tmp_path):
    image = nibabel.Nifti1Image(noise(), AFFINE)
    moved = AFFINE.copy()
    moved[2, 3] += 5.0
    image.set_sform(AFFINE, code=1)
    image.set_qform(moved, code=1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    header = read_image_header(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(header.grid.affine, AFFINE, atol=1e-4)
    assert header.cautions == (
        "sform and qform disagree by up to 5.0 mm and 0.0 degrees; the sform was used",
    )


def test_a_flip_between_qform_and_sform_is_a_conflict(tmp_path):
    image = nibabel.Nifti1Image(noise(), AFFINE)
    flipped = AFFINE @ np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 14.0
    image.set_sform(AFFINE, code=1)
    image.set_qform(flipped, code=1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert "180.0 degrees" in read_image_header(tmp_path / "a.nii.gz").cautions[0]


def test_the_qform_is_used_where_there_is_no_sform(tmp_path):
    header = read_image_header(save_nifti(tmp_path / "a.nii.gz", noise(), sform=0))
    np.testing.assert_allclose(header.grid.affine, AFFINE, atol=1e-4)
    assert header.cautions == ()


def test_no_orientation_at_all_is_taken_as_ras_with_a_caution(tmp_path):
    header = read_image_header(save_nifti(tmp_path / "a.nii.gz", noise(), sform=0, qform=0))
    np.testing.assert_allclose(np.diag(header.grid.affine), [4.0, 1.25, 1.5, 1.0], atol=1e-5)
    assert header.cautions[0].startswith("no orientation in the header; RAS assumed")


def test_metres_become_millimetres(tmp_path):
    image = nibabel.Nifti1Image(noise(), np.diag([0.004, 0.001, 0.001, 1.0]))
    image.header.set_xyzt_units("meter")
    image.set_sform(image.affine, code=1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert read_image_header(tmp_path / "a.nii.gz").grid.spacing_mm == pytest.approx((4.0, 1.0, 1.0))


def test_units_that_are_not_defined_cost_that_file_only(tmp_path):
    for name in ("a_T1w", "b_T2w"):
        save_nifti(tmp_path / f"{name}.nii", noise())
    odd = bytearray((tmp_path / "a_T1w.nii").read_bytes())
    odd[123] = 4
    (tmp_path / "a_T1w.nii").write_bytes(bytes(odd))
    with pytest.raises(UnreadableFileError, match=r"a_T1w\.nii: .*units 4 are not defined"):
        read_image_header(tmp_path / "a_T1w.nii")
    kept = [entry.kept for listing in discover(tmp_path) for entry in listing.series]
    assert sorted(kept) == [False, True]


def test_a_fourth_axis_of_one_is_dropped(tmp_path):
    voxels, header = read_image(save_nifti(tmp_path / "a.nii.gz", noise((8, 12, 10, 1))))
    assert voxels.shape == header.grid.shape == (8, 12, 10)


def test_four_dimensions_are_refused(tmp_path):
    with pytest.raises(
        UnsupportedInputError, match=r"a\.nii\.gz: holds a 4-D image of 8 x 12 x 10 x 3 voxels"
    ):
        read_image_header(save_nifti(tmp_path / "a.nii.gz", noise((8, 12, 10, 3))))


def test_colour_is_refused(tmp_path):
    colour = np.zeros((8, 12, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(UnsupportedInputError, match="colour"):
        read_image_header(tmp_path / "a.nii.gz")
    vector = SimpleITK.Image([4, 4, 4], SimpleITK.sitkVectorUInt8, 3)
    SimpleITK.WriteImage(vector, str(tmp_path / "a.nrrd"))
    with pytest.raises(UnsupportedInputError, match="3 values per voxel"):
        read_image_header(tmp_path / "a.nrrd")


def test_nan_and_infinity_become_zero_with_a_caution(tmp_path):
    array = noise().astype(np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    voxels, header = read_image(save_nifti(tmp_path / "a.nii.gz", array))
    assert voxels[0, 0, 0] == voxels[1, 1, 1] == 0
    assert header.cautions == ("2 voxels were not finite numbers and were set to 0",)


def test_a_background_of_nan_is_dark_in_a_standardised_image_too(tmp_path):
    array = noise((16, 24, 20)).astype(np.float32)
    array = (array - array.mean()) / array.std()
    array[:, :6] = np.nan
    darkest = float(np.nanmin(array))
    voxels, header = read_image(save_nifti(tmp_path / "a.nii.gz", array))
    assert voxels[:, :6].max() == pytest.approx(darkest, abs=0.01)
    np.testing.assert_array_equal(voxels[:, 6:], array[:, 6:])
    assert header.cautions == (f"1920 voxels were not finite numbers and were set to {voxels[0, 0, 0]:g}",)


@pytest.mark.parametrize("value", [9000, -2000])
def test_padding_beyond_all_other_values_takes_the_lowest_of_them_with_a_caution(tmp_path, value):
    inside = noise((16, 24, 20)).astype(np.int16)
    padded = np.pad(inside, ((0, 0), (6, 6), (6, 6)), constant_values=value)
    voxels, header = read_image(save_nifti(tmp_path / "a.nii.gz", padded))
    np.testing.assert_array_equal(voxels[:, 6:-6, 6:-6], inside)
    assert set(np.unique(voxels[:, :6])) == {inside.min()}
    assert header.cautions == (
        f"{padded.size - inside.size} voxels of the value {value} around the image were taken as padding",
    )


def test_a_constant_image_is_refused(tmp_path):
    with pytest.raises(UnsupportedInputError, match="every voxel is 7"):
        read_image(save_nifti(tmp_path / "a.nii.gz", np.full((8, 12, 10), 7, dtype=np.int16)))


def test_a_label_map_is_refused_whatever_its_name(tmp_path):
    labels = np.zeros((20, 40, 40), dtype=np.uint8)
    labels[5:15, 10:20, 10:30] = 20
    labels[5:15, 22:30, 10:30] = 21
    with pytest.raises(UnsupportedInputError, match=r"looks like a label map \(3 values"):
        read_image(save_nifti(tmp_path / "a.nii.gz", labels))


def test_a_ct_is_refused(tmp_path):
    hounsfield = np.random.default_rng(0).normal(-600, 400, (16, 16, 16)).astype(np.int16)
    with pytest.raises(UnsupportedInputError, match="looks like a CT"):
        read_image(save_nifti(tmp_path / "a.nii.gz", hounsfield))


def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path):
    path = save_nifti(tmp_path / "a.nii", noise(), qform=0)
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)
    path.write_bytes(bytes(content))
    with pytest.raises(GeometryError, match="neither sform nor qform is an affine"):
        read_image_header(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.nrrd"])
def test_truncated_voxels_are_reported_with_the_file(tmp_path, name):
    save = save_nifti if ".nii" in name else save_itk
    path = save(tmp_path / name, np.random.default_rng(1).integers(0, 3000, (20, 20, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UnreadableFileError, match=name):
        read_image(path)


def test_voxels_that_changed_in_a_compressed_file_are_noticed_by_its_checksum(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", noise())
    stored = gzip.decompress(path.read_bytes())
    changed = bytearray(gzip.compress(stored, compresslevel=0))
    # Two bytes before the checksum and the length: a voxel.
    changed[-10] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UnreadableFileError, match=r"a\.nii\.gz: its voxels are damaged"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.nrrd"])
def test_a_file_of_another_kind_is_unreadable(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"this is no image at all" * 40)
    with pytest.raises(UnreadableFileError, match=name):
        read_image_header(path)


def test_a_nrrd_without_orientation_gives_a_caution(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 6 6\nencoding: raw\n\n"
        + noise((6, 6, 6)).astype(np.uint8).tobytes()
    )
    header = read_image_header(tmp_path / "a.nrrd")
    assert header.cautions == ("no orientation in the header; LPS assumed: left and right may be wrong",)


def test_left_stays_left_in_every_format(tmp_path):
    array = noise()
    array[0] += 4000
    for path in (
        save_nifti(tmp_path / "a.nii.gz", array),
        save_itk(tmp_path / "b.mha", array),
        save_itk(tmp_path / "c.nrrd", array),
    ):
        voxels, header = read_image(path)
        brightest = int(voxels.mean(axis=(1, 2)).argmax())
        assert header.grid.to_world([brightest, 0, 0])[0] == pytest.approx(-14.0)
        assert isinstance(header.grid, Grid)
