"""DICOM in: every case is a real file."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path

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

from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError, InputError, UnreadableFileError, UnsupportedInputError
from spinemets.io import Rejection, discover, read_study
from spinemets.volume import Plane, Study, Volume, Weighting

ALLOW_MISSING = ReadingConfig(allow_missing=True)


def read(path: Path, config: ReadingConfig | None = None) -> Study:
    (listing,) = discover(path)
    return read_study(listing, config or ReadingConfig())


def only_volume(path: Path, config: ReadingConfig | None = None) -> Volume:
    study = read(path, config)
    assert len(study.volumes) == 1
    return study.reference


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


def test_enhanced_echoes_become_two_series(tmp_path, dicom):
    voxels = np.concatenate([dicom.noise((6, 8, 8), 1), dicom.noise((6, 8, 8), 2)])
    order = tuple(range(6)) * 2
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        voxels,
        order=order,
        tags={"SeriesDescription": "dual echo"},
        frame_groups=lambda k: {"MREchoSequence": {"EffectiveEchoTime": 15.0 if k < 6 else 95.0}},
    )
    study = read(path)
    assert {volume.series.weighting for volume in study.volumes} == {Weighting.T2, Weighting.PD}
    assert [volume.series.description for volume in study.volumes] == [
        "dual echo [TE 95 ms]",
        "dual echo [TE 15 ms]",
    ]


def test_dixon_images_in_one_series_are_parted_by_image_type(tmp_path, dicom):
    voxels = dicom.noise((6, 8, 8))
    for letter in "WF":
        dicom.classic(
            tmp_path / letter,
            voxels,
            tags={"ImageType": ["DERIVED", "PRIMARY", "DIXON", letter], "SeriesInstanceUID": "1.2.3.4"},
        )
    study = read(tmp_path)
    assert [v.series.weighting for v in study.volumes] == [Weighting.DIXON_WATER, Weighting.DIXON_FAT]


@pytest.mark.parametrize("order", [("W", "F", "FF"), ("FF", "F", "W")])
def test_what_can_be_used_of_a_mixed_series_is_used_whichever_file_comes_first(tmp_path, dicom, order):
    for place, letters in enumerate(order):
        dicom.classic(
            tmp_path / str(place),
            dicom.noise((6, 8, 8)),
            tags={"ImageType": ["DERIVED", "PRIMARY", "DIXON", letters], "SeriesInstanceUID": "1.2.3.4"},
        )
    (listing,) = discover(tmp_path)
    assert sorted((entry.series.weighting.value, entry.kept) for entry in listing.series)[:2] == [
        ("Dixon-fat", True),
        ("Dixon-water", True),
    ]
    (refused,) = (entry for entry in listing.series if not entry.kept)
    assert (refused.slices, refused.reason) == (6, "a fat-fraction map, computed from another series")
    weightings = [volume.series.weighting for volume in read(tmp_path).volumes]
    assert weightings == [Weighting.DIXON_WATER, Weighting.DIXON_FAT]


@pytest.mark.parametrize("uid", [None, "1.2.3.4"], ids=["no series UID", "one for all"])
def test_two_sequences_that_no_uid_tells_apart_are_read_as_two(tmp_path, dicom, uid):
    t1, t2 = dicom.noise((6, 10, 10), 1), dicom.noise((6, 8, 8), 2)
    dicom.classic(tmp_path, t2, tags={"SeriesInstanceUID": uid})
    tags = {"SeriesDescription": "T1 TSE sag", "SeriesNumber": 6, "EchoTime": 10, "RepetitionTime": 500}
    for path in dicom.classic(tmp_path / "more", t1, tags={**tags, "SeriesInstanceUID": uid}):
        path.rename(tmp_path / f"t1_{path.name}")
    study = read(tmp_path)
    assert [volume.series.description for volume in study.volumes] == ["T2 TSE sag", "T1 TSE sag"]
    for volume, voxels in zip(study.volumes, (t2, t1), strict=True):
        np.testing.assert_array_equal(volume.intensities, voxels)


@pytest.mark.parametrize("keyword", ["TemporalPositionIdentifier", "AcquisitionNumber"])
def test_repeated_volumes_in_one_series_are_parted(tmp_path, dicom, keyword):
    for number in (1, 2):
        dicom.classic(
            tmp_path / str(number), dicom.noise(), tags={keyword: number, "SeriesInstanceUID": "1.2.3.4"}
        )
    (listing,) = discover(tmp_path)
    assert [entry.slices for entry in listing.series] == [8, 8]
    assert [entry.rejection for entry in listing.series] == [None, Rejection.DUPLICATE]


def test_two_images_at_one_position_that_nothing_tells_apart_are_refused(tmp_path, dicom):
    for copy in "ab":
        dicom.classic(tmp_path / copy, dicom.noise(), tags={"SeriesInstanceUID": "1.2.3.4"})
    (listing,) = discover(tmp_path)
    assert listing.series[0].rejection is Rejection.GEOMETRY
    with pytest.raises(
        GeometryError, match=r"series 5 \(T2 TSE sag\): 8 images lie at the position of another"
    ):
        read_study(listing, ReadingConfig())


def test_the_same_file_twice_is_read_once_with_a_caution(tmp_path, dicom):
    paths = dicom.classic(tmp_path / "a", dicom.noise())
    for path in paths[:2]:
        (tmp_path / f"copy-{path.name}").write_bytes(path.read_bytes())
    volume = only_volume(tmp_path)
    assert volume.grid.shape[0] == 8
    assert volume.series.cautions == ("2 duplicate images dropped",)


def test_equal_identifiers_at_different_positions_are_different_images(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"SOPInstanceUID": "1.2.3.4.5"})
    volume = only_volume(tmp_path)
    assert volume.grid.shape[0] == 8
    assert "share one SOPInstanceUID" in volume.series.cautions[0]


def test_a_missing_slice_is_refused_with_the_gap_named(tmp_path, dicom):
    affine = np.array(dicom.sagittal)
    affine[0] = (4.4, 0, 0, -14.0)
    dicom.classic(tmp_path, dicom.noise((15, 8, 8)), affine, skip=(7,))
    (listing,) = discover(tmp_path)
    assert listing.series[0].rejection is Rejection.MISSING_SLICES
    expected = (
        r"series 5 \(T2 TSE sag\): 1 of 15 slices is missing between 12\.4 mm and 21\.2 mm; "
        "pass --allow-missing to interpolate it"
    )
    with pytest.raises(GeometryError, match=expected):
        read_study(listing, ReadingConfig())


def test_a_missing_slice_is_interpolated_on_request(tmp_path, dicom):
    voxels = dicom.noise((9, 8, 8))
    dicom.classic(tmp_path, voxels, skip=(3, 6))
    volume = only_volume(tmp_path, ALLOW_MISSING)
    expected = voxels.astype(np.float64)
    expected[3] = (expected[2] + expected[4]) / 2
    expected[6] = (expected[5] + expected[7]) / 2
    np.testing.assert_allclose(volume.intensities, expected, rtol=1e-6)
    np.testing.assert_allclose(volume.grid.affine, dicom.sagittal, atol=1e-5)
    assert volume.series.cautions[0].startswith(
        "2 of 9 slices are missing between -6.0 mm and 2.0 mm, between"
    )


def test_two_slices_missing_in_a_row_are_counted_and_interpolated_by_distance(tmp_path, dicom):
    voxels = np.zeros((9, 8, 8), dtype=np.uint16) + np.arange(9, dtype=np.uint16)[:, None, None] * 30
    dicom.classic(tmp_path, voxels, skip=(3, 4))
    (listing,) = discover(tmp_path)
    assert "2 of 9 slices are missing between -6.0 mm and 6.0 mm" in listing.series[0].reason
    np.testing.assert_allclose(only_volume(tmp_path, ALLOW_MISSING).intensities, voxels, atol=1e-4)


def test_a_study_that_has_another_series_goes_on_without_the_one_with_a_gap(tmp_path, dicom):
    dicom.classic(tmp_path / "t2", dicom.noise(), skip=(3,))
    dicom.classic(
        tmp_path / "t1",
        dicom.noise(),
        tags={"SeriesDescription": "T1 sag", "EchoTime": 10, "RepetitionTime": 600},
    )
    study = read(tmp_path)
    assert [volume.series.weighting for volume in study.volumes] == [Weighting.T1]
    ((name, reason),) = study.rejected
    assert name == "series 5 (T2 TSE sag)"
    assert reason.startswith("1 of 8 slices is missing")


def jittered(amount_mm: float):
    """Every other slice shifted along the slice axis."""

    def tags(index: int) -> dict[str, object]:
        x = -14.0 + 4.0 * index + amount_mm * (-1) ** index
        return {"ImagePositionPatient": [-x, -20.0, 30.0]}

    return tags


def test_jitter_of_five_percent_is_tolerated(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags=jittered(0.15))
    assert only_volume(tmp_path).grid.spacing_mm[0] == pytest.approx(4.0, abs=0.1)


def test_unequal_spacing_is_refused(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags=jittered(0.6))
    with pytest.raises(GeometryError, match=r"unequally spaced, 2\.80 to 5\.20 mm apart"):
        read(tmp_path, ALLOW_MISSING)


def test_slices_stacked_askew_are_refused(tmp_path, dicom):
    dicom.classic(
        tmp_path, dicom.noise(), tags=lambda k: {"ImagePositionPatient": [14.0 - 4.0 * k, -20.0 + k, 30.0]}
    )
    with pytest.raises(GeometryError, match=r"stacked askew by 14\.0 degrees"):
        read(tmp_path)


def test_slices_stacked_far_askew_are_refused_as_one_stack(tmp_path, dicom):
    dicom.classic(
        tmp_path,
        dicom.noise(),
        tags=lambda k: {"ImagePositionPatient": [14.0 - 4.0 * k, -20.0 + 4 * k, 30.0]},
    )
    with pytest.raises(GeometryError, match=r"stacked askew by 45\.0 degrees"):
        read(tmp_path)


def test_slices_twice_as_far_apart_as_stated_give_a_caution(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"SpacingBetweenSlices": 2.0, "SliceThickness": 2.0})
    assert only_volume(tmp_path).series.cautions == (
        "slices lie 4.0 mm apart where the header says 2.0 mm: every other one may be missing",
    )


def test_a_stated_distance_below_the_thickness_is_not_believed(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"SpacingBetweenSlices": 1.0, "SliceThickness": 3.5})
    assert only_volume(tmp_path).series.cautions == ()


def test_frames_without_places_are_refused(tmp_path, dicom):
    path = tmp_path / "frames.dcm"
    oriented = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [1, 1]}
    dataset = dicom.new_dataset(path, {"NumberOfFrames": 8, "Rows": 24, "Columns": 20, **oriented})
    dataset.PixelData = dicom.noise().tobytes()
    dicom.save(dataset, path)
    with pytest.raises(GeometryError, match="no usable ImagePositionPatient"):
        read(path)


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


def test_slices_of_several_directions_are_parted(tmp_path, dicom):
    dicom.classic(tmp_path / "sag", dicom.noise(), tags={"SeriesInstanceUID": "1.2.3.4"})
    axial = np.array([[0, 0, 1.0, 0], [0, -1.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1.0]])
    dicom.classic(tmp_path / "ax", dicom.noise((6, 9, 9)), axial, tags={"SeriesInstanceUID": "1.2.3.4"})
    (listing,) = discover(tmp_path)
    assert [(entry.series.plane, entry.rejection) for entry in listing.series] == [
        (Plane.SAGITTAL, None),
        (Plane.AXIAL, Rejection.PLANE),
    ]


def below(affine: np.ndarray, distance_mm: float, aside_mm: float = 0.0) -> np.ndarray:
    """The same grid further down, and shifted to the right."""
    moved = np.array(affine)
    moved[0, 3] += aside_mm
    moved[2, 3] -= distance_mm
    return moved


@pytest.mark.parametrize("aside_mm", [0.0, 0.005, 0.5, 2.0, 9.0])
def test_two_stations_in_one_series_are_parted_by_place(tmp_path, dicom, aside_mm):
    upper, lower = dicom.noise(seed=1), dicom.noise(seed=2)
    dicom.classic(
        tmp_path / "b",
        lower,
        below(dicom.sagittal, 250.0, aside_mm),
        tags={"SeriesInstanceUID": "1.2.3.4"},
    )
    dicom.classic(tmp_path / "a", upper, tags={"SeriesInstanceUID": "1.2.3.4"})
    (listing,) = discover(tmp_path)
    assert {entry.series.description: entry.rejection for entry in listing.series} == {
        "T2 TSE sag [stack 1]": None,
        "T2 TSE sag [stack 2]": Rejection.STATION,
    }
    volume = read_study(listing, ReadingConfig()).reference
    np.testing.assert_array_equal(volume.intensities, upper)
    np.testing.assert_allclose(volume.grid.affine, dicom.sagittal, atol=1e-5)


def test_echoes_of_two_stations_are_parted_by_both(tmp_path, dicom):
    for place, distance_mm in (("a", 0.0), ("b", 250.0)):
        for echo_ms in (15, 95):
            dicom.classic(
                tmp_path / f"{place}{echo_ms}",
                dicom.noise(),
                below(dicom.sagittal, distance_mm),
                tags={"SeriesInstanceUID": "1.2.3.4", "EchoTime": echo_ms},
            )
    (listing,) = discover(tmp_path)
    assert [(entry.series.description, entry.rejection) for entry in listing.series] == [
        ("T2 TSE sag [stack 1, TE 95 ms]", None),
        ("T2 TSE sag [stack 1, TE 15 ms]", None),
        ("T2 TSE sag [stack 2, TE 95 ms]", Rejection.STATION),
        ("T2 TSE sag [stack 2, TE 15 ms]", Rejection.STATION),
    ]


def test_frames_of_two_named_stacks_are_parted_where_their_places_do_not_tell(tmp_path, dicom):
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        dicom.noise((23, 24, 20)),
        order=(*range(8), *range(15, 23)),
        frame_groups=lambda k: {"FrameContentSequence": {"StackID": "1" if k < 8 else "2"}},
    )
    (listing,) = discover(path)
    assert [(entry.slices, entry.kept) for entry in listing.series] == [(8, True), (8, False)]


def test_a_stack_whose_frames_each_name_a_stack_of_their_own_is_one(tmp_path, dicom):
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        dicom.noise(),
        frame_groups=lambda k: {"FrameContentSequence": {"StackID": str(k)}},
    )
    assert only_volume(path).grid.shape[0] == 8


def test_slices_that_each_name_a_stack_for_their_two_echoes_are_parted_by_echo(tmp_path, dicom):
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        dicom.noise((9, 8, 8)),
        order=tuple(range(9)) * 2,
        frame_groups=lambda k: {
            "FrameContentSequence": {"StackID": str(k % 9)},
            "MREchoSequence": {"EffectiveEchoTime": 15.0 if k < 9 else 95.0},
        },
    )
    (listing,) = discover(path)
    assert [(entry.slices, entry.series.description) for entry in listing.series] == [
        (9, "T2 TSE sag [TE 95 ms]"),
        (9, "T2 TSE sag [TE 15 ms]"),
    ]


@pytest.mark.parametrize("stack_of", [lambda k: k // 3, lambda k: k % 2], ids=["in a row", "interleaved"])
def test_named_stacks_that_continue_each_other_are_one_volume(tmp_path, dicom, stack_of):
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        dicom.noise((9, 8, 8)),
        frame_groups=lambda k: {"FrameContentSequence": {"StackID": str(stack_of(k))}},
    )
    assert only_volume(path).grid.shape[0] == 9


@pytest.mark.parametrize("order", [(*range(8), *range(8)), (*range(0, 32, 4), *range(15, 47, 4))])
def test_named_stacks_that_overlap_are_parted(tmp_path, dicom, order):
    path = dicom.enhanced(
        tmp_path / "enhanced.dcm",
        dicom.noise((max(order) + 1, 8, 8)),
        np.array(dicom.sagittal) @ np.diag([0.25, 1.0, 1.0, 1.0]),
        order=order,
        frame_groups=lambda k: {"FrameContentSequence": {"StackID": "1" if k < 8 else "2"}},
    )
    (listing,) = discover(path)
    assert [entry.slices for entry in listing.series] == [8, 8]


def test_a_stray_image_costs_two_stations_nothing(tmp_path, dicom):
    for folder, count, distance_mm in (("a", 8, 0.0), ("b", 8, 250.0), ("c", 1, 600.0)):
        dicom.classic(
            tmp_path / folder,
            dicom.noise((count, 24, 20)),
            below(dicom.sagittal, distance_mm),
            tags={"SeriesInstanceUID": "1.2.3.4"},
        )
    (listing,) = discover(tmp_path)
    assert {entry.series.description: (entry.slices, entry.rejection) for entry in listing.series} == {
        "T2 TSE sag [stack 1]": (8, None),
        "T2 TSE sag [stack 2]": (8, Rejection.STATION),
        "T2 TSE sag [stack 3]": (1, Rejection.TOO_FEW_SLICES),
    }


def test_two_echoes_of_a_stack_far_askew_are_not_taken_for_stacks(tmp_path, dicom):
    for echo_ms in (15, 95):
        dicom.classic(
            tmp_path / str(echo_ms),
            dicom.noise(),
            tags=lambda k, echo_ms=echo_ms: {
                "SeriesInstanceUID": "1.2.3.4",
                "EchoTime": echo_ms,
                "ImagePositionPatient": [14.0 - 4.0 * k, -20.0 + 4 * k, 30.0],
            },
        )
    (listing,) = discover(tmp_path)
    assert [entry.slices for entry in listing.series] == [8, 8]


@pytest.mark.parametrize("shear_deg", [0.0, 0.9])
def test_an_oblique_slightly_sheared_stack_of_many_slices_is_one(tmp_path, dicom, oblique_affine, shear_deg):
    affine = oblique_affine((0, 2, 1), (1, -1, -1), (25.0, -12.0))
    downwards = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    affine[:3, 0] += 4.0 * np.tan(np.radians(shear_deg)) * downwards
    dicom.classic(tmp_path, dicom.noise((60, 6, 5)), affine)
    volume = only_volume(tmp_path)
    assert (volume.grid.shape[0], volume.series.description) == (60, "T2 TSE sag")


def test_an_axial_stack_is_used_when_alone_with_a_caution(tmp_path, dicom):
    axial = np.array([[0, 0, 1.0, 0], [0, -1.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1.0]])
    dicom.classic(tmp_path, dicom.noise((9, 12, 12)), axial)
    study = read(tmp_path)
    assert study.reference.series.plane is Plane.AXIAL
    assert "no sagittal series" in study.cautions[0]


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
