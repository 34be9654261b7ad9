"""Inputs of every shape: what is found in folders and files, and what is passed over."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from inputs import T1_TAGS, save_nifti, verdicts
from spinemets.config import ReadingConfig
from spinemets.errors import NoUsableInputError, UnreadableFileError
from spinemets.io import (
    Rejection,
    describe,
    discover,
    read_study,
)
from spinemets.volume import Plane, Weighting


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_among_the_files_is_passed_over_and_does_not_hold_up_the_listing(tmp_path):
    save_nifti(tmp_path / "good.nii.gz")
    for name in ("pipe.dcm", "pipe.nii.gz"):
        os.mkfifo(tmp_path / name)
    code = (
        "import pathlib, sys; from spinemets.io import discover; print(discover(pathlib.Path(sys.argv[1])))"
    )
    # In a process of its own, since reading a pipe would never end.
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.count("a pipe, a socket or a device") == 2


def test_a_matrix_of_a_surface_costs_only_itself(tmp_path):
    save_nifti(tmp_path / "case_T2.nii.gz")
    voxels = nibabel.cifti2.BrainModelAxis.from_mask(np.ones((3, 3, 3)), affine=np.eye(4))
    header = nibabel.cifti2.Cifti2Header.from_axes((nibabel.cifti2.ScalarAxis(["thickness"]), voxels))
    nibabel.save(nibabel.Cifti2Image(np.ones((1, 27), np.float32), header), tmp_path / "case2.dscalar.nii")
    reasons = {study.description: study.series[0].rejection for study in discover(tmp_path)}
    assert reasons == {"case": None, "case2.dscalar": Rejection.UNSUPPORTED}


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
