"""``--deidentify`` leaves nothing behind: no name, date, serial number or UID in any byte that is written."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest

from planted import DATES, FOLDER, HIDDEN, KEY, STUDY_UID, TEXTS, identifiers, leaks
from spinemets.io import deidentification
from spinemets.io.deidentification import dicom_copy, header, image_copy, listing
from spinemets.reporting.document import hash_identifier

EVERYTHING = "json,html,nifti,png,pdf,bids,fhir,dicom-seg,dicom-sr,dicom-pdf,dicom-sc,dicom-rtstruct"


@dataclass(frozen=True)
class Written:
    """Results of one run, and the copies made with the same key."""

    out: Path
    copies: Path
    printed: str

    @property
    def result(self) -> Path:
        """The folder of the DICOM study's result."""
        return next(path.parent.parent for path in self.out.rglob("lesions.seg.dcm"))


@pytest.fixture(scope="module")
def written(call, inputs, tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("results")
    out, copies = folder / "out", folder / "copies"
    detected = call(
        "detect", inputs.manifest, inputs.image, inputs.broken, "-o", out, "--deidentify", "-vv",
        "--formats", EVERYTHING, "--save-probabilities",
    )  # fmt: skip
    copied = call("deidentify", inputs.study, inputs.image, inputs.broken, "-o", copies)
    assert (detected[0], copied[0]) == (7, 7), detected[1] + copied[1]
    return Written(out, copies, detected[1] + copied[1])


def test_no_identifier_is_in_any_byte(written, inputs):
    wanted = identifiers()
    assert len(wanted) >= 60
    assert set(leaks([inputs.study.parent], wanted)) == set(wanted), "the search finds what is there"
    assert leaks([written.out, written.copies], wanted, written.printed) == {}
    # Nor a hash that whoever knows the UID could compare.
    hashes = (hashlib.sha256(STUDY_UID.encode()).hexdigest()[:16], hash_identifier(STUDY_UID, b""))
    assert leaks([written.out], {"hash": hashes}, written.printed) == {}
    assert leaks([written.out, written.copies], {"key": (KEY,)}, written.printed) == {}


def test_everything_that_can_be_written_was_written(written):
    names = {path.name for path in written.result.rglob("*")}
    assert {
        "report.json", "report.html", "report.pdf", "report.fhir.json", "levels.nii.gz", "overview.png",
        "bids", "lesion_probability.nii.gz", "levels.seg.dcm", "findings.sr.dcm", "report.pdf.dcm",
        "key-image-01.sc.dcm", "contours.rtstruct.dcm",
    } <= names  # fmt: skip
    assert {"batch.jsonl", "summary.csv", "findings.csv", "index.html", "logs"} <= {
        path.name for path in written.out.iterdir()
    }
    assert not list(written.out.glob(".*.part")), "no copy of the source stays behind"
    states = {json.loads(line)["state"] for line in (written.out / "batch.jsonl").read_text().splitlines()}
    assert states == {"done", "failed"}


def test_results_and_copies_load_together(written):
    sources = [pydicom.dcmread(path) for path in sorted(written.copies.rglob("*.dcm"))]
    by_uid = {source.SOPInstanceUID: source for source in sources}
    assert len(by_uid) == len(sources) == 14
    first = sources[0]
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    for path in (written.result / "dicom").glob("*.dcm"):
        made = pydicom.dcmread(path)
        assert made.StudyInstanceUID == first.StudyInstanceUID, path.name
        assert made.PatientID == first.PatientID, path.name
        assert made.PatientIdentityRemoved == "YES", path.name
        assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == ["113100", "113105"]
        assert "2026" not in f"{made.get('ContentDate')}{made.get('SeriesDate')}", path.name
    segmentation = highdicom.seg.segread(written.result / "dicom/lesions.seg.dcm")
    assert segmentation.FrameOfReferenceUID == first.FrameOfReferenceUID
    referred = segmentation.get_source_image_uids()
    assert {uid for _, _, uid in referred} <= set(by_uid)
    assert {series for _, series, _ in referred} == {first.SeriesInstanceUID}
    mask = segmentation.get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in sources],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    places = _places(mask, sources)
    lesions = nibabel.load(written.result / "lesions.nii.gz")
    expected = nibabel.affines.apply_affine(lesions.affine, np.argwhere(np.asarray(lesions.dataobj) > 0))
    assert len(places) == len(expected) > 100
    assert {tuple(place) for place in np.round(places, 1)} == {
        tuple(place) for place in np.round(expected, 1)
    }
    contours = pydicom.dcmread(written.result / "dicom/contours.rtstruct.dcm")
    images = contours.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (series,) = images.RTReferencedSeriesSequence
    assert {image.ReferencedSOPInstanceUID for image in series.ContourImageSequence} <= set(by_uid)


