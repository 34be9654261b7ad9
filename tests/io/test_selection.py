"""Which series of a study are used, in which order, and why the others are not."""

from __future__ import annotations

import numpy as np
import pytest

from inputs import T1_TAGS, verdicts
from spinemets.config import ReadingConfig
from spinemets.io import (
    Rejection,
    discover,
    read_study,
)
from spinemets.volume import Plane, Weighting

AXIAL = np.array([[0, 0, 1.0, 0], [0, -1.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1.0]])
CORONAL = np.array([[0, 0, 1.0, 0], [4.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
STIR_TAGS = {"SeriesDescription": "STIR sag", "InversionTime": 150, "SeriesNumber": 7}


def test_too_few_slices_follows_the_configuration(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise((4, 8, 8)))
    (listing,) = discover(tmp_path)
    assert listing.series[0].reason == "4 slices; at least 5 are needed"
    (listing,) = discover(tmp_path, ReadingConfig(minimum_slices=3))
    assert listing.series[0].kept


def test_sequences_are_ordered_t2_t1_stir(tmp_path, dicom):
    dicom.classic(tmp_path / "a", dicom.noise(), tags=STIR_TAGS)
    dicom.classic(tmp_path / "b", dicom.noise(), tags=T1_TAGS)
    dicom.classic(tmp_path / "c", dicom.noise())
    (listing,) = discover(tmp_path)
    study = read_study(listing, ReadingConfig())
    assert [v.series.weighting for v in study.volumes] == [Weighting.T2, Weighting.T1, Weighting.T2_FS]
    limited = read_study(listing, ReadingConfig(maximum_series=2))
    assert [v.series.weighting for v in limited.volumes] == [Weighting.T2, Weighting.T1]
    assert limited.rejected == (
        ("series 7 (STIR sag)", "at most 2 series are used, and better ones are there"),
    )


def test_of_two_series_of_one_weighting_the_one_with_more_slices_is_used(tmp_path, dicom):
    dicom.classic(tmp_path / "a", dicom.noise((6, 24, 20)), tags={"SeriesNumber": 3})
    dicom.classic(tmp_path / "b", dicom.noise((9, 24, 20)), tags={"SeriesNumber": 4})
    (listing,) = discover(tmp_path)
    assert [(entry.series.number, entry.rejection) for entry in listing.series] == [
        (4, None),
        (3, Rejection.DUPLICATE),
    ]
    assert listing.series[1].reason == "second T2 series; series 4 (T2 TSE sag) is used: it has more slices"


def test_dixon_images_of_a_t1_and_of_a_t2_are_no_duplicates(tmp_path, dicom):
    times = {"T2": {"EchoTime": 100, "RepetitionTime": 3000}, "T1": {"EchoTime": 10, "RepetitionTime": 600}}
    series = [("T2 mDIXON sag", "T2"), ("T1 mDIXON sag", "T1"), ("T1 mDIXON sag Gd", "T1"), ("sag", "T1")]
    for number, (words, contrast) in enumerate(series, start=3):
        tags = {"SeriesNumber": number, "SeriesDescription": words, **times[contrast]}
        kind = {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]}
        dicom.classic(tmp_path / str(number), dicom.noise(), tags={**tags, **kind})
    (listing,) = discover(tmp_path)
    assert {entry.series.weighting for entry in listing.series} == {Weighting.DIXON_WATER}
    assert {entry.series.number: entry.rejection for entry in listing.series} == {
        6: None,
        5: None,
        4: Rejection.DUPLICATE,
        3: None,
    }


@pytest.mark.parametrize("words", ["T1 mDIXON sag", "mDIXON sag"])
def test_a_dixon_image_of_a_t2_is_preferred_whatever_the_others_cover(tmp_path, dicom, words):
    for number, description, slices in ((3, "T2 mDIXON sag", 6), (4, words, 9)):
        tags = {"SeriesNumber": number, "SeriesDescription": description, "EchoTime": None}
        kind = {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]}
        dicom.classic(tmp_path / str(number), dicom.noise((slices, 24, 20)), tags={**tags, **kind})
    (listing,) = discover(tmp_path)
    assert [entry.series.number for entry in listing.series] == [3, 4]
    if not listing.series[1].kept:
        assert listing.series[1].reason.endswith("it is known to be made of T2 images")


def test_dixon_images_of_which_nothing_tells_the_contrast_are_duplicates(tmp_path, dicom):
    for number, words in ((3, "T2 mDIXON sag"), (4, "mDIXON sag")):
        tags = {"SeriesNumber": number, "SeriesDescription": words, "EchoTime": None}
        kind = {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]}
        dicom.classic(tmp_path / str(number), dicom.noise(), tags={**tags, **kind})
    (listing,) = discover(tmp_path)
    assert [entry.kept for entry in listing.series] == [True, False]


def test_a_second_series_in_another_frame_of_reference_is_named_prominently(tmp_path, dicom):
    for number in (3, 4):
        tags = {"SeriesNumber": number, "FrameOfReferenceUID": f"1.2.{number}"}
        dicom.classic(tmp_path / str(number), dicom.noise(), tags=tags)
    (listing,) = discover(tmp_path)
    (caution,) = read_study(listing, ReadingConfig()).cautions
    assert "may show another part of the spine: series 3 (T2 TSE sag)" in caution


def test_a_repeated_series_replaces_the_first(tmp_path, dicom):
    for number in (3, 4):
        dicom.classic(tmp_path / str(number), dicom.noise(), tags={"SeriesNumber": number})
    (listing,) = discover(tmp_path)
    assert listing.series[0].series.number == 4
    assert listing.series[1].reason.endswith("it came later")


