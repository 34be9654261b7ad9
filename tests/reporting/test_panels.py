from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from spinemets.anatomy import Compartment, Structure
from spinemets.findings import ReviewTopic
from spinemets.reporting import summary_lines
from spinemets.reporting.drawing import draw_text, grey_picture, text_width
from spinemets.reporting.overlays import draw_key_images, draw_lesion, draw_overlays, plane_through
from spinemets.reporting.overview import draw_overview
from spinemets.reporting.palette import COMPARTMENT_COLOURS
from spinemets.reporting.panels import panel
from spinemets.reporting.planes import inside, sample
from spinemets.reporting.scene import lesion_patch, make_scene
from spinemets.volume import Plane

L2_MM = (0.0, 0.0, 8.5)


@pytest.fixture
def written(monkeypatch):
    """Every text that is drawn, with its column and row."""
    texts = []
    draw = ImageDraw.ImageDraw.text

    def listen(self, xy, text, *args, **kwargs):
        texts.append((text, *xy))
        return draw(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", listen)
    return texts


def places(written):
    return {text: (column, row) for text, column, row in written}


def with_anatomy(report, change):
    """The report, its anatomy changed in place by a function of it and of its voxels' heights."""
    segmentation = report.segmentation
    anatomy = np.array(segmentation.anatomy)
    points = segmentation.grid.to_world(np.moveaxis(np.indices(anatomy.shape), 0, -1))
    change(anatomy, points[..., 2])
    return replace(report, segmentation=replace(segmentation, anatomy=anatomy))


def with_lesion(report, inner, number=1):
    """The report with the voxels of a function of x, y and z as its only lesion."""
    grid = report.segmentation.grid
    points = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    voxels = np.argwhere(inner(*np.moveaxis(points, -1, 0))).astype(np.int32)
    centre = tuple(float(value) for value in grid.to_world(voxels).mean(axis=0))
    finding = report.findings[1]
    lesion = replace(finding.lesion, number=number, voxels=voxels, centroid_mm=centre)
    return replace(report, findings=(replace(finding, lesion=lesion),))


def doubtful(report):
    weak = tuple(replace(f, review_topics=(ReviewTopic.EVIDENCE,)) for f in report.findings)
    return replace(report, findings=weak)


def view(report, kind, centre, size=(200, 200)):
    scene = make_scene(report, 0.8)
    return scene, plane_through(scene.axes, kind, centre, size, 0.5)


def lesion_pixels(scene, plane):
    """The inside of the first lesion in a picture, as a mask of the picture."""
    patch = lesion_patch(scene, plane, scene.report.findings[0])
    mask = np.zeros(plane.size[::-1], dtype=bool)
    height, width = patch.region.shape
    mask[patch.top : patch.top + height, patch.left : patch.left + width] = patch.region >= 0.5
    return mask


def untouched(scene, plane):
    """What a lesion's pixels show in the unmarked panel, and what they would without letters."""
    grid, points = scene.report.segmentation.grid, plane.points_mm()
    values = sample(scene.report.segmentation.volumes[0].intensities, grid, points)
    expected = grey_picture(values, inside(grid, points), scene.windows[0])
    mask = lesion_pixels(scene, plane)
    assert mask.any()
    return np.asarray(panel(scene, plane, marks=False), dtype=float)[mask], expected[mask]


@pytest.mark.parametrize(("below", "above"), [(6, 6), (8, 6), (6, 8)])
def test_a_level_cut_into_two_patches_is_named_beside_the_larger(make_report, written, below, above):
    def hollow(anatomy, z):
        body = (anatomy == Structure.VERTEBRAL_BODY) & (np.abs(z - L2_MM[2]) < 12)
        heights = np.unique(z[body])
        anatomy[body & (z > heights[below - 1]) & (z < heights[-above])] = Structure.BACKGROUND

    scene, plane = view(with_anatomy(make_report(series=1), hollow), Plane.SAGITTAL, L2_MM)
    panel(scene, plane)
    # The body reaches from -3 to 20 mm, and a voxel is 1.25 mm high.
    middle = -3 + below * 0.625 if below > above else 20 - above * 0.625
    assert places(written)["L2"][1] == pytest.approx(plane.to_pixel((0.0, 0.0, middle))[1], abs=3)


def test_a_level_whose_arch_alone_is_cut_is_not_named_on_sagittal_panels(make_report, written):
    def bodiless(anatomy, z):
        anatomy[(anatomy == Structure.VERTEBRAL_BODY) & (np.abs(z - L2_MM[2]) < 12)] = Structure.BACKGROUND

    panel(*view(with_anatomy(make_report(series=1), bodiless), Plane.SAGITTAL, (0.0, -40.0, 8.5)))
    assert "L2" not in places(written)
    assert "L1" in places(written)


@pytest.mark.parametrize("depth_mm", [0.0, -28.0, -55.0])
def test_coronal_names_stand_in_the_margin_at_their_bodies_height(make_report, written, depth_mm):
    scene, plane = view(make_report(series=1, lesions=False), Plane.CORONAL, (0.0, depth_mm, 5.0))
    panel(scene, plane)
    found = places(written)
    left = plane.to_pixel((30.0, 0.0, 0.0))[0]
    for vertebra in scene.report.vertebrae:
        row = plane.to_pixel(vertebra.centroid_mm)[1]
        if 12 < row < plane.size[1] - 12:
            assert found[vertebra.level.value] == pytest.approx((left, row), abs=6)


@pytest.mark.parametrize("kind", [Plane.SAGITTAL, Plane.CORONAL])
def test_a_level_name_covers_no_lesion(make_report, kind):
    def around(x, y, z):
        return (np.abs(z - L2_MM[2]) < 11) & ((y > 14) | (x > 10))

    report = with_lesion(make_report(series=1), around)
    scene, plane = view(report, kind, (20.0, 10.0, 8.5))
    named = np.asarray(panel(scene, plane))
    nameless = np.asarray(panel(replace(scene, report=replace(report, vertebrae=())), plane))
    mask = lesion_pixels(scene, plane)
    assert mask.any()
    assert np.array_equal(named[mask], nameless[mask])


@pytest.mark.parametrize("kind", list(Plane))
@pytest.mark.parametrize("edge", range(4))
def test_no_letter_stands_on_a_lesion(make_report, kind, edge):
    report = make_report(spacing_mm=(2.0, 2.0, 2.0), series=1)
    report = replace(report, findings=report.findings[1:2])
    scene, whole = view(report, kind, report.findings[0].lesion.centroid_mm, (400, 400))
    column, row = (round(value) for value in whole.to_pixel(report.findings[0].lesion.centroid_mm))
    # The lesion's centre lies 12 pixels from the middle of one edge.
    corner = [
        (column - 12, row - 80),
        (column - 148, row - 80),
        (column - 80, row - 12),
        (column - 80, row - 148),
    ]
    shown, expected = untouched(scene, whole.part(corner[edge], (160, 160)))
    assert np.abs(shown - expected).max() <= 1


def test_the_scale_bar_gives_way_to_a_lesion(make_report):
    report = make_report(spacing_mm=(2.0, 2.0, 2.0), series=1)
    report = replace(report, findings=report.findings[1:2])
    scene, whole = view(report, Plane.SAGITTAL, report.findings[0].lesion.centroid_mm, (400, 400))
    column, row = (round(value) for value in whole.to_pixel(report.findings[0].lesion.centroid_mm))
    shown, expected = untouched(scene, whole.part((column - 180, row - 180), (200, 200)))
    assert np.abs(shown - expected).max() <= 1


@pytest.mark.parametrize("end", [-1, 1])
def test_the_other_series_show_a_lesion_at_the_images_edge(make_report, end):
    place = 118.0 if end > 0 else -138.0
    report = with_lesion(make_report(), lambda x, y, z: np.hypot(np.hypot(x, y), z - place) < 6)
    card = draw_lesion(make_scene(report, 0.8), report.findings[0])
    # Below the heading and the first row, 22 pixels for each caption.
    others = np.asarray(card.crop((0, 30 + 472 + 6 + 22, 314, 30 + 472 + 6 + 22 + 314)), dtype=int)
    colour = np.array(COMPARTMENT_COLOURS[Compartment.EXTRADURAL])
    assert (np.abs(others - colour) <= 6).all(axis=-1).sum() > 100


def test_the_lesions_own_probability_stands_beside_the_compartments(report, written):
    draw_lesion(make_scene(report, 0.8), report.findings[3])
    heading = next(text for text in places(written) if text.startswith("Lesion 4"))
    assert "lesion 57 % · extradural 52 %" in heading


def test_a_picture_rounds_sizes_as_the_report_does(report, written):
    lesion = replace(report.findings[0].lesion, longest_diameter_mm=17.49999, volume_mm3=84.49999)
    finding = replace(report.findings[0], lesion=lesion)
    single = replace(report, findings=(finding, *report.findings[1:]))
    draw_lesion(make_scene(single, 0.8), finding)
    heading = next(text for text in places(written) if text.startswith("Lesion 1"))
    (described,) = (line for line in summary_lines(single) if line.startswith("  1"))
    # The pictures' font has no raised 3.
    for size, drawn in (("18 mm", "18 mm"), ("84 mm³", "84 mm3")):
        assert drawn in heading
        assert size in described


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("84 mm³", "84 mm3"),
        ("Wirbelsäule T2 sag", "Wirbelsaule T2 sag"),
        # As names of files are written on a Mac: the letter and its dots apart.
        ("Wirbelsa\u0308ule", "Wirbelsaule"),
        ("lesion 57 % · L5?", "lesion 57 % · L5?"),
        ("脊椎", "脊椎"),
    ],
)
def test_a_picture_writes_the_nearest_letter_that_its_font_has(written, text, drawn):
    image = Image.new("RGB", (300, 40))
    draw_text(image, (10, 20), text)
    assert [one for one, *_ in written] == [drawn]
    assert text_width(text) == text_width(drawn)


