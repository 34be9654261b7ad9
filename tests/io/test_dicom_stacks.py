"""Which images of a DICOM series belong to one volume: directions, stations, echoes, named stacks."""

from __future__ import annotations

import numpy as np
import pytest

from inputs import only_volume
from spinemets.config import ReadingConfig
from spinemets.io import Rejection, discover, read_study
from spinemets.volume import Plane


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
