from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from spinemets.anatomy import Compartment, Structure
from spinemets.reporting import build_report, overlays
from spinemets.reporting.overlays import draw_key_images, draw_overlays, plane_through
from spinemets.reporting.overview import draw_overview, midline_plane
from spinemets.reporting.palette import COMPARTMENT_COLOURS, UNCERTAIN_COLOUR
from spinemets.reporting.panels import panel
from spinemets.reporting.planes import sample
from spinemets.reporting.scene import make_scene
from spinemets.volume import Plane

ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))
# No pixel lies halfway between two voxels at this spacing, so rounding cannot differ.
COARSE_MM = (4.1, 2.3, 2.3)
BODY_LESION_MM, BODY_LESION_RADIUS_MM = np.array((-12.0, 2.0, 5.0)), 9.0


def coloured(image, colour, tolerance=6):
    """Which pixels have a colour."""
    return (np.abs(np.asarray(image, dtype=int) - np.array(colour)) <= tolerance).all(axis=-1)


def outline_box(image, colour):
    """First and last column, first and last row of a colour."""
    rows, columns = np.nonzero(coloured(image, colour))
    return columns.min(), columns.max(), rows.min(), rows.max()


def saturation(image):
    pixels = np.asarray(image, dtype=int)
    return pixels.max(axis=-1) - pixels.min(axis=-1)


def panels_of(report, size=(200, 200), pixel_mm=0.5, centre=(-12.0, 2.0, 5.0)):
    scene = make_scene(report, 0.8)
    planes = {kind: plane_through(scene.axes, kind, centre, size, pixel_mm) for kind in Plane}
    return scene, planes


@pytest.fixture(scope="module")
def usual_panels(make_report):
    scene, planes = panels_of(make_report(spacing_mm=COARSE_MM, series=1), (100, 100), 1.0)
    return {kind: np.asarray(panel(scene, plane), dtype=int) for kind, plane in planes.items()}


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_axis_order_and_flip_shows_the_same_picture(make_report, usual_panels, order, flips):
    report = make_report(spacing_mm=COARSE_MM, series=1, order=order, flips=flips)
    scene, planes = panels_of(report, (100, 100), 1.0)
    for kind, plane in planes.items():
        found = np.asarray(panel(scene, plane), dtype=int)
        assert (np.abs(found - usual_panels[kind]) > 2).mean() < 0.002


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::7])
@pytest.mark.parametrize("kind", list(Plane))
def test_a_lesion_is_outlined_where_it_lies(make_report, order, flips, kind):
    scene, planes = panels_of(make_report(spacing_mm=(4.0, 2.0, 2.0), order=order, flips=flips, series=1))
    points = planes[kind].points_mm()
    centre = points[100, 100]
    # Worked out from the definition of each view, not from the plane's own projection:
    # sagittal columns run to the back, the other views' to the left; rows run down.
    across, along = {Plane.SAGITTAL: (1, 2), Plane.CORONAL: (0, 2), Plane.AXIAL: (0, 1)}[kind]
    column = 100 + (centre[across] - BODY_LESION_MM[across]) / 0.5
    row = 100 + (centre[along] - BODY_LESION_MM[along]) / 0.5
    left, right, top, bottom = outline_box(
        panel(scene, planes[kind]).crop((0, 0, round(column) + 22, 200)),
        COMPARTMENT_COLOURS[Compartment.EXTRADURAL],
    )
    assert (left + right) / 2 == pytest.approx(column, abs=4)
    assert (top + bottom) / 2 == pytest.approx(row, abs=4)


@pytest.mark.parametrize("kind", list(Plane))
def test_a_lesion_of_an_oblique_study_is_outlined_where_it_lies(make_report, kind):
    report = make_report(
        order=(2, 0, 1), flips=(True, False, False), turn_degrees=(9.0, -6.0, 12.0), series=1
    )
    scene, planes = panels_of(report)
    column, row = planes[kind].to_pixel(BODY_LESION_MM)
    part = panel(scene, planes[kind]).crop((0, 0, round(column) + 22, 200))
    left, right, top, bottom = outline_box(part, COMPARTMENT_COLOURS[Compartment.EXTRADURAL])
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((column, row), abs=5)


