from __future__ import annotations

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from spinemets.config import ReadingConfig
from spinemets.io import discover, read_study
from spinemets.reporting.document import report_document
from spinemets.reporting.words import place_text

# The phantom's canal lies at x = 0; in RAS+ mm its lesions at x = 0, -12, 2 and 4.
SIDES = {1: "midline", 2: "left", 3: "midline", 4: "right"}


@pytest.mark.parametrize("flips", [(False, False, False), (True, False, False), (True, True, True)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_sides_are_the_patients_whatever_the_grids_axes(make_report, order, flips, places_of):
    places = places_of(make_report(order=order, flips=flips))
    assert {number: place.side for number, place in places.items()} == SIDES


def test_sides_follow_a_grid_that_is_turned(make_report, places_of):
    turned = make_report(turn_degrees=(8.0, -5.0, 10.0))
    assert {number: place.side for number, place in places_of(turned).items()} == SIDES


def test_slices_of_an_las_file_are_counted_in_its_own_order(make_report, tmp_path, places_of):
    report = make_report(flips=(True, False, False))
    volume = report.study.reference
    path = tmp_path / "las_T2w.nii"
    nibabel.save(nibabel.Nifti1Image(np.asarray(volume.intensities), volume.grid.affine), path)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("L", "A", "S")
    (listing,) = discover(path, ReadingConfig())
    study = read_study(listing, ReadingConfig())
    assert study.reference.grid.is_close(volume.grid)
    place = places_of(replace(report, study=study))[2]
    # Its centre is at x = -12: with 15 slices of 4 mm from x = 28 to x = -28, in the eleventh.
    assert (place.slice_first, place.slice_last, place.slice_count) == (9, 13, 15)
    assert place.side == "left"
    assert place.instance_number is None


def test_the_same_lesion_in_a_ras_file_has_the_slices_from_the_other_end(report, places_of):
    place = places_of(report)[2]
    assert (place.slice_first, place.slice_last, place.slice_count) == (3, 7, 15)


def test_slices_are_counted_across_the_plane_when_they_are_not_the_first_axis(make_report, places_of):
    place = places_of(make_report(order=(1, 2, 0)))[2]
    assert (place.slice_first, place.slice_last, place.slice_count) == (3, 7, 15)


def test_a_lesion_across_the_midline_is_on_both_sides(report, places_of):
    finding = report.findings[1]
    grid = finding.lesion.grid
    across = np.argwhere(report.segmentation.vertebrae == 4).astype(np.int32)
    body = across[grid.to_world(across)[:, 1] > -15]
    wide = replace(finding, lesion=replace(finding.lesion, voxels=body))
    assert places_of(replace(report, findings=(wide,)))[2].side == "both"


def test_without_a_spine_no_side_is_given(report, places_of):
    nothing = replace(report.segmentation, anatomy=np.zeros_like(report.segmentation.anatomy))
    assert {place.side for place in places_of(replace(report, segmentation=nothing)).values()} == {None}


def test_places_are_told_in_words(report):
    records = report_document(report).findings
    assert place_text(records[1]) == "slices 3-7 of 15, left of the midline"
    assert place_text(records[3].model_copy(update={"slice_last": 8, "side": None})) == "slice 8 of 15"
    numbered = records[0].model_copy(update={"instance_number": 6})
    assert place_text(numbered) == "slices 7-9 of 15, most in image 6, in the midline"
