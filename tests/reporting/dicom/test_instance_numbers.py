"""What an archive calls the slice that holds most of a lesion."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest

from dicom_files import SAGITTAL, noise, write_classic, write_enhanced

VOXELS = noise((12, 40, 32))


def fullest(report, number=1):
    lesion = report.findings[number - 1].lesion
    return int(np.bincount(lesion.voxels[:, 0]).argmax())


def affine_at(place):
    """The geometry of a file whose first image is that of a place of the stack."""
    affine = SAGITTAL.copy()
    affine[:3, 3] += place * SAGITTAL[:3, 0]
    return affine


@pytest.mark.parametrize("number", [1, 2])
def test_instance_number_is_that_of_the_file_at_the_place_of_the_slice(
    report_of, tmp_path, number, places_of
):
    # Numbered from the left, as the scanner went; the grid's slices run to the right.
    write_classic(tmp_path, VOXELS, tags=lambda index: {"InstanceNumber": 100 - index})
    report = report_of(tmp_path)
    place = places_of(report)[number]
    (own,) = [
        header
        for header in map(pydicom.dcmread, tmp_path.iterdir())
        if header.InstanceNumber == place.instance_number
    ]
    position = np.array(own.ImagePositionPatient, dtype=float) * (-1, -1, 1)
    assert report.study.reference.grid.to_index(position)[0] == pytest.approx(fullest(report, number))
    assert place.slice_first <= fullest(report, number) + 1 <= place.slice_last


def test_a_multi_frame_object_tells_the_frame(report_of, tmp_path, places_of):
    order = tuple(reversed(range(len(VOXELS))))
    write_enhanced(tmp_path / "enhanced.dcm", VOXELS, order=order)
    report = report_of(tmp_path)
    assert places_of(report)[1].instance_number == len(VOXELS) - fullest(report)


def test_an_interpolated_slice_or_a_file_that_is_gone_has_no_number(report_of, tmp_path, places_of):
    (tmp_path / "gap").mkdir()
    write_classic(tmp_path / "gap", VOXELS, skip=(4, 5))
    assert places_of(report_of(tmp_path / "gap"))[1].instance_number is None
    (tmp_path / "gone").mkdir()
    write_classic(tmp_path / "gone", VOXELS)
    report = report_of(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    assert places_of(report)[1].instance_number is None


def test_enhanced_files_of_one_frame_each_are_numbered_as_files(tmp_path, report_of, places_of):
    for place in range(len(VOXELS)):
        path, tags = tmp_path / f"{place:02d}.dcm", {"InstanceNumber": 40 + place}
        write_enhanced(path, VOXELS[place : place + 1], affine_at(place), tags=tags)
    report = report_of(tmp_path)
    series = report.study.reference.series
    assert len(series.files) == len(series.frames) == len(VOXELS)
    assert places_of(report)[1].instance_number == 40 + fullest(report)


def test_frames_spread_over_several_files_have_no_number(tmp_path, report_of, places_of):
    half = len(VOXELS) // 2
    for start in (0, half):
        write_enhanced(tmp_path / f"{start}.dcm", VOXELS[start : start + half], affine_at(start))
    report = report_of(tmp_path)
    assert len(report.study.reference.series.files) == 2
    assert places_of(report)[1].instance_number is None
