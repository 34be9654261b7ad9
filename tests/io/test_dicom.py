"""DICOM in: every case is a real file."""

from __future__ import annotations

import io
import logging
import time

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from inputs import only_volume, read
from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError, InputError, UnreadableFileError, UnsupportedInputError
from spinemets.io import discover, read_study
from spinemets.volume import Plane, Weighting


def test_classic_series_is_read_on_its_own_grid(tmp_path, dicom):
    voxels = dicom.noise()
    dicom.classic(tmp_path, voxels)
    volume = only_volume(tmp_path)
    np.testing.assert_array_equal(volume.intensities, voxels)
    np.testing.assert_allclose(volume.grid.affine, dicom.sagittal, atol=1e-5)
    assert volume.series.weighting is Weighting.T2
    assert volume.series.plane is Plane.SAGITTAL
    assert volume.series.name == "series 5 (T2 TSE sag)"
    assert volume.series.cautions == ()
    assert len(volume.series.files) == len(voxels)


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
        RLELossless,
    ],
    ids=lambda uid: uid.keyword,
)
def test_every_transfer_syntax_gives_the_same_voxels(tmp_path, dicom, syntax):
    voxels = dicom.noise((6, 40, 36))
    dicom.classic(tmp_path, voxels, syntax=syntax)
    np.testing.assert_array_equal(only_volume(tmp_path).intensities, voxels)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    permutation=st.permutations((0, 1, 2)),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    angles=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    marked=st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 4)),
)
def test_a_marked_voxel_keeps_its_place_in_the_patient(
    tmp_path_factory, dicom, oblique_affine, permutation, signs, angles, marked
):
    affine = oblique_affine(tuple(permutation), signs, angles)
    voxels = dicom.noise((6, 7, 5)) // 2
    voxels[marked] = 9000
    folder = tmp_path_factory.mktemp("oblique")
    dicom.classic(folder, voxels, affine)
    (listing,) = discover(folder)
    volume = read_study(listing, ReadingConfig()).reference
    found = np.unravel_index(volume.intensities.argmax(), volume.grid.shape)
    expected = affine @ [*marked, 1]
    np.testing.assert_allclose(volume.grid.to_world(found), expected[:3], atol=0.01)


def test_left_stays_left(tmp_path, dicom):
    voxels = dicom.noise() // 10
    # Slices of the sagittal grid run towards the right: the first lies on the patient's left.
    voxels[0] += 5000
    dicom.classic(tmp_path, voxels)
    volume = only_volume(tmp_path)
    brightest = int(volume.intensities.mean(axis=(1, 2)).argmax())
    assert volume.grid.to_world([brightest, 0, 0])[0] == pytest.approx(-14.0)


def test_enhanced_multiframe_agrees_with_highdicom(tmp_path, dicom, oblique_affine):
    affine = oblique_affine((0, 2, 1), (1, -1, -1), (9.0, -6.0))
    path = dicom.enhanced(tmp_path / "enhanced.dcm", dicom.noise(), affine, order=(3, 1, 7, 0, 2, 6, 5, 4))
    volume = only_volume(path)
    other = highdicom.imread(path).get_volume()
    # highdicom counts slices from the other side.
    theirs = np.diag([-1.0, -1.0, 1.0, 1.0]) @ other.affine @ np.diag([-1.0, 1, 1, 1])
    theirs[:3, 3] -= 7 * theirs[:3, 0]
    np.testing.assert_allclose(theirs, volume.grid.affine, atol=1e-3)
    np.testing.assert_array_equal(other.array[::-1], volume.intensities)
    assert volume.series.weighting is Weighting.T2
    assert volume.series.files == (path,)


def test_enhanced_frames_are_rescaled_one_by_one(tmp_path, dicom):
    voxels = dicom.noise()
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        voxels,
        frame_groups=lambda k: {
            "PixelValueTransformationSequence": {
                "RescaleSlope": k + 1.0,
                "RescaleIntercept": 3.0,
                "RescaleType": "US",
            }
        },
    )
    expected = voxels * np.arange(1, 9)[:, None, None] + 3.0
    np.testing.assert_allclose(only_volume(path).intensities, expected)