def test_labels_give_the_probability_of_the_lesion(report, written):
    draw_overview(make_scene(report, 0.8))
    assert "3  L3  intradural-extramedullary, lesion 67 %" in places(written)
    written.clear()
    draw_key_images(report)
    assert "3  L3  intradural-extramedullary, lesion 67 %" in places(written)


def test_an_uncertain_level_carries_a_question_mark_wherever_a_picture_names_it(report, written):
    draw_overlays(report)
    draw_key_images(report)
    words = [word.strip(",") for text in places(written) for word in text.split()]
    assert "L5?" in words
    assert "L5" not in words


def test_captions_give_the_acquired_slice(report, written):
    draw_lesion(make_scene(report, 0.8), report.findings[0])
    # 15 slices of 4 mm from -30 mm on; the lesion's voxel nearest to x = 0 lies in the middle one.
    assert "Sagittal, slice 8 of 15: series 3 (T2 TSE sag)" in places(written)
    assert "Axial reformat" in places(written)


def test_the_overview_names_its_series_in_full(make_report, written):
    name = "T2 TSE sagittal of the whole spine, composed of three stations"
    draw_overview(make_scene(make_report(series=1, description=name, lesions=False), 0.8))
    assert f"Midline, slice 8 of 15: series 3 ({name})" in places(written)


