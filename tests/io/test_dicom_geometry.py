"""Slices of DICOM series in space: gaps, unequal and oblique stacks, stations."""

from __future__ import annotations

import numpy as np
import pytest

from inputs import only_volume, read
from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError
from spinemets.io import Rejection, discover, read_study
from spinemets.volume import Plane, Weighting

ALLOW_MISSING = ReadingConfig(allow_missing=True)


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


@pytest.mark.parametrize(
    ("skip", "words"),
    [
        ((3,), "and was interpolated from its neighbours"),
        ((3, 4), "and were interpolated from their neighbours"),
    ],
)
def test_what_was_interpolated_is_said_of_one_slice_and_of_several(tmp_path, dicom, skip, words):
    dicom.classic(tmp_path, dicom.noise((9, 8, 8)), skip=skip)
    assert words in only_volume(tmp_path, ALLOW_MISSING).series.cautions[0]


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


def test_an_axial_stack_is_used_when_alone_with_a_caution(tmp_path, dicom):
    axial = np.array([[0, 0, 1.0, 0], [0, -1.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1.0]])
    dicom.classic(tmp_path, dicom.noise((9, 12, 12)), axial)
    study = read(tmp_path)
    assert study.reference.series.plane is Plane.AXIAL
    assert "no sagittal series" in study.cautions[0]
