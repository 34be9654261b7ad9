"""The PDF and the key images as DICOM objects."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from spinemets.config import ReportConfig
from spinemets.reporting.dicom import write_dicom
from spinemets.reporting.overlays import draw_key_images
from spinemets.volume import Plane

KINDS = ("sagittal", "axial", "oblique", "feet-first", "enhanced", "gap")
TOWARDS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}


@pytest.mark.parametrize("size", [1001, 1002])
def test_document_gives_the_pdf_back(case, tmp_path, size):
    pdf = tmp_path / "report.pdf"
    pdf.write_bytes(b"%PDF" + bytes(range(256)) * 4 + b"x" * (size - 1028 + 256))
    made = case("sagittal", "dicom-seg")
    (path,) = write_dicom(made.report, tmp_path, ReportConfig(formats=("dicom-pdf",)), pdf)
    dataset = pydicom.dcmread(path)
    assert dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength] == pdf.read_bytes()
    assert dataset.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert str(dataset.PatientName) == "Müller^Änne"


@pytest.mark.parametrize("kind", ["sagittal", "enhanced"])
def test_document_names_the_images_it_is_made_from(case, tmp_path, kind):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    made = case(kind, "dicom-seg")
    (path,) = write_dicom(
        made.report, tmp_path, ReportConfig(formats=("dicom-pdf",)), tmp_path / "report.pdf"
    )
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in made.source.rglob("*.dcm")]
    named = pydicom.dcmread(path).SourceInstanceSequence
    assert {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in named} == {
        (header.SOPClassUID, header.SOPInstanceUID) for header in headers
    }
    assert len(named) == len(headers)
    assert {item.PurposeOfReferenceCodeSequence[0].CodeMeaning for item in named} == {"Source image"}


@pytest.mark.parametrize("kind", KINDS)
def test_key_images_tell_where_their_rows_and_columns_lead(case, kind):
    made = case(kind, "dicom-sc")
    pictures = [picture for pair in draw_key_images(made.report).values() for picture in pair]
    captures = [pydicom.dcmread(path) for path in sorted(made.objects.iterdir())]
    assert len(captures) == len(pictures) == 4
    for capture, picture in zip(captures, pictures, strict=True):
        columns, rows = capture.PatientOrientation
        assert picture.plane.rightward @ np.array(TOWARDS[columns]) > 0.7
        assert picture.plane.downward @ np.array(TOWARDS[rows]) > 0.7
        assert np.array_equal(capture.pixel_array, np.asarray(picture.image))


def test_key_images_show_each_lesion_in_two_planes(case):
    made = case("sagittal", "dicom-sc")
    captures = [pydicom.dcmread(path) for path in sorted(made.objects.iterdir())]
    assert [capture.ImageComments.split(";")[0] for capture in captures] == [
        f"lesion {number}, {plane.value}" for number in (1, 2) for plane in (Plane.SAGITTAL, Plane.AXIAL)
    ]
    assert {capture.ConversionType for capture in captures} == {"WSD"}
    assert len({capture.SeriesInstanceUID for capture in captures}) == 1
    assert len({capture.SOPInstanceUID for capture in captures}) == 4


def test_pixel_spacing_of_a_key_image_is_that_of_its_picture(case):
    made = case("sagittal", "dicom-sc")
    picture = draw_key_images(made.report)[1][0]
    capture = pydicom.dcmread(made.objects / "key-image-01.sc.dcm")
    assert [float(x) for x in capture.PixelSpacing] == pytest.approx([picture.plane.pixel_mm] * 2, abs=1e-5)


def test_study_without_a_lesion_has_no_key_image(case, tmp_path):
    made = case("sagittal", "dicom-seg", lesions=0)
    assert write_dicom(made.report, tmp_path, ReportConfig(formats=("dicom-sc",))) == ()