def test_the_patients_left_is_on_the_right_of_axial_and_coronal_pictures(make_report):
    scene, planes = panels_of(make_report(series=1), centre=(0.0, 2.0, 5.0))
    for kind in (Plane.AXIAL, Plane.CORONAL):
        lesion = coloured(panel(scene, planes[kind]), COMPARTMENT_COLOURS[Compartment.EXTRADURAL])
        assert np.nonzero(lesion)[1].mean() > 115


def test_the_front_is_on_the_left_and_the_head_up_in_sagittal_pictures(make_report):
    scene, planes = panels_of(make_report(series=1), centre=(0.0, -20.0, 20.0))
    plane, segmentation = planes[Plane.SAGITTAL], scene.report.segmentation
    points = plane.points_mm()
    body = sample(segmentation.anatomy, segmentation.grid, points, label=Structure.VERTEBRAL_BODY)
    arch = sample(segmentation.anatomy, segmentation.grid, points, label=Structure.POSTERIOR_ELEMENTS)
    assert np.nonzero(body > 0.5)[1].mean() < np.nonzero(arch > 0.5)[1].mean()
    assert points[0, 0, 2] > points[-1, 0, 2]


@pytest.mark.parametrize("kind", list(Plane))
@pytest.mark.parametrize("spacing", [(4.0, 1.0, 1.0), (1.0, 1.0, 4.0), (1.5, 3.0, 1.5)])
def test_a_ball_is_drawn_round_whatever_the_spacing(make_report, spacing, kind):
    scene, planes = panels_of(make_report(spacing_mm=spacing, series=1))
    grid = scene.report.segmentation.grid
    region = sample(scene.lesions, grid, planes[kind].points_mm(), label=2) >= 0.5
    rows, columns = np.nonzero(region)
    width_mm, height_mm = np.ptp(columns) * 0.5, np.ptp(rows) * 0.5
    assert width_mm == pytest.approx(2 * BODY_LESION_RADIUS_MM, abs=max(spacing) + 1)
    assert height_mm == pytest.approx(2 * BODY_LESION_RADIUS_MM, abs=max(spacing) + 1)


def test_the_plain_slice_carries_no_colour_and_the_marked_one_does(make_report):
    scene, planes = panels_of(make_report(series=1))
    plain = panel(scene, planes[Plane.SAGITTAL], marks=False)
    marked = panel(scene, planes[Plane.SAGITTAL])
    assert saturation(plain).max() <= 15
    assert (saturation(marked) > 100).sum() > 100


def test_a_lesion_is_outlined_and_not_painted_over(make_report):
    scene, planes = panels_of(make_report(series=1))
    plane = planes[Plane.SAGITTAL]
    column, row = (round(value) for value in plane.to_pixel(BODY_LESION_MM))
    inner = (slice(row - 6, row + 6), slice(column - 6, column + 6))
    plain = np.asarray(panel(scene, plane, marks=False), dtype=int)[inner]
    marked = np.asarray(panel(scene, plane), dtype=int)[inner]
    assert np.abs(marked - plain).max() < 45


def test_uncertain_levels_stand_out(report):
    scene, planes = panels_of(report, centre=(0.0, 0.0, -80.0))
    assert coloured(panel(scene, planes[Plane.SAGITTAL]), UNCERTAIN_COLOUR).any()
    confident = tuple(replace(vertebra, confidence=0.99) for vertebra in report.vertebrae)
    sure = build_report(report.study, report.segmentation, confident, report.findings, report.provenance)
    scene, planes = panels_of(sure, centre=(0.0, 0.0, -80.0))
    assert not coloured(panel(scene, planes[Plane.SAGITTAL]), UNCERTAIN_COLOUR).any()


def test_key_images_that_cannot_be_drawn_cost_no_others(report, monkeypatch):
    def draw(scene, finding):
        if finding.lesion.number == 2:
            raise ValueError("a plane without extent")
        return draw_key_image(scene, finding)

    draw_key_image = overlays._key_images
    monkeypatch.setattr(overlays, "_key_images", draw)
    assert list(draw_key_images(report)) == [1, 3, 4]


