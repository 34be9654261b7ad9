"""Headers as anonymisers and scanners leave them: the objects made from them are sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from dicom_files import SAGITTAL, plane_tags, write_classic, write_enhanced
from spinemets.config import ReadingConfig, ReportConfig
from spinemets.errors import OutputError
from spinemets.io import discover, read_study
from spinemets.reporting.dicom import write_dicom
from spinemets.reporting.dicom.source import lenient_values, read_source

STUDY_ATTRIBUTES = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber",
    "StudyTime", "ReferringPhysicianName", "StudyDate",
)  # fmt: skip
SHAPE = (12, 40, 32)


def jittered(index: int) -> dict[str, object]:
    """Almost nothing but pixels, and an orientation that differs from slice to slice in the fifth digit."""
    turn = 2e-5 * index
    return {
        **dict.fromkeys(STUDY_ATTRIBUTES),
        "FrameOfReferenceUID": None,
        "SliceThickness": None,
        "ImageOrientationPatient": [0.0, 1.0, turn, 0.0, turn, -1.0],
    }


def malformed(_index: int) -> dict[str, object]:
    return {
        "PatientSex": "W",
        "StudyDate": "2024.01.02",
        "StudyTime": "half past ten",
        "PatientBirthDate": "1950",
        "PatientName": "A=B=C=D^^^^^^E",
    }


def impossible(_index: int) -> dict[str, object]:
    """Eight and six digits that are no date and no time, and two names where one may be."""
    return {
        "StudyDate": "00000000",
        "StudyTime": "240000",
        "PatientBirthDate": "19600000",
        "PatientName": ["A^B", "C^D"],
        "ReferringPhysicianName": ["E^F", "G^H"],
    }


def voxels() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)


@pytest.mark.parametrize("tags", [jittered, malformed])
@pytest.mark.parametrize("formats", [("dicom-seg", "dicom-sr", "dicom-sc")])
def test_bare_and_malformed_headers_give_every_object(tmp_path, tags, formats, report_of):
    with lenient_values():
        write_classic(tmp_path / "source", voxels(), SAGITTAL, tags=tags)
    report = report_of(tmp_path / "source")
    paths = write_dicom(report, tmp_path, ReportConfig(formats=formats))
    assert len(paths) == 8
    for path in paths:
        dataset = pydicom.dcmread(path)
        for keyword in STUDY_ATTRIBUTES:
            assert keyword in dataset
        assert dataset.StudyInstanceUID == report.study.uid
        assert dataset.PatientSex in ("", None)


def test_impossible_dates_are_left_empty_in_every_object_and_first_names_stay(tmp_path, report_of):
    with lenient_values():
        write_classic(tmp_path / "source", voxels(), SAGITTAL, tags=impossible)
    report = report_of(tmp_path / "source")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    formats = ("dicom-seg", "dicom-sr", "dicom-sc", "dicom-pdf", "dicom-rtstruct")
    paths = write_dicom(report, tmp_path, ReportConfig(formats=formats), tmp_path / "report.pdf")
    assert len(paths) == 10
    for path in paths:
        dataset = pydicom.dcmread(path)
        assert not any(dataset[keyword].value for keyword in ("StudyDate", "StudyTime", "PatientBirthDate"))
        assert (dataset.PatientName, dataset.ReferringPhysicianName) == ("A^B", "E^F")


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("StudyDate", "20240229", "20240229"),
        ("StudyDate", "20230229", ""),
        ("PatientBirthDate", "19600100", ""),
        ("StudyTime", "235960", "235960"),
        ("StudyTime", "2359", "2359"),
        ("StudyTime", "126100", ""),
    ],
)
def test_dates_and_times_are_kept_where_they_can_be(tmp_path, report_of, keyword, value, kept):
    with lenient_values():
        write_classic(tmp_path / "source", voxels(), SAGITTAL, tags={keyword: value})
        source = read_source(report_of(tmp_path / "source").study.reference)
    assert {str(header[keyword].value) for header in source.headers} == {kept}


@pytest.mark.parametrize("date", ["20050504", ""])
def test_objects_of_a_deidentified_source_do_not_tell_when_they_were_written(tmp_path, report_of, date):
    said = {"PatientIdentityRemoved": "YES", "LongitudinalTemporalInformationModified": "MODIFIED"}
    tags = {**said, "StudyDate": date, "StudyTime": "101112" if date else ""}
    write_classic(tmp_path / "source", voxels(), SAGITTAL, tags=tags)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    formats = ("dicom-seg", "dicom-sr", "dicom-sc", "dicom-pdf", "dicom-rtstruct")
    report = report_of(tmp_path / "source")
    for path in write_dicom(report, tmp_path, ReportConfig(formats=formats), tmp_path / "report.pdf"):
        elements = pydicom.dcmread(path).iterall()
        told = {element.keyword: str(element.value) for element in elements if element.VR in ("DA", "DT")}
        assert "InstanceCreationDate" in told
        other = {name: value for name, value in told.items() if value[:8] not in ("", date or "19000101")}
        assert other == {}, path.name


def test_frame_of_reference_is_made_where_the_source_has_none(tmp_path, report_of):
    write_classic(tmp_path / "source", voxels(), SAGITTAL, tags=jittered)
    report = report_of(tmp_path / "source")
    write_dicom(report, tmp_path, ReportConfig(formats=("dicom-seg",)))
    made = {pydicom.dcmread(path).FrameOfReferenceUID for path in (tmp_path / "dicom").iterdir()}
    assert len(made) == 1
    assert made.pop().is_valid


def test_positions_are_those_of_the_headers(case):
    report = case("sagittal", "dicom-seg").report
    source = read_source(report.study.reference)
    for place, entry in enumerate(source.slices):
        position = [float(x) for x in source.headers[entry[0]].ImagePositionPatient]
        assert source.positions_mm[place].tolist() == position


def test_missing_slices_have_no_image_and_lie_on_the_grid(case):
    report = case("gap", "dicom-seg").report
    source = read_source(report.study.reference)
    assert [place for place, entry in enumerate(source.slices) if entry is None] in ([4, 5], [6, 7])
    steps = np.diff(source.positions_mm, axis=0)
    assert np.abs(steps - steps[0]).max() < 1e-6


def test_files_without_uids_of_their_own_are_refused(tmp_path, report_of):
    write_classic(tmp_path / "source", voxels(), SAGITTAL, tags={"SOPInstanceUID": "1.2.3"})
    report = report_of(tmp_path / "source")
    with pytest.raises(OutputError, match="share one UID"):
        read_source(report.study.reference)


def test_slices_that_lie_a_little_aside_are_found_where_pixels_are_small(tmp_path, report_of):
    affine = SAGITTAL.copy()
    affine[:3, :3] *= (1.25, 0.2, 0.2)

    def moved(index: int) -> dict[str, object]:
        x, y, z = plane_tags(affine, index)["ImagePositionPatient"]
        return {"ImagePositionPatient": [x, y, z + 0.18 * (-1) ** index]}

    write_classic(tmp_path / "source", voxels(), affine, tags=moved)
    report = report_of(tmp_path / "source")
    source = read_source(report.study.reference)
    assert source.positions_mm[:, 2].tolist() == pytest.approx([30.18, 29.82] * 6)


def test_file_that_lies_elsewhere_by_now_is_refused(case):
    volume = case("sagittal", "dicom-seg").report.study.reference
    moved = case("axial", "dicom-seg").report.study.reference
    mixed = replace(volume, series=replace(volume.series, files=moved.series.files))
    with pytest.raises(OutputError, match="does not lie on its grid"):
        read_source(mixed)


def test_frames_of_another_echo_are_not_referred_to(tmp_path, report_from):
    both = np.concatenate([voxels(), voxels() + np.uint16(1)])
    place_of = [*range(SHAPE[0]), *range(SHAPE[0])]

    def groups(index: int) -> dict[str, dict[str, object]]:
        position = plane_tags(SAGITTAL, place_of[index])["ImagePositionPatient"]
        return {
            "PlanePositionSequence": {"ImagePositionPatient": position},
            "MREchoSequence": {"EffectiveEchoTime": 20.0 if index < SHAPE[0] else 100.0},
        }

    write_enhanced(tmp_path / "source" / "echoes.dcm", both, SAGITTAL, groups)
    (listing,) = discover(tmp_path / "source")
    study = read_study(listing, ReadingConfig())
    used = study.reference.series.frames
    assert {frame // SHAPE[0] for frame in used} in ({0}, {1})
    write_dicom(report_from(study), tmp_path, ReportConfig(formats=("dicom-seg",)))
    dataset = pydicom.dcmread(tmp_path / "dicom/levels.seg.dcm")
    numbers = [
        image.ReferencedFrameNumber
        for frame in dataset.PerFrameFunctionalGroupsSequence
        for image in frame.DerivationImageSequence[0].SourceImageSequence
    ]
    assert len(numbers) == len(dataset.PerFrameFunctionalGroupsSequence)
    assert {number - 1 for number in numbers} <= set(used)
