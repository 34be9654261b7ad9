"""The pictures of a report: one for every lesion, and one of the whole visible spine.

Pure functions from a report to images; writing them is ``spinemets.reporting.write``'s. A picture
that cannot be drawn is left out: the findings are worth more than it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from spinemets.findings import LesionFinding, StudyReport
from spinemets.reporting.drawing import BACKDROP, draw_text, fit_text
from spinemets.reporting.overview import draw_overview
from spinemets.reporting.palette import COMPARTMENT_COLOURS
from spinemets.reporting.panels import draw_legend, legend_width, panel, slice_words, with_caption
from spinemets.reporting.planes import BodyAxes, PicturePlane
from spinemets.reporting.scene import DOUBT_NOTE, Scene, has_doubtful_evidence, lesion_label, make_scene
from spinemets.reporting.words import length_text, percent, volume_text
from spinemets.volume import Plane

__all__ = [
    "KeyImage",
    "Overlays",
    "draw_key_images",
    "draw_lesion",
    "draw_overlays",
    "plane_about",
    "plane_through",
]

_GAP = 6
_SAGITTAL_SIZE, _REFORMAT_SIZE, _OTHER_SIZE, _KEY_SIZE = (336, 450), (280, 211), (314, 314), (400, 450)
_PIXELS_PER_MM = 3.0
# What a lesion may take of a panel's side before the panel shows more at a smaller scale.
_LARGEST_SHARE = 0.7
_MOST_OTHER_SERIES = 3
_HEADING_HEIGHT, _LEGEND_HEIGHT = 30, 28
# Body axes (right, front, head) that grow along a picture's columns, rows and normal, with
# their sense: a sagittal picture's columns run backwards, its rows towards the feet.
_LAYOUT = {Plane.SAGITTAL: (1, 2, 0), Plane.CORONAL: (0, 2, 1), Plane.AXIAL: (0, 1, 2)}

# What unforeseen geometry raises in NumPy, SciPy and Pillow.
_UNDRAWABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Array = npt.NDArray[np.float64]
Arguments = ParamSpec("Arguments")
Drawn = TypeVar("Drawn")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Overlays:
    """The pictures of a report, 8-bit RGB; lesions by number.

    Attributes
    ----------
    overview
        None where it could not be drawn.
    lesions
        Without those that could not be drawn.
    """

    overview: Image.Image | None
    lesions: Mapping[int, Image.Image]


@dataclass(frozen=True, slots=True, eq=False)
class KeyImage:
    """One outlined slice through a lesion under its label, 8-bit RGB, as an archive can keep it."""

    plane: PicturePlane
    image: Image.Image


def draw_key_images(report: StudyReport, uncertain_below: float = 0.8) -> dict[int, tuple[KeyImage, ...]]:
    """A sagittal and an axial slice through each lesion, outlined; by lesion number."""
    scene = make_scene(report, uncertain_below)
    drawn = {finding.lesion.number: _attempted(_key_images, scene, finding) for finding in report.findings}
    return {number: images for number, images in drawn.items() if images is not None}


def _key_images(scene: Scene, finding: LesionFinding) -> tuple[KeyImage, ...]:
    planes = [_lesion_plane(scene, finding, kind, _KEY_SIZE) for kind in (Plane.SAGITTAL, Plane.AXIAL)]
    label = lesion_label(scene, finding)
    return tuple(KeyImage(plane, with_caption(panel(scene, plane), label)) for plane in planes)


def draw_overlays(report: StudyReport, uncertain_below: float = 0.8) -> Overlays:
    """Draw every picture of a report that can be drawn.

    Parameters
    ----------
    uncertain_below
        Levels of less confidence carry a question mark.
    """
    scene = make_scene(report, uncertain_below)
    drawn = {finding.lesion.number: _attempted(draw_lesion, scene, finding) for finding in report.findings}
    lesions = {number: image for number, image in drawn.items() if image is not None}
    return Overlays(_attempted(draw_overview, scene), lesions)


def _attempted(
    draw: Callable[Arguments, Drawn], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Drawn | None:
    try:
        return draw(*arguments, **options)
    except _UNDRAWABLE as error:
        _log.warning("a picture could not be drawn (%s)", type(error).__name__)
        _log.debug("how its drawing failed", exc_info=error)
        return None


def draw_lesion(scene: Scene, finding: LesionFinding) -> Image.Image:
    """One lesion: the sagittal slice without and with marks, axial, coronal, other series."""
    rows = [_main_row(scene, finding), *_other_series(scene, finding)]
    notes = [DOUBT_NOTE] if any(map(has_doubtful_evidence, scene.report.findings)) else []
    width = max(legend_width(notes) + 12, *(row.width for row in rows))
    height = _HEADING_HEIGHT + sum(row.height + _GAP for row in rows) + _LEGEND_HEIGHT
    card = Image.new("RGB", (width, height), BACKDROP)
    colour = COMPARTMENT_COLOURS[finding.compartment]
    draw_text(
        card, (6, _HEADING_HEIGHT / 2), fit_text(_heading(scene, finding), width - 12, 16), colour, size=16
    )
    top = _HEADING_HEIGHT
    for row in rows:
        card.paste(row, (0, top))
        top += row.height + _GAP
    draw_legend(card, (6, top + _LEGEND_HEIGHT // 2 - _GAP // 2), notes)
    return card


def plane_through(
    axes: BodyAxes, kind: Plane, centre_mm: npt.ArrayLike, size: tuple[int, int], pixel_mm: float
) -> PicturePlane:
    """A picture plane through a point, moved along itself to show as much image as it can."""
    across, along, _ = _LAYOUT[kind]
    place = axes.directions @ np.asarray(centre_mm, dtype=np.float64)
    for axis, pixels in ((across, size[0]), (along, size[1])):
        half = pixels * pixel_mm / 2
        lower, upper = axes.lower_mm[axis] + half, axes.upper_mm[axis] - half
        place[axis] = (lower + upper) / 2 if lower > upper else np.clip(place[axis], lower, upper)
    return plane_about(axes, kind, place @ axes.directions, size, pixel_mm)


def plane_about(
    axes: BodyAxes, kind: Plane, centre_mm: npt.ArrayLike, size: tuple[int, int], pixel_mm: float
) -> PicturePlane:
    """A picture plane with a point in its middle, however much of it lies outside of the image."""
    across, along, _ = _LAYOUT[kind]
    rightward, downward = -axes.directions[across], -axes.directions[along]
    corner = np.asarray(centre_mm, dtype=np.float64) - pixel_mm * (
        (size[0] - 1) / 2 * rightward + (size[1] - 1) / 2 * downward
    )
    return PicturePlane(kind, corner, rightward, downward, size, pixel_mm)


def _lesion_plane(scene: Scene, finding: LesionFinding, kind: Plane, size: tuple[int, int]) -> PicturePlane:
    """Through the lesion's voxel nearest to its centre, so that a curved lesion is met too."""
    lesion = finding.lesion
    points = lesion.grid.to_world(lesion.voxels)
    centre = points[np.linalg.norm(points - np.array(lesion.centroid_mm), axis=1).argmin()]
    extent = np.ptp(points @ scene.axes.directions.T, axis=0) + scene.axes.spacing_mm
    across, along, normal = _LAYOUT[kind]
    middle = (points @ scene.axes.directions.T).mean(axis=0)
    middle[normal] = scene.axes.directions[normal] @ centre
    needed = max(extent[across] / size[0], extent[along] / size[1]) / _LARGEST_SHARE
    return plane_through(
        scene.axes, kind, middle @ scene.axes.directions, size, max(1 / _PIXELS_PER_MM, float(needed))
    )


