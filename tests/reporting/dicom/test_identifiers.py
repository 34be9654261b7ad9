"""No two different objects have one UID: an archive would keep the first and drop the second."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from spinemets.config import ReportConfig
from spinemets.reporting.dicom import write_dicom

FORMATS = ("dicom-seg", "dicom-sr", "dicom-pdf", "dicom-sc", "dicom-rtstruct")


def uids_by_name(folder: Path) -> dict[str, str]:
    return {path.name: pydicom.dcmread(path).SOPInstanceUID for path in (folder / "dicom").iterdir()}


def written(report, folder: Path, study: str = "1.2.3", **settings: object) -> dict[str, str]:
    """The UIDs of everything that can be written of a report, by file name."""
    folder.mkdir()
    pdf = folder / "report.pdf"
    pdf.write_bytes(b"%PDF-1.7 of " + study.encode())
    write_dicom(report, folder, ReportConfig(formats=FORMATS, **settings), pdf, study)
    return uids_by_name(folder)


@pytest.fixture(scope="module")
def usual(case, tmp_path_factory) -> dict[str, str]:
    return written(case("sagittal", "dicom-seg").report, tmp_path_factory.mktemp("usual") / "out")


def test_every_object_has_its_own_uid_and_the_same_one_again(case, usual, tmp_path):
    assert len(set(usual.values())) == len(usual) == 10
    assert written(case("sagittal", "dicom-seg").report, tmp_path / "again") == usual


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "Corrected^Name"),
        ("PatientID", "NEW-7"),
        ("PatientBirthDate", "19500103"),
        ("AccessionNumber", "A-10"),
        ("StudyDescription", "MRI whole spine"),
        ("PatientAge", "074Y"),
        ("InstitutionName", "Another Hospital"),
        ("FrameOfReferenceUID", "1.2.3.4"),
        ("PatientIdentityRemoved", "YES"),
    ],
)
def test_corrected_header_makes_other_objects(case, usual, report_of, tmp_path, keyword, value):
    (tmp_path / "source").mkdir()
    for path in case("sagittal", "dicom-seg").source.iterdir():
        image = pydicom.dcmread(path)
        setattr(image, keyword, value)
        image.save_as(tmp_path / "source" / path.name)
    corrected = written(report_of(tmp_path / "source"), tmp_path / "out")
    assert set(corrected) == set(usual)
    assert not set(corrected.values()) & set(usual.values())


def test_report_that_refers_to_another_segmentation_is_another_one(case, usual, tmp_path):
    other = written(case("sagittal", "dicom-seg").report, tmp_path / "out", segmentation_type="labelmap")
    changed = {name for name, uid in other.items() if uid != usual[name]}
    assert changed == {"levels.seg.dcm", "anatomy.seg.dcm", "lesions.seg.dcm", "findings.sr.dcm"}


def test_pdf_that_calls_the_study_something_else_is_another_one(case, usual, tmp_path):
    other = written(case("sagittal", "dicom-seg").report, tmp_path / "out", study="a hash")
    assert {name for name, uid in other.items() if uid != usual[name]} == {"report.pdf.dcm"}
    document = pydicom.dcmread(tmp_path / "out/dicom/report.pdf.dcm")
    assert document.file_meta.MediaStorageSOPInstanceUID == document.SOPInstanceUID