def _places(mask: np.ndarray, sources: list[pydicom.Dataset]) -> np.ndarray:
    """RAS mm of the voxels of a mask whose frames are those of the sources."""
    places = []
    for frame, source in zip(mask, sources, strict=True):
        rows, columns = np.nonzero(frame)
        along_row, along_column = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
        spacing = [float(value) for value in source.PixelSpacing]
        places.append(
            np.array(source.ImagePositionPatient, float)
            + columns[:, None] * along_row * spacing[1]
            + rows[:, None] * along_column * spacing[0]
        )
    return np.concatenate(places) * (-1, -1, 1)


def test_pixels_and_geometry_stay_as_they_are(written, inputs):
    before = sorted(
        (pydicom.dcmread(path) for path in inputs.study.iterdir()), key=lambda one: one.InstanceNumber
    )
    after = sorted(
        (pydicom.dcmread(path) for path in written.copies.rglob("*.dcm")), key=lambda one: one.InstanceNumber
    )
    for old, new in zip(before, after, strict=True):
        assert new.PixelData == old.PixelData[: old.Rows * old.Columns * 2]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            assert old[keyword].value == new[keyword].value
    image = nibabel.load(inputs.image)
    copy = nibabel.load(next(written.copies.rglob("*.nii.gz")))
    assert np.array_equal(image.dataobj, copy.dataobj)
    assert np.array_equal(image.affine, copy.affine)


def test_dciodvfy_finds_no_error(written):
    dciodvfy = shutil.which("dciodvfy")
    if dciodvfy is None:
        pytest.skip("tool missing: dciodvfy")
    for path in [*written.out.rglob("*.dcm"), next(written.copies.rglob("*.dcm"))]:
        done = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
        told = done.stdout + done.stderr
        assert told
        assert [line for line in told.splitlines() if line.startswith("Error")] == [], path.name


def test_dates_may_be_kept_shifted_and_the_device_as_it_is(call, inputs, tmp_path):
    out, copies = tmp_path / "out", tmp_path / "copies"
    code, printed = call(
        "detect", inputs.study, "-o", out, "--deidentify", "--deid-retain", "dates",
        "--deid-retain", "device", "--identifiers", "keep", "--formats", "json,html,fhir,dicom-sr,dicom-seg",
    )  # fmt: skip
    assert code == 0, printed
    assert call("deidentify", inputs.study, "-o", copies, "--retain", "dates", "--retain", "device")[0] == 0
    assert leaks([out, copies], identifiers(device_is_kept=True), printed) == {}
    source = pydicom.dcmread(next(copies.rglob("*.dcm")))
    assert source.DeviceSerialNumber == "SERIAL-70707"
    assert source.PatientBirthDate == ""
    shifts = {
        np.datetime64(_iso(source[f"{event}Date"].value)) - np.datetime64(_iso(DATES[f"{event}Date"]))
        for event in ("Series", "Acquisition")
    }
    assert len(shifts) == 1, "intervals stay"
    assert shifts.pop() < np.timedelta64(0)
    report = json.loads(next(out.rglob("report.json")).read_text())
    assert report["study"]["date"] == source.StudyDate
    assert report["study"]["patient_id"] == source.PatientID
    assert report["study"]["identifier"] == source.StudyInstanceUID
    structured = pydicom.dcmread(next(out.rglob("findings.sr.dcm")))
    assert structured.StudyDate == structured.ContentDate == source.StudyDate
    assert structured.LongitudinalTemporalInformationModified == "MODIFIED"