T1_TIMES = {
    "MREchoSequence": {"EffectiveEchoTime": 10.0},
    "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 600.0},
}


@pytest.mark.parametrize(
    ("tags", "groups", "expected"),
    [
        ({"SpectrallySelectedSuppression": "FAT"}, {}, Weighting.T2_FS),
        ({"SpectrallySelectedSuppression": "FAT_AND_WATER"}, {}, Weighting.T2_FS),
        ({"SpectrallySelectedSuppression": "NONE"}, {}, Weighting.T2),
        ({"SpectrallySelectedSuppression": "WATER"}, {}, Weighting.T2),
        ({}, {"MRModifierSequence": {"SpectrallySelectedSuppression": "FAT"}}, Weighting.T2_FS),
        ({}, {"MRModifierSequence": {"SpectrallySelectedExcitation": "WATER"}}, Weighting.T2_FS),
        (
            {"SpectrallySelectedSuppression": "NONE"},
            {"MRModifierSequence": {"SpectrallySelectedExcitation": "WATER"}},
            Weighting.T2_FS,
        ),
        (
            {"SeriesDescription": "T2 TSE FS sag"},
            {"MRModifierSequence": {"SpectrallySelectedExcitation": "NONE"}},
            Weighting.T2_FS,
        ),
        (
            {"SeriesDescription": "T1 TSE sag Gd", "SpectrallySelectedSuppression": "FAT"},
            T1_TIMES,
            Weighting.T1_FS_GD,
        ),
        (
            {"SeriesDescription": "T1 TSE sag", "SpectrallySelectedSuppression": "FAT"},
            T1_TIMES,
            Weighting.UNKNOWN,
        ),
    ],
)
def test_enhanced_fat_suppression_is_read_where_the_standard_has_it(tmp_path, dicom, tags, groups, expected):
    dicom.enhanced(tmp_path / "multi.dcm", dicom.noise(), frame_groups=lambda _: groups, tags=tags)
    assert only_volume(tmp_path).series.weighting is expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("FREE_PRECESSION", Weighting.T2),
        ("LONGITUDINAL", Weighting.T1),
        ("NONE", Weighting.T1),
        (None, Weighting.T1),
    ],
)
def test_enhanced_steady_state_is_read(tmp_path, dicom, state, expected):
    groups = {
        "MREchoSequence": {"EffectiveEchoTime": 2.5},
        "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 5.0, "FlipAngle": 50.0},
    }
    tags = {
        "SeriesDescription": "3D sag",
        "EchoPulseSequence": "GRADIENT",
        "SteadyStatePulseSequence": state,
    }
    dicom.enhanced(tmp_path / "multi.dcm", dicom.noise(), frame_groups=lambda _: groups, tags=tags)
    assert only_volume(tmp_path).series.weighting is expected


def test_a_transfer_syntax_without_a_decoder_is_named(tmp_path, dicom):
    for path in dicom.classic(tmp_path, dicom.noise((6, 40, 36)), syntax=RLELossless):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.save_as(path)
    with pytest.raises(UnsupportedInputError, match=r"High-Throughput JPEG 2000 .* cannot be decoded here"):
        read(tmp_path)


def test_a_damaged_file_beside_a_series_gives_the_study_a_caution(tmp_path, dicom):
    paths = dicom.classic(tmp_path, dicom.noise(), syntax=DeflatedExplicitVRLittleEndian)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-500])
    study = read(tmp_path)
    (tmp_path / "LICENSE").write_text("words " * 100)
    assert read(tmp_path).cautions == study.cautions
    assert study.reference.grid.shape[0] == 7
    assert study.cautions == (
        "1 unreadable DICOM file(s) beside its own were left out; slices may be missing",
    )


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImagePositionPatient": None}, "no usable ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "no usable ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two perpendicular unit vectors"),
        ({"PixelSpacing": None}, "no usable PixelSpacing"),
        ({"PixelSpacing": [0, 0]}, "no usable PixelSpacing"),
    ],
)
def test_absent_or_wrong_geometry_is_refused_by_name(tmp_path, dicom, tags, message):
    dicom.classic(tmp_path, dicom.noise(), tags=tags)
    with pytest.raises(GeometryError, match=message):
        read(tmp_path)


