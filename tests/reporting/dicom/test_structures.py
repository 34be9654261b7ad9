"""Contours, filled again by Pillow, are the masks."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from spinemets.anatomy import Structure
from spinemets.reporting.dicom.outlines import outlines

KINDS = ("sagittal", "axial", "oblique", "feet-first", "enhanced", "gap")
# Pixels of the filled picture for each pixel of the mask; an even number puts no centre on an edge.
FINE = 4


def filled(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre a polygon holds, as Pillow fills it; rows and columns."""
    picture = Image.new("1", (shape[1] * FINE, shape[0] * FINE))
    fine = [(FINE * (column + 0.5) - 0.5, FINE * (row + 0.5) - 0.5) for row, column in polygon]
    ImageDraw.Draw(picture).polygon(fine, fill=1)
    return np.asarray(picture)[FINE // 2 :: FINE, FINE // 2 :: FINE]


@settings(max_examples=150, deadline=None)
@given(arrays(bool, (6, 7), elements=st.booleans()))
def test_any_region_is_what_its_outlines_hold_and_no_pixel_is_held_twice(region):
    held = [filled(polygon, region.shape) for polygon in outlines(region)]
    count = np.sum(held, axis=0) if held else np.zeros(region.shape)
    assert np.array_equal(count, region.astype(int))


def test_ring_is_cut_into_parts_without_a_hole():
    ring = np.ones((5, 5), dtype=bool)
    ring[2, 2] = False
    assert len(outlines(ring)) == 2


def masks_by_roi(dataset: pydicom.Dataset, grid) -> dict[str, np.ndarray]:
    """Each region of a structure set as a mask on a grid."""
    names = {roi.ROINumber: roi.ROIName for roi in dataset.StructureSetROISequence}
    masks = {}
    for roi in dataset.ROIContourSequence:
        mask = np.zeros(grid.shape, dtype=bool)
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) * (-1, -1, 1)
            indices = grid.to_index(points)
            place = round(indices[:, 0].mean())
            assert np.abs(indices[:, 0] - place).max() < 0.01
            assert len(points) == contour.NumberOfContourPoints
            mask[place] ^= filled(indices[:, 1:], grid.shape[1:])
        masks[names[roi.ReferencedROINumber]] = mask
    return masks


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.parametrize("kind", KINDS)
def test_contours_filled_again_are_the_masks(case, kind):
    made = case(kind, "dicom-rtstruct")
    segmentation = made.report.segmentation
    masks = masks_by_roi(pydicom.dcmread(made.objects / "contours.rtstruct.dcm"), segmentation.grid)
    assert list(masks) == ["lesion 1", "lesion 2", "spinal cord", "thecal sac"]
    for finding in made.report.findings:
        assert dice(masks[f"lesion {finding.lesion.number}"], finding.lesion.mask()) > 0.999
    cord = segmentation.anatomy == Structure.CORD
    assert dice(masks["spinal cord"], cord) > 0.999
    assert dice(masks["thecal sac"], cord | (segmentation.anatomy == Structure.THECAL_SAC)) > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_no_contour_ends_above_or_below_its_first_point(case, kind):
    dataset = pydicom.dcmread(case(kind, "dicom-rtstruct").objects / "contours.rtstruct.dcm")
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            assert np.abs(points[0, :2] - points[-1, :2]).max() > 0.1


@pytest.mark.parametrize("kind", ["sagittal", "enhanced"])
def test_contours_refer_to_the_image_they_lie_on(case, kind):
    made = case(kind, "dicom-rtstruct")
    headers = {
        header.SOPInstanceUID: header
        for header in (pydicom.dcmread(path, stop_before_pixels=True) for path in made.source.iterdir())
    }
    dataset = pydicom.dcmread(made.objects / "contours.rtstruct.dcm")
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        (image,) = contour.ContourImageSequence
        plane = headers[image.ReferencedSOPInstanceUID]
        orientation = plane
        if kind == "enhanced":
            orientation = plane.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
            frame = plane.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
            plane = frame.PlanePositionSequence[0]
        cosines = np.array(orientation.ImageOrientationPatient, dtype=float)
        normal = np.cross(cosines[:3], cosines[3:])
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        assert np.abs((points - np.array(plane.ImagePositionPatient, dtype=float)) @ normal).max() < 0.01


def test_no_region_claims_to_be_a_target(case):
    dataset = pydicom.dcmread(case("sagittal", "dicom-rtstruct").objects / "contours.rtstruct.dcm")
    types = [item.RTROIInterpretedType for item in dataset.RTROIObservationsSequence]
    assert types == ["", "", "ORGAN", "ORGAN"]
    assert dataset.ApprovalStatus == "UNAPPROVED"
