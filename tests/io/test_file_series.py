"""Studies of NIfTI, NRRD and MetaImage files, by their names, folders and sidecars."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest

from inputs import save_nifti
from spinemets.config import ReadingConfig
from spinemets.errors import UnsupportedInputError
from spinemets.io import (
    Rejection,
    discover,
    read_study,
    write_label_map,
)
from spinemets.volume import Grid, Weighting

LABEL_GRID = Grid((4, 5, 6), np.diag([4.0, 1.0, 1.0, 1.0]))


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


def test_a_protocol_named_for_the_examination_does_not_exclude_a_described_series(tmp_path):
    for seed, words in enumerate(("SAG T2", "SAG DWI")):
        path = save_nifti(tmp_path / f"sub-01/anat/sub-01_run-{seed}_T2w.nii.gz", seed)
        sidecar = {"SeriesDescription": words, "ProtocolName": "SPINE T1 T2 DWI"}
        path.with_name(f"sub-01_run-{seed}_T2w.json").write_text(json.dumps(sidecar))
    (listing,) = discover(tmp_path)
    verdicts = {entry.series.description: entry.rejection for entry in listing.series}
    assert verdicts == {"sub-01_run-0_T2w": None, "sub-01_run-1_T2w": Rejection.CONTRAST}


def test_without_a_description_the_protocol_excludes(tmp_path):
    path = save_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text(json.dumps({"ProtocolName": "ep2d_diff_b800"}))
    (listing,) = discover(path)
    assert listing.series[0].rejection is Rejection.CONTRAST


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


@pytest.mark.parametrize("text", [f'{{"EchoTime": {"9" * 400}}}', '{"a":' * 5000 + "1" + "}" * 5000])
def test_a_sidecar_beyond_all_bounds_does_not_stop_the_listing(tmp_path, text):
    path = save_nifti(tmp_path / "scan_T2.nii.gz")
    (tmp_path / "scan_T2.json").write_text(text)
    (listing,) = discover(path)
    assert listing.series[0].series.weighting is Weighting.T2


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
