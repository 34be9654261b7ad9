"""One panel: a slice of one series with, or without, what was found drawn over it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from spinemets.anatomy import Compartment
from spinemets.findings import Vertebra
from spinemets.reporting.drawing import (
    BACKDROP,
    FONT_SIZE,
    Outline,
    draw_orientation,
    draw_outline,
    draw_scale_bar,
    draw_text,
    fit_text,
    grey_picture,
    text_width,
    to_image,
)
from spinemets.reporting.palette import (
    COMPARTMENT_COLOURS,
    CORD_COLOUR,
    LEVEL_COLOUR,
    SAC_COLOUR,
    UNCERTAIN_COLOUR,
)
from spinemets.reporting.planes import ORIENTATION_LETTERS, PicturePlane, inside, sample
from spinemets.reporting.scene import LesionPatch, Scene, lesion_patch
from spinemets.volume import Plane

__all__ = ["draw_legend", "draw_levels", "draw_patch", "panel", "with_caption"]

_CAPTION_HEIGHT = 22
_LEAST_VISIBLE_ROWS = 12


def panel(
    scene: Scene, plane: PicturePlane, *, volume: int = 0, marks: bool = True, named: Iterable[int] = ()
) -> Image.Image:
    """Draw one slice with its orientation letters and scale bar.

    Parameters
    ----------
    volume
        Which of the segmentation's volumes is shown.
    marks
        Whether outlines, level names and lesion numbers are drawn.
    named
        Numbers of the lesions that are labelled with their compartment too.
    """
    grid = scene.report.segmentation.grid
    points = plane.points_mm()
    values = sample(scene.report.segmentation.volumes[volume].intensities, grid, points)
    picture = grey_picture(values, inside(grid, points), scene.windows[volume])
    shown = seen_lesions(scene, plane) if marks else []
    if marks:
        picture = draw_outline(picture, sample(scene.sac, grid, points), Outline(SAC_COLOUR, 1.0))
        picture = draw_outline(picture, sample(scene.cord, grid, points), Outline(CORD_COLOUR, 1.0))
    for patch in shown:
        colour = COMPARTMENT_COLOURS[patch.finding.compartment]
        draw_patch(picture, patch, Outline(colour, width_px=2.0, fill=0.13))
    image = to_image(picture)
    if marks and plane.kind is not Plane.AXIAL:
        draw_levels(image, scene, plane)
    for patch in shown:
        _name_lesion(image, patch, in_words=patch.finding.lesion.number in set(named))
    draw_orientation(image, ORIENTATION_LETTERS[plane.kind])
    draw_scale_bar(image, plane.pixel_mm)
    return image


def seen_lesions(scene: Scene, plane: PicturePlane) -> list[LesionPatch]:
    """The lesions that a picture cuts."""
    patches = (lesion_patch(scene, plane, finding) for finding in scene.report.findings)
    return [patch for patch in patches if patch is not None and patch.is_seen]


def draw_patch(picture: npt.NDArray[np.float32], patch: LesionPatch, outline: Outline) -> None:
    """Draw a lesion's outline into the picture it belongs to."""
    height, width = patch.region.shape
    part = (slice(patch.top, patch.top + height), slice(patch.left, patch.left + width))
    picture[part] = draw_outline(picture[part], patch.region, outline)


def draw_levels(image: Image.Image, scene: Scene, plane: PicturePlane) -> None:
    """Write each level's name in front of its body, with a question mark where uncertain."""
    segmentation, points = scene.report.segmentation, plane.points_mm()
    instances = sample(segmentation.vertebrae, segmentation.grid, points, nearest=True)
    bodies = sample(scene.bodies, segmentation.grid, points, nearest=True) > 0
    for vertebra in scene.report.vertebrae:
        mask = instances == vertebra.instance
        place = _beside(mask & bodies if (mask & bodies).any() else mask)
        if place is not None:
            _write_level(image, vertebra, place, uncertain=vertebra.confidence < scene.uncertain_below)


def _beside(mask: npt.NDArray[np.bool_]) -> tuple[float, float] | None:
    """Column and row just left of a mask at half its height; None where hardly any is seen."""
    rows, columns = np.nonzero(mask)
    if rows.size == 0 or np.ptp(rows) < _LEAST_VISIBLE_ROWS:
        return None
    middle = float(np.median(rows))
    return float(np.percentile(columns[np.abs(rows - middle) <= 4], 2)) - 6, middle


def _write_level(
    image: Image.Image, vertebra: Vertebra, place: tuple[float, float], *, uncertain: bool
) -> None:
    name = f"{vertebra.level.value}?" if uncertain else vertebra.level.value
    column = max(place[0], text_width(name) + 22)
    colour = UNCERTAIN_COLOUR if uncertain else LEVEL_COLOUR
    draw_text(image, (column, place[1]), name, colour, anchor="rm")


def _name_lesion(image: Image.Image, patch: LesionPatch, *, in_words: bool) -> None:
    """Write a lesion's number beside its outline, where it does not run off the picture."""
    rows, columns = np.nonzero(patch.region >= 0.5)
    rows, columns, finding = rows + patch.top, columns + patch.left, patch.finding
    text = f"{finding.lesion.number}  {finding.compartment.value}" if in_words else str(finding.lesion.number)
    width, height = image.size
    column, row = float(columns.max()) + 7, float(rows.mean())
    if column + text_width(text) > width - 26:
        column = max(4.0, width - 26 - text_width(text))
        below = float(rows.max()) + 14
        row = below if below < height - 40 else float(rows.min()) - 14
    draw_text(image, (column, row), text, COMPARTMENT_COLOURS[finding.compartment])


def with_caption(image: Image.Image, caption: str) -> Image.Image:
    """The image under a line of text."""
    width, height = image.size
    framed = Image.new("RGB", (width, height + _CAPTION_HEIGHT), BACKDROP)
    framed.paste(image, (0, _CAPTION_HEIGHT))
    draw_text(framed, (4, _CAPTION_HEIGHT / 2), fit_text(caption, width - 8))
    return framed


def draw_legend(image: Image.Image, place: tuple[int, int], *, projected: bool = False) -> None:
    """Draw the key of colours in one line, from its left middle."""
    column, row = place
    entries = [(compartment.value, COMPARTMENT_COLOURS[compartment]) for compartment in Compartment]
    entries += [("thecal sac", SAC_COLOUR), ("cord", CORD_COLOUR)]
    draw = ImageDraw.Draw(image)
    for name, colour in entries:
        draw.rectangle([column, row - 5, column + 10, row + 5], outline=colour, width=2)
        draw_text(image, (column + 16, row), name, size=FONT_SIZE - 1)
        column += 16 + text_width(name, FONT_SIZE - 1) + 16
    if projected:
        draw_text(image, (column, row), "dashed: beside the shown slice", size=FONT_SIZE - 1)
