"""One panel: a slice of one series with, or without, what was found drawn over it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from spinemets.anatomy import Compartment, Structure
from spinemets.findings import LesionFinding, StudyReport, Vertebra
from spinemets.reporting.drawing import (
    BACKDROP,
    FONT_SIZE,
    Outline,
    display_window,
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
from spinemets.reporting.planes import (
    ORIENTATION_LETTERS,
    BodyAxes,
    PicturePlane,
    body_axes,
    inside,
    sample,
)
from spinemets.volume import Mask, Plane

__all__ = ["Scene", "draw_legend", "draw_levels", "make_scene", "panel", "with_caption"]

_CAPTION_HEIGHT = 22
_LEAST_VISIBLE_ROWS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What every picture of one report is drawn from.

    Attributes
    ----------
    lesions
        int32, shape of the grid: 0 or the number of a lesion.
    sac, cord, bodies
        Shape of the grid: the dural sac with all it holds, the cord, the bodies and sacrum.
    windows
        One (low, high) for each volume of the segmentation.
    uncertain_below
        A level of less confidence is drawn with a question mark.
    """

    report: StudyReport
    axes: BodyAxes
    lesions: npt.NDArray[np.int32]
    sac: Mask
    cord: Mask
    bodies: Mask
    windows: tuple[tuple[float, float], ...]
    uncertain_below: float


def make_scene(report: StudyReport, uncertain_below: float) -> Scene:
    """Prepare a report for drawing."""
    segmentation = report.segmentation
    lesions = np.zeros(segmentation.grid.shape, dtype=np.int32)
    for finding in report.findings:
        lesions[tuple(finding.lesion.voxels.T)] = finding.lesion.number
    cord = segmentation.anatomy == Structure.CORD
    return Scene(
        report=report,
        axes=body_axes(segmentation.grid),
        lesions=lesions,
        sac=cord | (segmentation.anatomy == Structure.THECAL_SAC),
        cord=cord,
        bodies=np.isin(segmentation.anatomy, (Structure.VERTEBRAL_BODY, Structure.SACRUM)),
        windows=tuple(display_window(volume.intensities) for volume in segmentation.volumes),
        uncertain_below=uncertain_below,
    )


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
    shown = _lesions_in(scene, plane) if marks else {}
    if marks:
        picture = draw_outline(picture, sample(scene.sac, grid, points), Outline(SAC_COLOUR, 1.0))
        picture = draw_outline(picture, sample(scene.cord, grid, points), Outline(CORD_COLOUR, 1.0))
    for finding, region in shown.values():
        colour = COMPARTMENT_COLOURS[finding.compartment]
        picture = draw_outline(picture, region, Outline(colour, width_px=2.0, fill=0.13))
    image = to_image(picture)
    if marks and plane.kind is not Plane.AXIAL:
        draw_levels(image, scene, plane)
    for finding, region in shown.values():
        _name_lesion(image, finding, region, in_words=finding.lesion.number in set(named))
    draw_orientation(image, ORIENTATION_LETTERS[plane.kind])
    draw_scale_bar(image, plane.pixel_mm)
    return image


def _lesions_in(
    scene: Scene, plane: PicturePlane
) -> dict[int, tuple[LesionFinding, npt.NDArray[np.float32]]]:
    grid, points = scene.report.segmentation.grid, plane.points_mm()
    numbers = set(np.unique(sample(scene.lesions, grid, points, nearest=True)).astype(int).tolist())
    return {
        finding.lesion.number: (finding, sample(scene.lesions, grid, points, label=finding.lesion.number))
        for finding in scene.report.findings
        if finding.lesion.number in numbers
    }


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


def _name_lesion(
    image: Image.Image, finding: LesionFinding, region: npt.NDArray[np.float32], *, in_words: bool
) -> None:
    """Write a lesion's number beside its outline, where it does not run off the picture."""
    rows, columns = np.nonzero(region >= 0.5)
    if rows.size == 0:
        return
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