def _main_row(scene: Scene, finding: LesionFinding) -> Image.Image:
    sagittal = _lesion_plane(scene, finding, Plane.SAGITTAL, _SAGITTAL_SIZE)
    where = f"Sagittal{slice_words(scene, sagittal)}: {_series_name(scene, 0)}"
    plain = with_caption(panel(scene, sagittal, marks=False), where)
    marked = with_caption(panel(scene, sagittal), "Same slice, outlined")
    axial = _lesion_plane(scene, finding, Plane.AXIAL, _REFORMAT_SIZE)
    coronal = _lesion_plane(scene, finding, Plane.CORONAL, _REFORMAT_SIZE)
    right = [
        with_caption(panel(scene, axial), f"Axial{slice_words(scene, axial)}"),
        with_caption(panel(scene, coronal), f"Coronal{slice_words(scene, coronal)}; levels at body height"),
    ]
    row = Image.new("RGB", (2 * (plain.width + _GAP) + right[0].width, plain.height), BACKDROP)
    row.paste(plain, (0, 0))
    row.paste(marked, (plain.width + _GAP, 0))
    for image, top in zip(right, (0, row.height - right[1].height), strict=True):
        row.paste(image, (2 * (plain.width + _GAP), top))
    return row


def _other_series(scene: Scene, finding: LesionFinding) -> list[Image.Image]:
    """The same sagittal slice on the study's other series, in one row; none if there are none."""
    others = range(1, min(len(scene.windows), 1 + _MOST_OTHER_SERIES))
    if not others:
        return []
    plane = _lesion_plane(scene, finding, Plane.SAGITTAL, _OTHER_SIZE)
    images = [
        with_caption(panel(scene, plane, volume=rank), f"Same slice: {_series_name(scene, rank)}")
        for rank in others
    ]
    row = Image.new("RGB", (sum(image.width + _GAP for image in images) - _GAP, images[0].height), BACKDROP)
    for rank, image in enumerate(images):
        row.paste(image, (rank * (image.width + _GAP), 0))
    return [row]


def _series_name(scene: Scene, rank: int) -> str:
    return scene.report.segmentation.volumes[rank].series.name


def _heading(scene: Scene, finding: LesionFinding) -> str:
    levels = ", ".join(scene.level_names[level] for level in finding.levels) or "no level"
    compartment = percent(finding.compartment_probabilities[finding.compartment])
    return (
        f"Lesion {finding.lesion.number}   {levels}   "
        f"lesion {percent(finding.lesion.confidence)} · {finding.compartment.value} {compartment}   "
        f"{volume_text(finding.lesion.volume_mm3)}   {length_text(finding.lesion.longest_diameter_mm)}"
        + ("   needs review" if finding.needs_review else "")
    )
