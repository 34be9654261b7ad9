"""One panel: a slice of one series with, or without, what was found drawn over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from spinemets.anatomy import Compartment, SpineRegion
from spinemets.findings import LesionFinding, Vertebra
from spinemets.reporting.drawing import (
    BACKDROP,
    FONT_SIZE,
    Outline,
    Sheet,
    Spot,
    draw_orientation,
    draw_outline,
    draw_scale_bar,
    draw_text,
    fit_text,
    grey_picture,
    text_width,
    to_image,
    write_where_free,
)
from spinemets.reporting.palette import (
    COMPARTMENT_COLOURS,
    CORD_COLOUR,
    LEVEL_COLOUR,
    SAC_COLOUR,
    UNCERTAIN_COLOUR,
)
from spinemets.reporting.places import counted_axis
from spinemets.reporting.planes import ORIENTATION_LETTERS, PicturePlane, inside, native_slice, sample
from spinemets.reporting.scene import LesionPatch, Scene, has_doubtful_evidence, lesion_patch
from spinemets.volume import Plane

__all__ = [
    "draw_legend",
    "draw_letters",
    "draw_levels",
    "draw_patch",
    "legend_width",
    "lesion_outline",
    "lesion_sheet",
    "panel",
    "slice_words",
    "with_caption",
]

_CAPTION_HEIGHT = 22
_LEAST_VISIBLE_ROWS = 12
_MARGIN, _BODY_GAP = 4, 6
_NAME_GAP = 7
# The last instance can be the whole sacrum; S1 is its upper part.
_S1_HEIGHT_MM = 30.0
_LEGEND = (
    *((compartment.value, COMPARTMENT_COLOURS[compartment]) for compartment in Compartment),
    ("thecal sac", SAC_COLOUR),
    ("cord", CORD_COLOUR),
)
_LEGEND_SIZE, _LEGEND_BOX, _LEGEND_GAP = FONT_SIZE - 1, 16, 16


def panel(scene: Scene, plane: PicturePlane, *, volume: int = 0, marks: bool = True) -> Image.Image:
    """Draw one slice with its orientation letters and scale bar, none of which covers a lesion.

    Parameters
    ----------
    volume
        Which of the segmentation's volumes is shown.
    marks
        Whether outlines, level names and lesion numbers are drawn.
    """
    grid = scene.report.segmentation.grid
    points = plane.points_mm()
    values = sample(scene.report.segmentation.volumes[volume].intensities, grid, points)
    picture = grey_picture(values, inside(grid, points), scene.windows[volume])
    shown = seen_lesions(scene, plane)
    if marks:
        picture = draw_outline(picture, sample(scene.sac, grid, points), Outline(SAC_COLOUR, 1.0))
        picture = draw_outline(picture, sample(scene.cord, grid, points), Outline(CORD_COLOUR, 1.0))
        for patch in shown:
            draw_patch(picture, patch, lesion_outline(patch.finding, fill=0.13))
    sheet = lesion_sheet(to_image(picture), shown)
    draw_scale_bar(sheet, plane.pixel_mm)
    if marks:
        for patch in shown:
            _write_number(sheet, patch)
        draw_levels(sheet, scene, plane)
    draw_letters(sheet, scene, plane)
    return sheet.image


def seen_lesions(scene: Scene, plane: PicturePlane) -> list[LesionPatch]:
    """The lesions that a picture cuts."""
    patches = (lesion_patch(scene, plane, finding) for finding in scene.report.findings)
    return [patch for patch in patches if patch is not None and patch.is_seen]


def draw_patch(picture: npt.NDArray[np.float32], patch: LesionPatch, outline: Outline) -> None:
    """Draw a lesion's outline into the picture it belongs to."""
    height, width = patch.region.shape
    part = (slice(patch.top, patch.top + height), slice(patch.left, patch.left + width))
    picture[part] = draw_outline(picture[part], patch.region, outline)


def lesion_outline(finding: LesionFinding, fill: float = 0.0) -> Outline:
    """A lesion's outline in its compartment's colour, dashed where the evidence is doubtful."""
    colour = COMPARTMENT_COLOURS[finding.compartment]
    return Outline(colour, width_px=2.0, fill=fill, dashed=has_doubtful_evidence(finding))


def lesion_sheet(image: Image.Image, patches: Iterable[LesionPatch]) -> Sheet:
    """The image, with the lesions and their outlines as what must stay free."""
    lesions = np.zeros((image.height, image.width), dtype=np.bool_)
    for patch in patches:
        height, width = patch.region.shape
        lesions[patch.top : patch.top + height, patch.left : patch.left + width] |= patch.region >= 0.5
    return Sheet(image, ndimage.binary_dilation(lesions, iterations=2))


def draw_letters(sheet: Sheet, scene: Scene, plane: PicturePlane) -> None:
    """Write the letters of the edges, which keep off the canal too."""
    canal = sample(scene.sac, scene.report.segmentation.grid, plane.points_mm()) >= 0.5
    sheet.taken[canal] = True
    draw_orientation(sheet, ORIENTATION_LETTERS[plane.kind])