def test_a_series_without_a_description_is_read(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"SeriesDescription": None, "SeriesNumber": None})
    assert only_volume(tmp_path).series.name == "series (T2)"


def test_files_without_study_and_series_identifiers_are_grouped_by_folder(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"StudyInstanceUID": None, "SeriesInstanceUID": None})
    assert only_volume(tmp_path).grid.shape[0] == 8


def test_rescale_and_signed_pixels_are_honoured(tmp_path, dicom):
    voxels = dicom.noise().astype(np.int16) - 2000
    dicom.classic(
        tmp_path, voxels, tags={"RescaleSlope": 0.5, "RescaleIntercept": 10, "PixelRepresentation": 1}
    )
    np.testing.assert_allclose(only_volume(tmp_path).intensities, voxels * 0.5 + 10)


def test_monochrome1_is_inverted(tmp_path, dicom):
    voxels = dicom.noise()
    dicom.classic(tmp_path, voxels, tags={"PhotometricInterpretation": "MONOCHROME1"})
    expected = int(voxels.max()) + int(voxels.min()) - voxels.astype(np.int64)
    np.testing.assert_allclose(only_volume(tmp_path).intensities, expected)


def test_only_the_images_that_are_monochrome1_are_inverted(tmp_path, dicom):
    voxels = dicom.noise()
    dicom.classic(
        tmp_path, voxels, tags=lambda index: {"PhotometricInterpretation": f"MONOCHROME{1 + (index > 2)}"}
    )
    intensities = only_volume(tmp_path).intensities
    lower = voxels[:3].astype(np.int64)
    np.testing.assert_allclose(intensities[:3], lower.max() + lower.min() - lower)
    np.testing.assert_allclose(intensities[3:], voxels[3:])


@pytest.mark.parametrize("slope", ["abcd", "1\\2"])
def test_a_rescale_slope_that_is_no_number_costs_its_series_alone(tmp_path, dicom, slope):
    dicom.classic(tmp_path / "t1", dicom.noise(), tags={"SeriesDescription": "T1 TSE sag", "EchoTime": 10})
    damaged = dicom.classic(
        tmp_path / "t2", dicom.noise(), tags={"RescaleSlope": "1.25", "RescaleIntercept": 0}
    )
    content = damaged[3].read_bytes()
    damaged[3].write_bytes(content.replace(b"DS\x04\x001.25", b"DS\x04\x00" + slope.encode().ljust(4)))
    study = read(tmp_path)
    assert [volume.series.weighting for volume in study.volumes] == [Weighting.T1]
    assert "its RescaleSlope or RescaleIntercept is not one number" in study.rejected[0][1]


@pytest.mark.parametrize(
    ("photometric", "value"), [("MONOCHROME2", -2000), ("MONOCHROME1", -2000), ("MONOCHROME1", 9000)]
)
def test_what_the_header_calls_padding_is_zero(tmp_path, dicom, photometric, value):
    voxels = dicom.noise().astype(np.int16) + 100
    voxels[:, :, :3] = value
    tags = {"PixelRepresentation": 1, "PhotometricInterpretation": photometric, "RescaleIntercept": 50}
    dicom.classic(tmp_path, voxels, tags=tags | {"PixelPaddingValue": value})
    intensities = only_volume(tmp_path).intensities
    assert not intensities[:, :, :3].any()
    assert (intensities[:, :, 3:] != 0).mean() > 0.99


def test_a_padding_value_among_the_others_is_none(tmp_path, dicom):
    voxels = dicom.noise()
    common = int(np.median(voxels))
    dicom.classic(tmp_path, voxels, tags={"PixelPaddingValue": common})
    np.testing.assert_allclose(only_volume(tmp_path).intensities, voxels)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1], ids=lambda uid: uid.keyword
)
def test_truncated_pixels_are_reported_with_the_file(tmp_path, dicom, syntax):
    path = dicom.classic(tmp_path, dicom.noise((6, 32, 32)), syntax=syntax)[3]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 700])
    with pytest.raises(UnreadableFileError, match=path.name):
        read(tmp_path)


