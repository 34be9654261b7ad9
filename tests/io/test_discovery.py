"""Inputs of every shape, and which series of a study are used."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from spinemets.config import ReadingConfig
from spinemets.errors import NoUsableInputError, UnreadableFileError, UnsupportedInputError
from spinemets.io import (
    Rejection,
    StudyListing,
    describe,
    discover,
    private_words,
    read_study,
    unpack_study,
    write_label_map,
)
from spinemets.volume import Grid, Plane, Weighting

AFFINE = np.array([[4.0, 0, 0, -14], [0, 0, -1.5, 30], [0, -1.25, 0, 20], [0, 0, 0, 1]])
AXIAL = np.array([[0, 0, 1.0, 0], [0, -1.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1.0]])
LABEL_GRID = Grid((4, 5, 6), np.diag([4.0, 1.0, 1.0, 1.0]))
CORONAL = np.array([[0, 0, 1.0, 0], [4.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
T1_TAGS = {"SeriesDescription": "T1 TSE sag", "EchoTime": 10, "RepetitionTime": 600, "SeriesNumber": 6}
STIR_TAGS = {"SeriesDescription": "STIR sag", "InversionTime": 150, "SeriesNumber": 7}


def save_nifti(path: Path, seed: int = 0, shape: tuple[int, ...] = (8, 12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 3000, shape).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    nibabel.save(image, path)
    return path


def verdicts(listing: StudyListing) -> dict[str, Rejection | None]:
    return {entry.series.description: entry.rejection for entry in listing.series}


def test_a_mixed_folder_is_taken_apart(tmp_path, dicom):
    dicom.classic(tmp_path / "t2", dicom.noise())
    dicom.classic(tmp_path / "t1", dicom.noise(), tags=T1_TAGS)
    dicom.classic(tmp_path / "other", dicom.noise(), tags={"StudyInstanceUID": "1.2.3"})
    save_nifti(tmp_path / "case_T2.nii.gz")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "DICOMDIR").write_bytes(b"x")
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "old.zip").write_bytes(b"x")
    listings = discover(tmp_path)
    assert [len(listing.series) for listing in listings] == [1, 2, 1]
    assert {(entry.path.name, entry.reason) for entry in listings[0].ignored} == {
        ("notes.txt", "not a medical image"),
        ("DICOMDIR", "a DICOM directory; the files themselves are read"),
        ("old.zip", "an archive within the input; pass it by itself"),
    }


def test_every_series_is_kept_or_rejected_with_a_reason(tmp_path, dicom):
    series = {
        "T2 TSE sag": {},
        "localizer": {"SeriesDescription": "localizer"},
        "adc": {"SeriesDescription": "adc", "ImageType": ["DERIVED", "PRIMARY", "ADC"]},
        "mip": {"SeriesDescription": "mip", "ImageType": ["DERIVED", "SECONDARY", "MIP"]},
        "dwi": {"SeriesDescription": "dwi"},
        "ct": {"SeriesDescription": "ct", "Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        "shot": {"SeriesDescription": "shot", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "pr": {"SeriesDescription": "pr", "Modality": "PR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"},
        "colour": {"SeriesDescription": "colour", "SamplesPerPixel": 3},
    }
    for name, tags in series.items():
        dicom.classic(tmp_path / name, dicom.noise(), tags=tags)
    dicom.classic(tmp_path / "few", dicom.noise((3, 8, 8)), tags={"SeriesDescription": "few"})
    (listing,) = discover(tmp_path)
    assert verdicts(listing) == {
        "T2 TSE sag": None,
        "localizer": Rejection.LOCALISER,
        "adc": Rejection.DERIVED,
        "mip": Rejection.DERIVED,
        "dwi": Rejection.CONTRAST,
        "ct": Rejection.MODALITY,
        "shot": Rejection.DERIVED,
        "pr": Rejection.MODALITY,
        "colour": Rejection.UNSUPPORTED,
        "few": Rejection.TOO_FEW_SLICES,
    }
    assert all(entry.reason for entry in listing.series if not entry.kept)
    assert [entry.kept for entry in listing.series] == [True] + [False] * 9
    study = read_study(listing, ReadingConfig())
    assert len(study.rejected) == 9


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


def test_a_single_file_is_a_study(tmp_path):
    path = save_nifti(tmp_path / "case7_T1.nii.gz")
    (listing,) = discover(path)
    assert (listing.description, listing.source) == ("case7", path)
    volume = read_study(listing, ReadingConfig()).reference
    assert volume.series.weighting is Weighting.T1
    assert volume.series.study_uid.startswith("2.25.")


def test_files_that_differ_by_weighting_alone_are_one_study(tmp_path):
    for seed, name in enumerate(("case01_T1", "case01_T2_sag", "case01_STIR", "case02_T1", "alone")):
        save_nifti(tmp_path / f"{name}.nii.gz", seed)
    listings = discover(tmp_path)
    assert [(one.description, len(one.series)) for one in listings] == [
        ("alone", 1),
        ("case01", 3),
        ("case02", 1),
    ]
    assert listings[1].source == tmp_path


def test_files_with_names_of_philips_protocols_are_one_study(tmp_path):
    for seed, name in enumerate(("case01_sT1W_TSE_sag", "case01_sT2W_TSE_sag")):
        save_nifti(tmp_path / f"{name}.nii.gz", seed)
    (listing,) = discover(tmp_path)
    assert [entry.series.weighting for entry in listing.series] == [Weighting.T2, Weighting.T1]


def test_files_named_by_weighting_alone_belong_to_their_folder(tmp_path):
    for case in ("anna", "bert"):
        for seed, name in enumerate(("T1", "T2")):
            save_nifti(tmp_path / case / f"{name}.nii.gz", seed)
    assert [(one.description, len(one.series)) for one in discover(tmp_path)] == [("anna", 2), ("bert", 2)]


def test_bids_files_of_one_session_are_one_study(tmp_path):
    for seed, name in enumerate(
        (
            "sub-01/ses-1/anat/sub-01_ses-1_T1w",
            "sub-01/ses-1/anat/sub-01_ses-1_acq-stir_T2w",
            "sub-01/ses-2/anat/sub-01_ses-2_T1w",
            "sub-02/anat/sub-02_T2w",
            "sub-02/anat/sub-02_T2w_label-SC_mask",
            "sub-02/dwi/sub-02_dwi",
            "derivatives/labels/sub-02/anat/sub-02_T2w",
            "derivatives/labels/sub-02/anat/sub-02_T2w_dseg",
        )
    ):
        save_nifti(tmp_path / f"{name}.nii.gz", seed)
    listings = discover(tmp_path)
    assert [(one.description, [entry.kept for entry in one.series]) for one in listings] == [
        ("sub-01 ses-1", [True, True]),
        ("sub-01 ses-2", [True]),
        ("sub-02", [True, False]),
    ]
    assert {entry.series.weighting for entry in listings[0].series} == {Weighting.T1, Weighting.T2_FS}
    assert listings[2].source == tmp_path / "sub-02"
    assert sorted(entry.reason for entry in listings[0].ignored) == [
        "a BIDS derivative",
        "a label map by its name",
        "a label map by its name",
    ]


def test_a_bids_sidecar_tells_the_weighting(tmp_path):
    path = save_nifti(tmp_path / "scan.nii.gz")
    sidecar = {"ScanningSequence": "SE_IR", "EchoTime": 0.04, "RepetitionTime": 4.5, "InversionTime": 0.16}
    (tmp_path / "scan.json").write_text(json.dumps(sidecar))
    (listing,) = discover(path)
    assert listing.series[0].series.weighting is Weighting.T2_FS


def test_sidecars_tell_the_t1_before_contrast_agent_from_the_one_after_it(tmp_path):
    for seed, words in enumerate(("SAG T1", "SAG T1 POST")):
        path = save_nifti(tmp_path / f"sub-01/anat/sub-01_run-{seed}_T1w.nii.gz", seed)
        sidecar = {"SeriesDescription": words, "ContrastBolusIngredient": "GADOLINIUM"}
        sidecar["ProtocolName"] = "LUMBAR WITH AND WITHOUT CONTRAST"
        path.with_name(f"sub-01_run-{seed}_T1w.json").write_text(json.dumps(sidecar))
    (listing,) = discover(tmp_path)
    assert [entry.series.weighting for entry in listing.series] == [Weighting.T1, Weighting.T1_GD]


def test_sidecars_whose_agents_differ_tell_a_t1_without_words_after_it(tmp_path):
    series = (("SAG T1", ""), ("TRA T1", "GADOLINIUM"), ("SAG T1 POST", "GADOLINIUM"))
    for seed, (words, agent) in enumerate(series):
        path = save_nifti(tmp_path / f"sub-01/anat/sub-01_run-{seed}_T1w.nii.gz", seed)
        sidecar = {"SeriesDescription": words, "ContrastBolusIngredient": agent}
        path.with_name(f"sub-01_run-{seed}_T1w.json").write_text(json.dumps(sidecar))
    (listing,) = discover(tmp_path)
    weightings = {entry.series.description: entry.series.weighting for entry in listing.series}
    assert weightings == {
        "sub-01_run-0_T1w": Weighting.T1,
        "sub-01_run-1_T1w": Weighting.T1_GD,
        "sub-01_run-2_T1w": Weighting.T1_GD,
    }


def test_a_damaged_sidecar_is_passed_over(tmp_path, caplog):
    path = save_nifti(tmp_path / "scan_T2.nii.gz")
    (tmp_path / "scan_T2.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        (listing,) = discover(path)
    assert listing.series[0].series.weighting is Weighting.T2
    assert "scan_T2.json" in caplog.text


def test_a_case_may_have_any_name(tmp_path):
    for name in ("sub_01", "flow 7", "scout", "b100"):
        save_nifti(tmp_path / f"{name}.nii.gz")
    assert all(entry.kept for listing in discover(tmp_path) for entry in listing.series)


@pytest.mark.parametrize(
    ("name", "rejection"),
    [
        ("case_FLAIR", Rejection.CONTRAST),
        ("case_dwi", Rejection.CONTRAST),
        ("case_ct", Rejection.MODALITY),
        ("case_T2_map", Rejection.DERIVED),
        ("sub-01_bold", Rejection.CONTRAST),
        ("case_T1_sub", Rejection.DERIVED),
    ],
)
def test_names_of_other_images_are_rejected(tmp_path, name, rejection):
    (listing,) = discover(save_nifti(tmp_path / f"{name}.nii.gz"))
    assert listing.series[0].rejection is rejection


def test_label_maps_are_skipped_by_name_and_folder(tmp_path):
    save_nifti(tmp_path / "images" / "1_t2.nii.gz")
    save_nifti(tmp_path / "masks" / "1_t2.nii.gz")
    save_nifti(tmp_path / "images" / "1_t2_seg.nii.gz")
    (listing,) = discover(tmp_path)
    assert [entry.path.parent.name for entry in listing.ignored] == ["images", "masks"]


def test_a_file_named_for_a_structure_is_a_label_map_beside_an_image_of_its_case(tmp_path):
    for name in (
        "case01_T2",
        "case01_lesion",
        "case02",
        "case02_cord",
        "case03_T1",
        "case03_T1_bodies",
        "lone_cord",
    ):
        save_nifti(tmp_path / f"{name}.nii.gz")
    listings = discover(tmp_path)
    assert [one.description for one in listings] == ["case01", "case02", "case03", "lone_cord"]
    assert len(listings[0].ignored) == 3


def test_a_folder_of_one_case_may_hold_a_mask_named_for_its_structure(tmp_path):
    for name in ("T1", "T2", "lesion"):
        save_nifti(tmp_path / "case" / f"{name}.nii.gz")
    (listing,) = discover(tmp_path)
    assert [entry.series.description for entry in listing.series] == ["T2", "T1"]


def test_sample_truth_is_no_study_beside_the_samples():
    samples = Path(__file__).resolve().parents[2] / "data_samples"
    listings = discover(samples)
    assert [listing.source.name for listing in listings] == ["dicom", "cervicothoracic_T2w.nii.gz"]


def test_files_that_say_they_hold_labels_are_passed_over_whatever_their_name(tmp_path):
    save_nifti(tmp_path / "case01.nii.gz")
    write_label_map(tmp_path / "result.nii.gz", np.ones((4, 5, 6)).astype(int), LABEL_GRID, {1: "T1"})
    (tmp_path / "result.json").unlink()
    save_nifti(tmp_path / "drawn.nii.gz", 1)
    (tmp_path / "drawn.json").write_text(json.dumps({"labels": {"1": "cord"}}))
    (listing,) = discover(tmp_path)
    assert [entry.series.description for entry in listing.series] == ["case01"]
    assert {(entry.path.name, entry.reason) for entry in listing.ignored if entry.path.suffix == ".gz"} == {
        ("result.nii.gz", "a label map by its header"),
        ("drawn.nii.gz", "a label map by its sidecar"),
    }


def test_bytes_in_a_file_named_for_a_structure_are_labels_without_an_image_beside_it(tmp_path):
    save_nifti(tmp_path / "images" / "case01.nii.gz")
    (tmp_path / "drawn").mkdir()
    voxels = (np.indices((8, 40, 40)).sum(axis=0) > 40).astype(np.uint8)
    nibabel.save(
        nibabel.Nifti1Image(voxels, np.diag([4.0, 1, 1, 1])), tmp_path / "drawn/case01_lesions.nii.gz"
    )
    (listing,) = discover(tmp_path)
    assert [entry.path.name for entry in listing.ignored] == ["case01_lesions.nii.gz"]


def test_a_4d_file_is_listed_and_refused_with_its_own_error(tmp_path):
    path = save_nifti(tmp_path / "case.nii.gz", shape=(8, 12, 10, 4))
    (listing,) = discover(path)
    assert listing.series[0].rejection is Rejection.UNSUPPORTED
    with pytest.raises(UnsupportedInputError, match="4-D image of 8 x 12 x 10 x 4"):
        read_study(listing, ReadingConfig())


def test_a_study_of_localisers_alone_has_nothing_usable(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise(), tags={"SeriesDescription": "localizer"})
    (listing,) = discover(tmp_path)
    with pytest.raises(NoUsableInputError, match=r"series 5 \(localizer\): a localiser"):
        read_study(listing, ReadingConfig())


def test_an_absent_input_is_named(tmp_path):
    with pytest.raises(NoUsableInputError, match=r"nowhere: no such file or folder"):
        discover(tmp_path / "nowhere")


def test_a_folder_without_images_says_what_was_there(tmp_path):
    with pytest.raises(NoUsableInputError, match="it is empty"):
        discover(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(NoUsableInputError, match="2 x not a medical image"):
        discover(tmp_path)


def test_a_single_file_that_is_no_image_is_unreadable(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF" * 200)
    with pytest.raises(UnreadableFileError, match=r"a\.pdf: not a medical image"):
        discover(tmp_path / "a.pdf")


def zipped(target: Path, folder: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def test_nothing_of_a_zip_is_left_after_it_was_listed_and_read(tmp_path, dicom, temporary):
    voxels = dicom.noise()
    dicom.classic(tmp_path / "in" / "deep", voxels)
    path = zipped(tmp_path / "study.zip", tmp_path / "in")
    (listing,) = discover(path)
    assert listing.source == path
    assert list(temporary.iterdir()) == []
    np.testing.assert_array_equal(read_study(listing, ReadingConfig()).reference.intensities, voxels)
    assert list(temporary.iterdir()) == []
    (tmp_path / "study.zip").write_bytes(b"PK another")
    with pytest.raises(UnreadableFileError, match=r"study\.zip"):
        read_study(listing, ReadingConfig())
    assert list(temporary.iterdir()) == []


def test_of_a_zip_only_the_files_of_the_study_are_unpacked(tmp_path, dicom):
    dicom.classic(tmp_path / "in/one", dicom.noise())
    dicom.classic(
        tmp_path / "in/two",
        dicom.noise(seed=8),
        tags={"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"},
    )
    one, two = discover(zipped(tmp_path / "both.zip", tmp_path / "in"))
    assert len({one.study_uid, two.study_uid}) == 2
    at_hand = unpack_study(two, tmp_path / "there")
    files = {path for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert files == set(at_hand.series[0].series.files)
    assert at_hand.series[0].series.source == tmp_path / "there/two"
    np.testing.assert_array_equal(
        read_study(at_hand, ReadingConfig()).reference.intensities, dicom.noise(seed=8)
    )


def test_of_a_zipped_image_its_detached_voxels_are_unpacked_too(tmp_path):
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (20, 24, 8), np.int16))
    (tmp_path / "in").mkdir()
    SimpleITK.WriteImage(image, str(tmp_path / "in/t2.mhd"))
    (listing,) = discover(zipped(tmp_path / "image.zip", tmp_path / "in"))
    assert read_study(listing, ReadingConfig()).reference.intensities.std() > 100


def test_a_zipped_study_without_identifiers_is_the_same_each_time(tmp_path, dicom):
    dicom.classic(tmp_path / "in", dicom.noise(), tags={"StudyInstanceUID": None})
    path = zipped(tmp_path / "study.zip", tmp_path / "in")
    assert discover(path)[0].study_uid == discover(path)[0].study_uid


def test_the_words_of_a_zipped_studys_headers_are_known_without_its_files(tmp_path, dicom):
    dicom.classic(tmp_path / "in", dicom.noise())
    (listing,) = discover(zipped(tmp_path / "study.zip", tmp_path / "in"))
    assert "secret-id" in private_words(listing)


def test_a_word_of_every_report_is_no_word_of_a_patient(tmp_path, dicom):
    dicom.classic(tmp_path / "in", dicom.noise(), tags={"PatientName": "Phantom^Spine"})
    (listing,) = discover(tmp_path / "in")
    assert {"Phantom", "Phantom^Spine"} <= private_words(listing)
    assert "Spine" not in private_words(listing)


@pytest.mark.parametrize("start", range(8))
def test_a_zip_damaged_anywhere_is_unreadable_and_leaves_nothing(tmp_path, dicom, temporary, start):
    dicom.classic(tmp_path / "in", dicom.noise())
    path = zipped(tmp_path / "study.zip", tmp_path / "in")
    content = bytearray(path.read_bytes())
    place = 100 + start * (len(content) - 200) // 9
    content[place : place + 40] = np.random.default_rng(start).bytes(40)
    path.write_bytes(content)
    with contextlib.suppress(UnreadableFileError, NoUsableInputError, UnsupportedInputError):
        discover(path)
    assert list(temporary.iterdir()) == []


def test_what_is_wrong_with_a_zip_is_said_without_the_names_in_it(tmp_path):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("DOE_JANE/im1.dcm", b"x" * 400)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"xxxx", b"xxxy", 1))
    with pytest.raises(UnreadableFileError, match="Bad CRC") as caught:
        discover(path)
    assert "JANE" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "./", "a"])
def test_a_zip_whose_members_have_no_name_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"")
    with pytest.raises((UnsupportedInputError, NoUsableInputError)):
        discover(tmp_path / "odd.zip")


def test_images_that_differ_behind_the_first_megabyte_have_different_uids(tmp_path):
    content = np.zeros((24, 192, 192), np.int16)
    for name, value in (("p1", 1), ("p2", 2)):
        content[-1, -1, -1] = value
        nibabel.save(nibabel.Nifti1Image(content, np.diag([4.0, 1, 1, 1])), tmp_path / f"{name}.nii")
    one, two = discover(tmp_path)
    assert one.study_uid != two.study_uid
    assert one.series[0].series.series_uid != two.series[0].series.series_uid


def test_an_image_that_cannot_be_opened_costs_only_itself(tmp_path):
    save_nifti(tmp_path / "good.nii.gz")
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    (listing,) = discover(tmp_path)
    assert [entry.path.name for entry in listing.ignored] == ["gone.nii.gz"]


def test_folders_that_are_not_looked_into_are_told(tmp_path, caplog, monkeypatch):
    for name in ("open", "locked"):
        (tmp_path / "input" / name).mkdir(parents=True)
        save_nifti(tmp_path / "input" / name / "p1_T2w.nii.gz")
    (tmp_path / "input" / "linked").symlink_to(tmp_path / "input" / "open")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (listing,) = discover(tmp_path / "input")
    reasons = {entry.path.name: entry.reason for entry in listing.ignored}
    assert reasons == {
        "linked": "a link to a folder; pass the folder itself",
        "locked": "a folder that cannot be read (Permission denied)",
    }
    for reason in reasons.values():
        assert f"1 part(s) of the input were not looked into: {reason}" in caplog.text
    with pytest.raises(UnreadableFileError, match="a folder that cannot be read"):
        discover(tmp_path / "input" / "locked")


def test_a_damaged_file_is_held_against_the_study_in_whose_folder_it_lies(tmp_path, dicom, caplog):
    def study(place: str, uid: str) -> list[Path]:
        tags = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.{len(place)}{place[-1] == '2':d}"}
        return dicom.classic(tmp_path / place, dicom.noise(), tags=tags)

    def damage(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:150])

    study("a/t1", "1.2.1")
    study("a/t2", "1.2.1")
    damage(study("b/t1", "1.2.2")[0])
    for file in study("a/stir", "1.2.3"):
        damage(file)
    (tmp_path / "stray").mkdir()
    damage_of = {listing.study_uid: listing.damaged for listing in discover(tmp_path)}
    assert damage_of == {"1.2.1": 8, "1.2.2": 1}
    assert "lie beside no study" not in caplog.text
    next((tmp_path / "a/stir").iterdir()).rename(tmp_path / "stray/x.dcm")
    assert {listing.damaged for listing in discover(tmp_path)} == {7, 1}
    assert "1 unreadable DICOM file(s) lie beside no study" in caplog.text


def test_results_of_a_batch_are_passed_over_and_scans_beside_them_are_not(tmp_path, dicom):
    dicom.classic(tmp_path / "scan", dicom.noise())
    (listing,) = discover(tmp_path)
    for name, uid in (("done", "1.2.7"), ("scan", "1.2.8"), ("earlier/old", "1.2.9")):
        dicom.classic(tmp_path / name / "dicom", dicom.noise(), tags={"SeriesInstanceUID": uid})
    lines = [{"study": "scan", "state": "failed"}, {"study": "done", "state": "done"}]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stu')
    (again,) = discover(tmp_path)
    own = listing.series[0].series.series_uid
    assert {entry.series.series_uid for entry in again.series} == {own, "1.2.8"}
    assert {"done", "earlier"} <= {entry.path.name for entry in again.ignored}
    (tmp_path / "scan").rename(tmp_path / ".hidden")
    with pytest.raises(NoUsableInputError, match="results of spinemets only"):
        discover(tmp_path)


def test_objects_that_spinemets_made_are_no_part_of_the_study_they_came_back_with(tmp_path, dicom):
    dicom.classic(tmp_path / "scan", dicom.noise())
    made = {"SeriesInstanceUID": "1.2.9", "Manufacturer": "spinemets"}
    dicom.classic(tmp_path / "made", dicom.noise(), tags=made)
    phantom = {"StudyInstanceUID": "1.2.8", "Manufacturer": "spinemets simulation"}
    dicom.classic(tmp_path / "phantom", dicom.noise(), tags=phantom)
    found = {listing.study_uid: len(listing.series) for listing in discover(tmp_path)}
    assert found == {dicom.study_uid: 1, "1.2.8": 1}
    with pytest.raises(NoUsableInputError, match="results of spinemets only"):
        discover(tmp_path / "made")


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:/evil.dcm"]
)
def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UnsupportedInputError, match="leads out of the archive"):
        discover(tmp_path / "evil.zip")


def test_a_zip_with_a_symbolic_link_is_refused(tmp_path):
    member = zipfile.ZipInfo("link.dcm")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UnsupportedInputError, match="symbolic link"):
        discover(tmp_path / "link.zip")


def test_a_zip_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.io.sources._LARGEST_ARCHIVE_BYTES", 1 << 30)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("a.dcm", b"x")
        archive.infolist()[0].file_size = 2 << 30
    with pytest.raises(UnsupportedInputError, match="larger than 1 GiB unpacked"):
        discover(tmp_path / "bomb.zip")


def test_a_damaged_zip_is_unreadable(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UnreadableFileError, match=r"bad\.zip"):
        discover(tmp_path / "bad.zip")


def test_a_description_is_json_and_hides_identifiers_unless_asked(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise())
    (listing,) = discover(tmp_path)
    hidden = json.dumps(describe(listing))
    assert "secret-id" not in hidden
    assert dicom.study_uid not in hidden
    assert "20240102" not in hidden
    shown = describe(listing, identifiers="keep")
    assert shown["patient_id"] == "secret-id"
    (series,) = shown["series"]
    assert series["weighting"] == "T2"
    assert series["shape"] == [8, 24, 20]
    assert series["spacing_mm"] == [4.0, 1.5, 1.25]
    assert (series["slices"], series["kept"], series["rejection"]) == (8, True, None)


def test_nothing_of_the_patient_is_logged(tmp_path, dicom, caplog):
    dicom.classic(tmp_path, dicom.noise(), skip=(3,))
    with caplog.at_level(logging.DEBUG):
        (listing,) = discover(tmp_path)
        read_study(listing, ReadingConfig(allow_missing=True))
    assert "secret-id" not in caplog.text
    assert dicom.study_uid not in caplog.text


def test_importing_io_loads_no_heavy_package():
    code = (
        "import sys, spinemets.io; "
        "print([m for m in ('torch','monai','pydicom','nibabel','SimpleITK','numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_listing_dicom_loads_neither_torch_nor_simpleitk(tmp_path, dicom):
    dicom.classic(tmp_path, dicom.noise())
    code = (
        "import sys, pathlib; from spinemets.io import discover; discover(pathlib.Path(sys.argv[1])); "
        "print([m for m in ('torch','monai','SimpleITK','highdicom') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


REAL_DATA = os.environ.get("SPINEMETS_REAL_DATA", "")


@pytest.mark.skipif(not REAL_DATA, reason="SPINEMETS_REAL_DATA is not set")
def test_real_scans_are_found_and_label_maps_passed_over():
    listings = discover(Path(REAL_DATA) / "spider")
    assert len(listings) >= 20
    assert all(
        entry.kept and entry.series.plane is Plane.SAGITTAL for one in listings for entry in one.series
    )
    assert len(listings[0].ignored) == len(listings)
    volume = read_study(listings[0], ReadingConfig()).reference
    assert volume.series.weighting is Weighting.T2
    assert volume.intensities.std() > 0
