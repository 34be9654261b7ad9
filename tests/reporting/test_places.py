from __future__ import annotations

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from phantoms import add_lesion
from placed_lesions import finding, spine_of
from spinemets.anatomy import Structure
from spinemets.config import ReadingConfig
from spinemets.io import discover, read_study
from spinemets.reporting.document import report_document
from spinemets.reporting.places import lesion_places
from spinemets.reporting.words import place_text
from spinemets.spinal_axis import fit_spinal_axis
from spinemets.volume import Grid, Series

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


def side_of(phantom, segmentation):
    """The side of the one lesion of a segmentation."""
    found = finding(phantom, segmentation)
    axis = fit_spinal_axis(segmentation.anatomy, segmentation.grid)
    (place,) = lesion_places([found], segmentation, Series("study", "series"), axis).values()
    return place.side


def rolled(segmentation, degrees):
    """The same spine, its images with it, turned about the head-foot direction."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    grid = segmentation.grid
    return replace(segmentation, grid=Grid(grid.shape, turn @ grid.affine), volumes=())


@pytest.mark.parametrize("degrees", [0, 10, -20])
@pytest.mark.parametrize(("right_mm", "side"), [(0.0, "midline"), (-7.0, "left"), (7.0, "right")])
@pytest.mark.parametrize("front_mm", [28.0, -30.0])
def test_sides_turn_with_a_patient_who_lies_turned(degrees, right_mm, side, front_mm):
    phantom = spine_of("L3")
    centre = phantom.point("L3", front_mm, right_mm)
    seen = add_lesion(phantom.segmentation, centre, (5, 5, 5))
    assert side_of(phantom, rolled(seen, degrees)) == side


@pytest.mark.parametrize("keep", [slice(4, None), slice(None, -4)])
def test_an_image_that_ends_beside_one_side_of_the_bodies_does_not_turn_the_midline(keep):
    phantom = spine_of("L3")
    seen = add_lesion(phantom.segmentation, phantom.point("L3", 28.0), (6, 6, 6))
    anatomy = np.zeros_like(seen.anatomy)
    anatomy[keep] = seen.anatomy[keep]
    assert side_of(phantom, replace(seen, anatomy=anatomy)) == "midline"


def test_without_arches_sides_are_those_of_the_canal_in_the_image():
    phantom = spine_of("L3")
    seen = add_lesion(phantom.segmentation, phantom.point("L3", 28.0, -7.0), (5, 5, 5))
    arches = seen.anatomy == Structure.POSTERIOR_ELEMENTS
    assert side_of(phantom, replace(seen, anatomy=np.where(arches, 0, seen.anatomy))) == "left"


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