def test_series_in_the_frame_of_the_reference_come_before_those_of_another_station(tmp_path, dicom):
    stations = {"upper": ("1.2.1", 280.0), "lower": ("1.2.2", 0.0)}
    order = (("T2", "upper"), ("T2", "lower"), ("T1", "lower"), ("T1", "upper"))
    for number, (weighting, station) in enumerate(order, start=3):
        frame, height = stations[station]
        affine = np.array(dicom.sagittal)
        affine[2, 3] += height
        tags = {**(T1_TAGS if weighting == "T1" else {}), "FrameOfReferenceUID": frame}
        described = {"SeriesDescription": f"{weighting} sag {station}", "SeriesNumber": number}
        dicom.classic(tmp_path / str(number), dicom.noise(), affine, tags={**tags, **described})
    (listing,) = discover(tmp_path)
    assert [entry.series.description for entry in listing.series if entry.kept] == [
        "T2 sag lower",
        "T1 sag lower",
    ]
    assert listing.series[-1].reason == (
        "second T1 series; series 5 (T1 sag lower) is used: "
        "it lies in the frame of reference of series 4 (T2 sag lower)"
    )


def test_of_overlapping_stations_the_one_that_covers_the_reference_is_used(tmp_path, dicom):
    stations = [
        ("T2", "thoracic", 110),
        ("T2", "lumbar", 100),
        ("T1", "lumbar", 110),
        ("T1", "thoracic", 100),
    ]
    for number, (weighting, station, rows) in enumerate(stations, start=3):
        affine = np.array(dicom.sagittal)
        affine[2, 3] -= 80 if station == "lumbar" else 0
        tags = {**(T1_TAGS if weighting == "T1" else {}), "SeriesDescription": f"{weighting} sag {station}"}
        voxels = dicom.noise((8, rows, 20))
        dicom.classic(tmp_path / str(number), voxels, affine, tags={**tags, "SeriesNumber": number})
    (listing,) = discover(tmp_path)
    assert [entry.series.description for entry in listing.series if entry.kept] == [
        "T2 sag thoracic",
        "T1 sag thoracic",
    ]
    assert {entry.series.number: entry.reason.split(" is used: ")[-1] for entry in listing.series} == {
        3: "",
        6: "",
        4: "it covers more",
        5: "it covers more of what series 3 (T2 sag thoracic) covers",
    }


def test_a_millimetre_more_does_not_outweigh_more_slices(tmp_path, dicom):
    for number, slices, rows in ((3, 9, 102), (4, 8, 103)):
        voxels = dicom.noise((slices, rows, 20))
        dicom.classic(tmp_path / str(number), voxels, tags={"SeriesNumber": number})
    (listing,) = discover(tmp_path)
    assert [entry.series.number for entry in listing.series] == [3, 4]
    assert listing.series[1].reason.endswith("it has more slices")


def test_a_t1_is_native_beside_one_whose_description_names_the_agent_of_the_whole_examination(
    tmp_path, dicom
):
    common = {**T1_TAGS, "ContrastBolusAgent": "Gadavist", "ProtocolName": "L SPINE W/WO CONTRAST"}
    for number, words in enumerate(("SAG T1", "SAG T1 POST", "SAG T1 FS POST"), start=4):
        tags = {**common, "SeriesDescription": words, "SeriesNumber": number}
        dicom.classic(tmp_path / str(number), dicom.noise(), tags=tags)
    (listing,) = discover(tmp_path)
    assert {entry.series.number: entry.series.weighting for entry in listing.series} == {
        4: Weighting.T1,
        5: Weighting.T1_GD,
        6: Weighting.T1_FS_GD,
    }
    assert all(entry.kept for entry in listing.series)


def test_a_t1_with_an_agent_that_the_native_one_lacks_was_acquired_after_it(tmp_path, dicom):
    series = {
        "T1 tse sag": "",
        "T1 tse tra": "Gadovist",
        "T1 tse sag KM": "Gadovist",
    }
    for number, (words, agent) in enumerate(series.items(), start=4):
        tags = {**T1_TAGS, "SeriesDescription": words, "SeriesNumber": number, "ContrastBolusAgent": agent}
        dicom.classic(tmp_path / str(number), dicom.noise(), tags={**tags, "ProtocolName": "LWS mit KM"})
    (listing,) = discover(tmp_path)
    assert {entry.series.number: entry.series.weighting for entry in listing.series} == {
        4: Weighting.T1,
        5: Weighting.T1_GD,
        6: Weighting.T1_GD,
    }


def test_axial_and_coronal_give_way_to_sagittal(tmp_path, dicom):
    dicom.classic(tmp_path / "a", dicom.noise((9, 30, 30)), AXIAL, tags={"SeriesDescription": "T1 ax"})
    dicom.classic(tmp_path / "c", dicom.noise((9, 30, 30)), CORONAL, tags={"SeriesDescription": "T1 cor"})
    dicom.classic(tmp_path / "s", dicom.noise())
    (listing,) = discover(tmp_path)
    assert [(entry.series.plane, entry.rejection) for entry in listing.series] == [
        (Plane.SAGITTAL, None),
        (Plane.AXIAL, Rejection.PLANE),
        (Plane.CORONAL, Rejection.PLANE),
    ]


def test_another_station_of_the_spine_is_not_fused_and_said(tmp_path, dicom):
    neck = np.array(dicom.sagittal)
    neck[2, 3] += 300
    dicom.classic(tmp_path / "lumbar", dicom.noise((9, 40, 20)))
    dicom.classic(tmp_path / "neck", dicom.noise(), neck, tags={"SeriesDescription": "T2 neck"})
    (listing,) = discover(tmp_path)
    assert verdicts(listing) == {"T2 TSE sag": None, "T2 neck": Rejection.STATION}
    assert "T2 neck" in read_study(listing, ReadingConfig()).cautions[0]
