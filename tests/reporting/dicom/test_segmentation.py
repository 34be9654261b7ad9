"""Segmentations: the masks come back where they were, in every kind of source geometry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from spinemets.config import ReportConfig
from spinemets.errors import OutputError
from spinemets.reporting.dicom import write_dicom
from spinemets.reporting.dicom.identifiers import report_identifiers
from spinemets.reporting.dicom.source import read_source

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TIMES_OF_WRITING = {
    "ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime", "ContributionDateTime",
}  # fmt: skip
KINDS = ("sagittal", "axial", "oblique", "feet-first", "enhanced", "gap")


def read(case, name) -> highdicom.seg.Segmentation:
    return highdicom.seg.segread(case.objects / f"{name}.seg.dcm")


def world_points(dataset, number) -> np.ndarray:
    """RAS+ mm of every voxel of a segment, from each frame's own position; sorted."""
    points = []
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_mm, column_mm = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    for frame, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        rows, columns = np.nonzero(frame)
        points.append(
            origin + np.outer(columns * column_mm, cosines[:3]) + np.outer(rows * row_mm, cosines[3:])
        )
    return in_order(np.concatenate(points) * (-1, -1, 1))


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(2).T)]


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_lie_where_they_were_found_to_a_hundredth_of_a_millimetre(case, kind):
    made = case(kind, "dicom-seg")
    dataset = pydicom.dcmread(made.objects / "lesions.seg.dcm")
    for finding in made.report.findings:
        expected = in_order(finding.lesion.grid.to_world(finding.lesion.voxels))
        found = world_points(dataset, finding.lesion.number)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_masks_hold_the_voxels_that_the_scanner_put_there(case, written, kind):
    """Every voxel's value is another, so that a swapped side, slice or row would show."""
    made = case(kind, "dicom-seg")
    values, affine, missing = written(kind)
    dataset = pydicom.dcmread(made.objects / "lesions.seg.dcm")
    for finding in made.report.findings:
        points = world_points(dataset, finding.lesion.number)
        exact = (np.linalg.inv(affine) @ np.column_stack([points, np.ones(len(points))]).T)[:3].T
        places = np.rint(exact).astype(int)
        assert np.abs((places - exact) @ affine[:3, :3].T).max() < 0.01
        scanned = ~np.isin(places[:, 0], missing)
        expected = made.report.study.reference.intensities[tuple(finding.lesion.voxels.T)]
        found = values[tuple(places[scanned].T)]
        assert np.isin(found, expected).all()
        assert len(found) == len(expected) - np.count_nonzero(~scanned) > 50


@pytest.mark.parametrize("kind", KINDS)
def test_left_stays_left(case, kind):
    made = case(kind, "dicom-seg")
    grid = made.report.segmentation.grid
    middle_mm = grid.to_world((np.array(grid.shape) - 1) / 2)[0]
    first = made.report.findings[0].lesion
    side = np.sign(first.centroid_mm[0] - middle_mm)
    found = world_points(pydicom.dcmread(made.objects / "lesions.seg.dcm"), 1)
    assert np.sign(found[:, 0].mean() - middle_mm) == side
    assert abs(first.centroid_mm[0] - middle_mm) > 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segmentation_type", ["binary", "labelmap"])
def test_levels_read_back_are_the_levels_of_the_report(case, kind, segmentation_type):
    made = case(kind, "dicom-seg", segmentation_type=segmentation_type)
    dataset = read(made, "levels")
    volume = dataset.get_volume(combine_segments=True, allow_missing_positions=True)
    grid = made.report.segmentation.grid
    indices = np.argwhere(volume.array > 0)
    points = volume.map_indices_to_reference(indices) * (-1, -1, 1)
    places = np.rint(grid.to_index(points)).astype(int)
    assert np.abs(grid.to_world(places) - points).max() < 0.01
    expected = made.report.segmentation.vertebrae
    assert np.array_equal(expected[tuple(places.T)], volume.array[tuple(indices.T)])
    assert len(indices) == np.count_nonzero(expected)


def test_segments_are_named_and_coded_by_level(case):
    dataset = read(case("sagittal", "dicom-seg"), "levels")
    named = [
        (segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning)
        for segment in dataset.SegmentSequence
    ]
    assert named == [
        ("T11", "T11 vertebra"),
        ("T12", "T12 vertebra"),
        ("L1", "L1 vertebra"),
        ("L6", "Vertebra"),
    ]


def test_lesions_are_coded_as_lesions_and_sited_by_level(case):
    dataset = read(case("sagittal", "dicom-seg"), "lesions")
    first, second = dataset.SegmentSequence
    # Whether they are metastases is not for software to say.
    assert {one.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for one in (first, second)} == {"Lesion"}
    assert first.AnatomicRegionSequence[0].CodeMeaning == "T12 vertebra"
    assert first.SegmentLabel == "lesion 1, T12, extradural"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "spine_metastasis_mri"


