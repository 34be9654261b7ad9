"""What ``spinemets deidentify`` copies, and that a fault costs one study or series only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom

from planted import identifiers, leaks
from spinemets.io.deidentification import listing


def second_series(exam: Path) -> list[Path]:
    """The files of a second series of the study in ``exam/a``, written into ``exam/b``."""
    (exam / "b").mkdir()
    paths = []
    for number, path in enumerate(sorted((exam / "a").iterdir())):
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID, image.SOPInstanceUID = "1.2.3.4", f"1.2.3.4.{number}"
        paths.append(exam / "b" / path.name)
        image.save_as(paths[-1])
    return paths


def test_copy_that_lacks_a_usable_series_is_not_the_whole(call, inputs, tmp_path):
    exam, copies = tmp_path / "exam", tmp_path / "copies"
    shutil.copytree(inputs.study, exam / "a")
    for number, path in enumerate(second_series(exam)):
        image = pydicom.dcmread(path)
        image.BurnedInAnnotation = "YES" if number == 8 else "NO"
        image.save_as(path)
    assert call("deidentify", exam / "a", "-o", copies)[0] == 0
    whole = sorted(path.name for path in copies.rglob("*.dcm"))
    code, printed = call("deidentify", exam, "-o", copies)
    assert (code, "1 of 2 series; left out: 1 x its header says" in printed) == (7, True), printed
    assert sorted(path.name for path in copies.rglob("*.dcm")) == whole
    code, printed = call("deidentify", exam / "b", "-o", tmp_path / "none")
    assert code not in (0, 7), printed
    assert not list(tmp_path.glob("none/study-*"))


def test_file_that_cannot_be_written_costs_its_series_only(call, inputs, tmp_path):
    exam, copies = tmp_path / "exam", tmp_path / "copies"
    shutil.copytree(inputs.study, exam / "a")
    path = second_series(exam)[4]
    image = pydicom.dcmread(path)
    # Reading does not need it, and writing does.
    del image.SOPInstanceUID
    image.file_meta.MediaStorageSOPInstanceUID = ""
    image.save_as(path, enforce_file_format=False)
    code, printed = call("deidentify", exam, inputs.image, "-o", copies)
    assert (code, "1 of 2 series; left out: 1 x a file of it lacks what DICOM" in printed) == (7, True), (
        printed
    )
    assert leaks([copies], identifiers(), printed) == {}
    assert len(list(copies.rglob("*.dcm"))) == len(list((exam / "a").iterdir()))
    assert len(list(copies.rglob("*.nii.gz"))) == 1
    code, printed = call("detect", exam, "-o", tmp_path / "out", "--deidentify", "--formats", "json")
    assert code == 0, printed


def test_unexpected_error_of_a_copy_costs_its_study_only(call, inputs, tmp_path, monkeypatch):
    def faulty(*_: object) -> None:
        raise ZeroDivisionError("Kowalczyk")

    monkeypatch.setattr(listing, "copy_dicom", faulty)
    code, printed = call("deidentify", inputs.study, inputs.image, "-o", tmp_path / "copies")
    assert (code, "cannot be de-identified (ZeroDivisionError)" in printed) == (7, True), printed
    assert leaks([tmp_path / "copies"], identifiers(), printed) == {}
    assert len(list((tmp_path / "copies").rglob("*.nii.gz"))) == 1


def test_file_in_the_place_of_a_copy_costs_that_study_only(call, inputs, tmp_path):
    out = tmp_path / "out"
    call("deidentify", inputs.study, "-o", out)
    (copy,) = out.iterdir()
    shutil.rmtree(copy)
    copy.write_text("in the way")
    code, printed = call("deidentify", inputs.study, inputs.image, "-o", out)
    assert code == 7
    assert "something else than a folder has its name" in printed
    assert len([path for path in out.iterdir() if path.is_dir()]) == 1
    assert copy.read_text() == "in the way"