def test_a_truncated_series_gives_way_to_its_twin(tmp_path, dicom, caplog):
    bad = dicom.classic(tmp_path / "a", dicom.noise((9, 16, 16)), tags={"SeriesNumber": 3})[3]
    dicom.classic(tmp_path / "b", dicom.noise((7, 16, 16)), tags={"SeriesNumber": 4})
    bad.write_bytes(bad.read_bytes()[:-200])
    with caplog.at_level(logging.WARNING):
        study = read(tmp_path)
    assert [volume.series.number for volume in study.volumes] == [4]
    assert bad.name in study.rejected[0][1]
    assert "secret-id" not in caplog.text


def test_a_damaged_header_is_listed_as_ignored(tmp_path, dicom):
    paths = dicom.classic(tmp_path, dicom.noise())
    (tmp_path / "broken.dcm").write_bytes(paths[0].read_bytes()[:400])
    (listing,) = discover(tmp_path)
    assert [entry.path.name for entry in listing.ignored] == ["broken.dcm"]


def test_a_file_of_the_series_that_holds_no_image_gives_a_caution(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"SeriesInstanceUID": "1.2.3.4"})
    empty = dicom.new_dataset(tmp_path / "a.dcm", {"SeriesInstanceUID": "1.2.3.4"})
    empty.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    volume = only_volume(tmp_path)
    assert volume.grid.shape[0] == 8
    assert volume.series.cautions == ("1 of the series' files hold no image and were passed over",)


def test_malformed_values_are_neither_warned_of_nor_logged(tmp_path, dicom, caplog):
    for path in dicom.classic(tmp_path, dicom.noise(), tags={"PatientID": "P" * 64}):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1.2.826.0.1.3680043.8.498.1.9", b"1.2.826.0.1.DOE JOHN.8.498.1."))
    with caplog.at_level(logging.DEBUG):
        only_volume(tmp_path)
    assert "DOE JOHN" not in caplog.text
    assert "PPP" not in caplog.text


def test_dicom_without_preamble_is_read(tmp_path, dicom):
    for path in dicom.classic(tmp_path, dicom.noise()):
        # Preamble, DICM, and the group-length element tell how long the file meta is.
        content = path.read_bytes()
        meta_end = 144 + int.from_bytes(content[140:144], "little")
        path.write_bytes(content[meta_end:])
    assert only_volume(tmp_path).grid.shape[0] == 8


def test_a_blank_series_is_refused(tmp_path, dicom):
    dicom.classic(tmp_path, np.zeros((8, 8, 8), dtype=np.uint16))
    with pytest.raises(UnsupportedInputError, match="same value"):
        read(tmp_path)


def test_no_error_escapes_the_tree_on_random_damage(tmp_path, dicom):
    path = dicom.classic(tmp_path, dicom.noise((6, 8, 8)))[0]
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(132, len(content), 12):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            for listing in discover(tmp_path):
                read_study(listing, ReadingConfig())
        except InputError:
            continue


def test_a_thousand_files_are_listed_in_seconds(tmp_path, dicom):
    (template,) = dicom.classic(tmp_path, dicom.noise((1, 64, 64)))
    dataset = pydicom.dcmread(io.BytesIO(template.read_bytes()))
    template.unlink()
    count = 250
    for index in range(count):
        dataset.SOPInstanceUID = f"1.2.3.{index}"
        dataset.SeriesInstanceUID = f"1.2.4.{index // 25}"
        dataset.ImagePositionPatient = [float(-4 * (index % 25)), 0.0, 0.0]
        dataset.save_as(tmp_path / f"{index}.dcm")
    start_s = time.process_time()
    (listing,) = discover(tmp_path)
    elapsed_s = time.process_time() - start_s
    assert sum(entry.slices for entry in listing.series) == count
    assert elapsed_s * 1000 / count < 10.0