def test_anatomy_holds_what_is_seen_only(case):
    dataset = read(case("sagittal", "dicom-seg"), "anatomy")
    labels = [segment.SegmentLabel for segment in dataset.SegmentSequence]
    assert labels == ["vertebral body", "thecal sac", "cord"]


@pytest.mark.parametrize("kind", ["sagittal", "enhanced"])
def test_patient_study_and_frame_of_reference_are_those_of_the_source(case, kind):
    made = case(kind, "dicom-seg")
    source = pydicom.dcmread(next(made.source.iterdir()), stop_before_pixels=True)
    dataset = pydicom.dcmread(made.objects / "levels.seg.dcm")
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
        "StudyTime", "StudyID", "AccessionNumber", "FrameOfReferenceUID", "StudyDescription",
    ):  # fmt: skip
        assert dataset[keyword].value == source[keyword].value, keyword
    assert str(dataset.PatientName) == "Müller^Änne"
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def test_frames_refer_to_the_images_at_their_place(case):
    made = case("sagittal", "dicom-seg")
    positions = {
        str(header.SOPInstanceUID): [float(x) for x in header.ImagePositionPatient]
        for header in (pydicom.dcmread(path, stop_before_pixels=True) for path in made.source.iterdir())
    }
    dataset = pydicom.dcmread(made.objects / "lesions.seg.dcm")
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (image,) = groups.DerivationImageSequence[0].SourceImageSequence
        place = [float(x) for x in groups.PlanePositionSequence[0].ImagePositionPatient]
        assert place == positions[image.ReferencedSOPInstanceUID]


def test_frames_of_an_enhanced_source_are_referred_to_by_number(case):
    made = case("enhanced", "dicom-seg")
    source = pydicom.dcmread(next(made.source.iterdir()), stop_before_pixels=True)
    dataset = pydicom.dcmread(made.objects / "lesions.seg.dcm")
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (image,) = groups.DerivationImageSequence[0].SourceImageSequence
        frame = source.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        assert list(place) == list(frame.PlanePositionSequence[0].ImagePositionPatient)


def test_study_without_a_lesion_has_no_lesion_segmentation(case):
    made = case("sagittal", "dicom-seg", lesions=0)
    assert {path.name for path in made.objects.iterdir()} == {"anatomy.seg.dcm", "levels.seg.dcm"}


def test_same_result_has_the_same_uids_and_another_result_has_others(case, tmp_path):
    made, other = case("sagittal", "dicom-seg"), case("sagittal", "dicom-seg", lesions=0)
    write_dicom(made.report, tmp_path, ReportConfig(formats=("dicom-seg",)))
    first, again, changed = (
        pydicom.dcmread(folder / "levels.seg.dcm")
        for folder in (made.objects, tmp_path / "dicom", other.objects)
    )
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert first[keyword].value == again[keyword].value != changed[keyword].value
    assert without_times(first) == without_times(again)


def test_uids_do_not_depend_on_folders_unused_series_formats_or_timings(case):
    report = case("sagittal", "dicom-seg").report
    headers = read_source(report.study.reference).headers
    volume = report.study.reference
    moved = replace(volume, series=replace(volume.series, source=Path("/tmp/spinemets-x7f3")))
    study = replace(report.study, volumes=(moved,), rejected=(("series 9601", "modality SEG"),))
    provenance = replace(report.provenance, timings_s={"reading": 99.0}, configuration={"report": {}})
    same = replace(report, study=study, provenance=provenance)
    assert report_identifiers(same, headers) == report_identifiers(report, headers)
    other = replace(report.provenance, model_sha256="cd" * 32)
    assert report_identifiers(replace(report, provenance=other), headers) != report_identifiers(
        report, headers
    )


def test_images_that_show_something_else_change_every_uid(case):
    report = case("sagittal", "dicom-seg").report
    headers = read_source(report.study.reference).headers
    brighter = replace(report.study.reference, intensities=report.study.reference.intensities + 1)
    other = replace(report, study=replace(report.study, volumes=(brighter,)))
    assert report_identifiers(other, headers) != report_identifiers(report, headers)


def without_times(dataset: pydicom.Dataset) -> str:
    def drop(part: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.keyword in TIMES_OF_WRITING:
            del part[element.tag]

    dataset.walk(drop)
    return dataset.to_json()


def test_source_that_is_gone_is_an_output_error(case, tmp_path):
    made = case("sagittal", "dicom-seg")
    volume = made.report.study.reference
    for path in made.source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    files = tuple(tmp_path / path.name for path in volume.series.files)
    files[3].unlink()
    with pytest.raises(OutputError, match="can no longer be read"):
        read_source(replace(volume, series=replace(volume.series, files=files)))