def test_there_is_one_picture_for_each_lesion_and_an_overview(report):
    drawn = draw_overlays(report)
    assert set(drawn.lesions) == {1, 2, 3, 4}
    assert all(min(image.size) >= 400 for image in (drawn.overview, *drawn.lesions.values()))
    for finding in report.findings:
        colour = COMPARTMENT_COLOURS[finding.compartment]
        assert coloured(drawn.lesions[finding.lesion.number], colour).sum() > 200


def test_the_overview_shows_lesions_in_the_midline_and_beside_it(report):
    scene = make_scene(report, 0.8)
    plane = midline_plane(scene)
    overview = draw_overview(scene)
    shift = plane.size[0] + 6
    for finding in report.findings:
        column, row = plane.to_pixel(finding.lesion.centroid_mm)
        radius = finding.lesion.longest_diameter_mm / 2 / plane.pixel_mm + 6
        box = (column + shift - radius, row + 22 - radius, column + shift + radius, row + 22 + radius)
        region = overview.crop(tuple(round(value) for value in box))
        assert coloured(region, COMPARTMENT_COLOURS[finding.compartment]).sum() > 30


def test_the_overview_of_a_straight_spine_is_one_acquired_slice(report):
    plane = midline_plane(make_scene(report, 0.8))
    assert plane.row_shift_mm is None
    index = report.segmentation.grid.to_index(plane.points_mm())[..., 0]
    np.testing.assert_allclose(index, np.rint(index), atol=1e-6)


def test_the_overview_of_a_scoliotic_spine_follows_the_canal(make_report):
    straight = make_report(spacing_mm=(2.0, 2.0, 2.0), series=1, lesions=False).segmentation
    anatomy, vertebrae = np.array(straight.anatomy), np.array(straight.vertebrae)
    for height in range(straight.grid.shape[2]):
        offset = round(5 * np.sin(height / 130 * np.pi * 2))
        anatomy[..., height] = np.roll(anatomy[..., height], offset, axis=0)
        vertebrae[..., height] = np.roll(vertebrae[..., height], offset, axis=0)
    report = make_report(spacing_mm=(2.0, 2.0, 2.0), series=1, lesions=False)
    bent = replace(report.segmentation, anatomy=anatomy, vertebrae=vertebrae)
    scene = make_scene(replace(report, segmentation=bent), 0.8)
    plane = midline_plane(scene)
    assert plane.row_shift_mm is not None
    along = sample(scene.sac, bent.grid, plane.points_mm()) > 0.5
    assert along.any(axis=1).mean() > 0.95
    assert draw_overview(scene).size[0] > 400


@pytest.mark.parametrize("spacing", [(12.0, 1.25, 1.25), (0.5, 4.0, 4.0), (20.0, 2.0, 2.0)])
def test_few_or_many_slices_can_be_drawn(make_report, spacing):
    report = make_report(spacing_mm=spacing, series=1)
    one = replace(report, findings=report.findings[1:2])
    assert coloured(draw_overlays(one).lesions[2], COMPARTMENT_COLOURS[Compartment.EXTRADURAL]).sum() > 200


def test_a_report_with_nothing_in_it_can_be_drawn(make_report):
    report = make_report(lesions=False, series=1)
    zeros = np.zeros(report.segmentation.grid.shape, dtype=np.uint8)
    empty = replace(report.segmentation, anatomy=zeros, vertebrae=zeros, evidence=())
    drawn = draw_overlays(replace(report, segmentation=empty, vertebrae=()))
    assert drawn.lesions == {}
    assert drawn.overview.size[1] > 200


def test_a_lesion_longer_than_the_panel_is_shown_whole(make_report):
    report = make_report(series=1)
    grid = report.segmentation.grid
    points = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    long = (np.hypot(points[..., 0], points[..., 1] + 28) < 4) & (np.abs(points[..., 2]) < 100)
    lesion = replace(
        report.findings[0].lesion, voxels=np.argwhere(long).astype(np.int32), centroid_mm=(0.0, -28.0, 0.0)
    )
    alone = replace(report, findings=(replace(report.findings[0], lesion=lesion),))
    card = draw_overlays(alone).lesions[1]
    marked = coloured(card.crop((342, 52, 678, 502)), COMPARTMENT_COLOURS[Compartment.INTRAMEDULLARY])
    rows = np.nonzero(marked.any(axis=1))[0]
    assert 20 < rows.min() < rows.max() < 430