def draw_levels(sheet: Sheet, scene: Scene, plane: PicturePlane) -> None:
    """Write the levels' names where they cover nothing, with a question mark where uncertain.

    Sagittal: in front of each body that the picture cuts. Coronal: in the left margin at the height
    of each body, for what a coronal picture cuts lies at another height than its body.
    """
    if plane.kind is Plane.AXIAL:
        return
    spots = _before_bodies if plane.kind is Plane.SAGITTAL else _in_the_margin
    for vertebra, places in spots(scene, plane):
        name = scene.level_names[vertebra.level]
        least = text_width(name) + _MARGIN
        write_where_free(
            sheet,
            name,
            [(max(column, least), row, anchor) for column, row, anchor in places],
            UNCERTAIN_COLOUR if name.endswith("?") else LEVEL_COLOUR,
        )


def _before_bodies(scene: Scene, plane: PicturePlane) -> Iterator[tuple[Vertebra, list[Spot]]]:
    """Just left of each body that is seen, at half its height or a little above or below."""
    segmentation, points = scene.report.segmentation, plane.points_mm()
    instances = sample(segmentation.vertebrae, segmentation.grid, points, nearest=True)
    bodies = sample(scene.bodies, segmentation.grid, points, nearest=True) > 0
    for vertebra in scene.report.vertebrae:
        rows, columns = _largest_patch((instances == vertebra.instance) & bodies)
        if rows.size == 0 or np.ptp(rows) < _LEAST_VISIBLE_ROWS:
            continue
        if vertebra.level.region is SpineRegion.SACRAL:
            upper = rows <= rows.min() + _S1_HEIGHT_MM / plane.pixel_mm
            rows, columns = rows[upper], columns[upper]
        middle, step = float(np.median(rows)), float(np.ptp(rows)) / 5
        near = np.clip([middle, middle - step, middle + step], rows.min(), rows.max()).tolist()
        yield vertebra, [(_left_end(rows, columns, row) - _BODY_GAP, row, "rm") for row in near]


def _largest_patch(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of a mask's largest connected part, which has a pixel in each of its rows."""
    patches, count = ndimage.label(mask)
    if count > 1:
        mask = patches == np.bincount(patches[mask]).argmax()
    rows, columns = np.nonzero(mask)
    return rows, columns


def _left_end(rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], row: float) -> float:
    return float(np.percentile(columns[np.abs(rows - row) <= 4], 2))


def _in_the_margin(scene: Scene, plane: PicturePlane) -> Iterator[tuple[Vertebra, list[Spot]]]:
    """Left of the image at the height of each body's centre."""
    seen = inside(scene.report.segmentation.grid, plane.points_mm()).any(axis=0)
    for vertebra in scene.report.vertebrae:
        row = plane.to_pixel(vertebra.centroid_mm)[1]
        yield vertebra, [(float(seen.argmax()) - _MARGIN, row, "rm")]


def _write_number(sheet: Sheet, patch: LesionPatch) -> None:
    """Write a lesion's number beside its outline."""
    rows, columns = np.nonzero(patch.region >= 0.5)
    rows, columns = rows + patch.top, columns + patch.left
    row, column = float(rows.mean()), float(columns.mean())
    spots: list[Spot] = [
        (float(columns.max()) + _NAME_GAP, row, "lm"),
        (float(columns.min()) - _NAME_GAP, row, "rm"),
        (column, float(rows.max()) + _NAME_GAP, "mt"),
        (column, float(rows.min()) - _NAME_GAP, "mb"),
    ]
    colour = COMPARTMENT_COLOURS[patch.finding.compartment]
    write_where_free(sheet, str(patch.finding.lesion.number), spots, colour, at_all_costs=True)


def slice_words(scene: Scene, plane: PicturePlane) -> str:
    """Which slice a picture shows, for its caption: ", slice 7 of 13", or " reformat"."""
    grid = scene.report.segmentation.grid
    found = native_slice(grid, counted_axis(scene.report.study.reference.series, grid), plane)
    return " reformat" if found is None else f", slice {found[0]} of {found[1]}"


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """The image under a line of text."""
    width, height = image.size
    framed = Image.new("RGB", (width, height + _CAPTION_HEIGHT), BACKDROP)
    framed.paste(image, (0, _CAPTION_HEIGHT))
    draw_text(framed, (4, _CAPTION_HEIGHT / 2), fit_text(caption, width - 8))
    return framed


def draw_legend(image: Image.Image, place: tuple[int, int], notes: Sequence[str] = ()) -> None:
    """Draw the key of colours, and what else must be explained, in one line from its left middle."""
    column, row = place
    draw = ImageDraw.Draw(image)
    for name, colour in _LEGEND:
        draw.rectangle([column, row - 5, column + 10, row + 5], outline=colour, width=2)
        draw_text(image, (column + _LEGEND_BOX, row), name, size=_LEGEND_SIZE)
        column += _LEGEND_BOX + text_width(name, _LEGEND_SIZE) + _LEGEND_GAP
    for note in notes:
        draw_text(image, (column, row), note, size=_LEGEND_SIZE)
        column += text_width(note, _LEGEND_SIZE) + _LEGEND_GAP


def legend_width(notes: Sequence[str] = ()) -> int:
    """Pixels that ``draw_legend`` needs."""
    colours = sum(_LEGEND_BOX + text_width(name, _LEGEND_SIZE) + _LEGEND_GAP for name, _ in _LEGEND)
    return colours + sum(text_width(note, _LEGEND_SIZE) + _LEGEND_GAP for note in notes)