def test_without_a_vertebra_the_overview_names_no_midline(make_report, written):
    draw_overview(make_scene(replace(make_report(series=1), vertebrae=()), 0.8))
    assert "Sagittal, slice 8 of 15: series 3 (T2 TSE sag)" in places(written)
    assert not any(text.startswith("Midline") for text in places(written))


def test_doubtful_lesions_are_dashed_and_the_legend_says_so(report, written):
    note = "dashed: doubtful evidence"
    scene = make_scene(report, 0.8)
    solid = draw_overview(scene)
    assert note not in places(written)
    dashed = draw_overview(make_scene(doubtful(report), 0.8))
    assert note in places(written)
    written.clear()
    draw_lesion(make_scene(doubtful(report), 0.8), report.findings[0])
    assert note in places(written)
    colour = np.array(COMPARTMENT_COLOURS[Compartment.INTRAMEDULLARY])
    counts = [(np.asarray(image, dtype=int) == colour).all(axis=-1).sum() for image in (solid, dashed)]
    assert counts[1] < 0.9 * counts[0]


def test_a_level_whose_cut_is_all_at_one_end_can_be_named(make_report, written):
    def spike(anatomy, z):
        """A plate with a long thin spike above, as where the picture grazes a body."""
        body = (anatomy == Structure.VERTEBRAL_BODY) & (np.abs(z - L2_MM[2]) < 12)
        front = np.zeros(body.shape, dtype=bool)
        front[:, 60:62] = True
        anatomy[body & (z > 0) & ~front] = Structure.BACKGROUND

    panel(*view(with_anatomy(make_report(series=1), spike), Plane.SAGITTAL, L2_MM))
    assert "L2" in places(written)
