"""What an archive calls the slice that holds most of a lesion."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest

from dicom_files import noise, write_classic, write_enhanced

VOXELS = noise((12, 40, 32))


def fullest(report, number=1):
    lesion = report.findings[number - 1].lesion
    return int(np.bincount(lesion.voxels[:, 0]).argmax())


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