def _iso(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def test_second_run_finds_its_results(call, inputs, tmp_path):
    arguments = ("detect", inputs.study, "-o", tmp_path / "out", "--deidentify", "--formats", "json")
    first, second = call(*arguments), call(*arguments)
    assert first[0] == second[0] == 0
    assert "done before" in second[1]


@pytest.mark.parametrize("named", ["by its path", "by its name alone"])
def test_results_with_and_without_names_are_kept_apart(call, inputs, tmp_path, monkeypatch, named):
    monkeypatch.chdir(inputs.study.parent)
    study = inputs.study if named == "by its path" else Path(FOLDER)
    assert call("detect", study, "-o", tmp_path, "--formats", "json", "--identifiers", "keep")[0] == 0
    code, printed = call("detect", study, "-o", tmp_path, "--formats", "json", "--deidentify")
    assert code == 2
    assert "not de-identified" in printed


def test_worker_processes_leave_nothing_either(call, inputs, tmp_path):
    code, printed = call(
        "detect", inputs.study, "-o", tmp_path / "out", "--deidentify", "--formats", "json,html,dicom-seg",
        "--workers", "1", "-vv",
    )  # fmt: skip
    assert code == 0, printed
    assert leaks([tmp_path / "out"], identifiers(), printed) == {}


def test_linkage_tells_the_owner_alone(call, inputs, tmp_path):
    linkage = tmp_path / "mine/linkage.csv"
    arguments = ("detect", inputs.study, inputs.broken, "-o", tmp_path / "out", "--deidentify")
    code, printed = call(*arguments, "--deid-linkage", linkage, "--formats", "json")
    assert code == 7
    assert leaks([], identifiers(), printed) == {}
    with linkage.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["source"] for row in rows] == [str(inputs.study), str(inputs.broken)]
    assert all(row["study"] in printed for row in rows)
    assert stat.S_IMODE(linkage.stat().st_mode) == 0o600
    assert call(*arguments, "--deid-linkage", tmp_path / "out/linkage.csv")[0] == 2


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (header, "_clean_sequence", lambda *_: True),
        (header, "_clean_unlisted", lambda *_, **__: True),
        (header, "_mapped", lambda value, _: value),
        (header, "_is_standard", lambda _: True),
        (header, "action_of", lambda *_, **__: "none"),
        (header, "_holds_word", lambda *_: False),
        (dicom_copy, "_write", lambda dataset, target: _saved(dataset, target)),
        (dicom_copy, "_make_plain", lambda _: None),
        (image_copy, "_TEXT_FIELDS", {348: (), 540: ()}),
        (listing, "recognised_words", lambda entry: entry.series.description),
    ],
    ids=[
        "sequences", "unlisted text", "UIDs", "unknown tags", "table", "words", "file meta", "trailing bytes",
        "NIfTI header", "descriptions",
    ],
)  # fmt: skip
def test_a_rule_left_out_is_noticed(call, inputs, tmp_path, monkeypatch, module, name, broken):
    monkeypatch.setattr(module, name, broken)
    call("deidentify", inputs.study, inputs.image, "-o", tmp_path / "out")
    assert leaks([tmp_path / "out"], identifiers()) != {}


def _saved(dataset: pydicom.Dataset, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(target, enforce_file_format=True)


def test_key_is_made_for_its_owner_only(monkeypatch, tmp_path):
    monkeypatch.delenv("SPINEMETS_DEID_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first = deidentification.load_secret()
    path = tmp_path / "spinemets/deidentification.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert deidentification.load_secret() == deidentification.load_secret(path) == first
    assert len(first) == 64
    assert list(path.parent.iterdir()) == [path]


def test_planted_list_has_every_kind():
    assert len(TEXTS) + len(DATES) + len(HIDDEN) >= 60
    assert FOLDER in "BRONISLAWA_KOWALCZYK_1943"
