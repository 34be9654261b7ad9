"""The whole visible spine in one picture: every level and every lesion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from spinemets.reporting.drawing import (
    BACKDROP,
    Outline,
    draw_outline,
    draw_scale_bar,
    draw_text,
    fit_text,
    grey_picture,
    text_width,
    to_image,
)
from spinemets.reporting.palette import COMPARTMENT_COLOURS, CORD_COLOUR, SAC_COLOUR
from spinemets.reporting.panels import (
    draw_legend,
    draw_letters,
    draw_levels,
    draw_patch,
    legend_width,
    lesion_outline,
    lesion_sheet,
    slice_words,
    with_caption,
)
from spinemets.reporting.planes import PicturePlane, inside, sample
from spinemets.reporting.scene import (
    DOUBT_NOTE,
    LesionPatch,
    Scene,
    has_doubtful_evidence,
    lesion_label,
    lesion_patch,
)
from spinemets.volume import Plane

__all__ = ["draw_overview", "midline_plane"]

_LARGEST_HEIGHT, _LARGEST_WIDTH, _LARGEST_SCALE = 900, 460, 3.0
_MARGIN_FRONT_MM, _MARGIN_BACK_MM, _MARGIN_ENDS_MM = 40.0, 30.0, 12.0
_LABEL_STEP, _GAP, _LEGEND_HEIGHT = 19, 6, 28
_LEADER_LENGTH = 20
# A lesion whose section is smaller than this share of its shadow lies mostly beside the slice.
_LEAST_SECTION = 0.5

Array = npt.NDArray[np.float64]


def draw_overview(scene: Scene) -> Image.Image:
    """The spine's midline without and with marks; lesions beside it are outlined without a tint."""
    plane = midline_plane(scene)
    grid, points = scene.report.segmentation.grid, plane.points_mm()
    values = sample(scene.report.segmentation.volumes[0].intensities, grid, points)
    grey = grey_picture(values, inside(grid, points), scene.windows[0])
    cut, beside = _lesion_patches(scene, plane)
    plain = lesion_sheet(to_image(grey), [*cut, *beside])
    draw_scale_bar(plain, plane.pixel_mm)
    draw_letters(plain, scene, plane)
    marked = _marked(scene, plane, grey, cut, beside)
    notes = _notes(scene, beside)
    labels = max((text_width(lesion_label(scene, f)) for f in scene.report.findings), default=0)
    panels_width = plain.image.width + _GAP + marked.width
    width = max(panels_width + _LEADER_LENGTH + labels + 2 * _GAP, legend_width(notes) + 2 * _GAP)
    body = Image.new("RGB", (width, _labels_height(scene, plane) + _LEGEND_HEIGHT), BACKDROP)
    body.paste(plain.image, (0, 0))
    body.paste(marked, (plain.image.width + _GAP, 0))
    draw_legend(body, (_GAP, body.height - _LEGEND_HEIGHT // 2), notes)
    picture = with_caption(body, _caption(scene, plane))
    _label_lesions(picture, scene, plane, (plain.image.width + _GAP, picture.height - body.height))
    return picture


def _caption(scene: Scene, plane: PicturePlane) -> str:
    curved = plane.row_shift_mm is not None
    where = ", curved along the canal" if curved else slice_words(scene, plane)
    view = "Midline" if scene.report.vertebrae else "Sagittal"
    return f"{view}{where}: {scene.report.segmentation.volumes[0].series.name}"


def _labels_height(scene: Scene, plane: PicturePlane) -> int:
    """Pixels for the labels beside the picture: those of the picture, or more where there are many."""
    return max(plane.size[1], min(_LABEL_STEP * len(scene.report.findings), _LARGEST_HEIGHT))


def _notes(scene: Scene, beside: list[LesionPatch]) -> list[str]:
    notes = [DOUBT_NOTE] if any(map(has_doubtful_evidence, scene.report.findings)) else []
    return [*notes, "not tinted: beside the shown slice"] if beside else notes


def midline_plane(scene: Scene) -> PicturePlane:
    """The sagittal picture through the middle of the canal, curved where the spine is."""
    axes = scene.axes
    lower, upper = _shown_part(scene)
    extent = upper - lower
    scale = min(_LARGEST_SCALE, _LARGEST_HEIGHT / extent[2], _LARGEST_WIDTH / extent[1])
    size = (max(1, round(extent[1] * scale)), max(1, round(extent[2] * scale)))
    pixel_mm = 1 / scale
    heights = upper[2] - (np.arange(size[1]) + 0.5) * pixel_mm
    lateral = _lateral_course(scene, heights)
    spacing = axes.spacing_mm[0]
    base = float(np.median(lateral))
    # The nearest acquired slice is sharper than a blend of two.
    base = axes.lower_mm[0] + (np.floor((base - axes.lower_mm[0]) / spacing) + 0.5) * spacing
    origin = np.array([base, upper[1] - pixel_mm / 2, heights[0]]) @ axes.directions
    plane = PicturePlane(Plane.SAGITTAL, origin, -axes.directions[1], -axes.directions[2], size, pixel_mm)
    if np.abs(lateral - base).max() <= max(spacing, 3.0):
        return plane
    shift = (lateral - base) * float(axes.directions[0] @ plane.normal)
    return replace(plane, row_shift_mm=shift)


def _shown_part(scene: Scene) -> tuple[Array, Array]:
    """Lower and upper corner, along the body axes, of the part that holds anything found."""
    axes = scene.axes
    found = (scene.report.segmentation.vertebrae > 0) | scene.sac | (scene.lesions > 0)
    if not found.any():
        return axes.lower_mm, axes.upper_mm
    places = _places(scene, found)
    lower = places.min(axis=0) - np.array([0, _MARGIN_BACK_MM, _MARGIN_ENDS_MM])
    upper = places.max(axis=0) + np.array([0, _MARGIN_FRONT_MM, _MARGIN_ENDS_MM])
    return np.maximum(lower, axes.lower_mm), np.minimum(upper, axes.upper_mm)


def _places(scene: Scene, mask: npt.NDArray[np.bool_]) -> Array:
    """The mask's voxels along the body axes, in mm, shape (n, 3)."""
    return np.asarray(scene.report.segmentation.grid.to_world(np.argwhere(mask)) @ scene.axes.directions.T)


def _lateral_course(scene: Scene, heights: Array) -> Array:
    """Where the canal's middle lies from left to right at each height; bodies, if no canal."""
    middle = float((scene.axes.lower_mm[0] + scene.axes.upper_mm[0]) / 2)
    mask = scene.sac if scene.sac.any() else scene.bodies
    if not mask.any():
        return np.full(heights.shape, middle)
    places = _places(scene, mask)
    step = max(3.0, float(scene.axes.spacing_mm[2]))
    rank = np.floor((places[:, 2] - places[:, 2].min()) / step).astype(int)
    counts = np.bincount(rank)
    met = counts > 0
    mean = np.bincount(rank, weights=places[:, 0])[met] / counts[met]
    smooth = ndimage.gaussian_filter1d(mean, sigma=max(1.0, 15.0 / step), mode="nearest")
    at = places[:, 2].min() + (np.flatnonzero(met) + 0.5) * step
    return np.asarray(np.interp(heights, at, smooth))


def _lesion_patches(scene: Scene, plane: PicturePlane) -> tuple[list[LesionPatch], list[LesionPatch]]:
    """What the picture cuts of the lesions, and the shadows of those that lie mostly beside it."""
    cut, beside = [], []
    for finding in scene.report.findings:
        section = lesion_patch(scene, plane, finding)
        shadow = lesion_patch(scene, plane, finding, projected=True)
        if section is None or shadow is None:
            continue
        if (section.region >= 0.5).sum() < _LEAST_SECTION * (shadow.region >= 0.5).sum():
            beside.append(shadow)
        if section.is_seen:
            cut.append(section)
    return cut, beside


def _marked(
    scene: Scene,
    plane: PicturePlane,
    grey: npt.NDArray[np.float32],
    cut: list[LesionPatch],
    beside: list[LesionPatch],
) -> Image.Image:
    """The picture with outlines and levels."""
    grid, points = scene.report.segmentation.grid, plane.points_mm()
    picture = draw_outline(grey, sample(scene.sac, grid, points), Outline(SAC_COLOUR, 1.0))
    picture = draw_outline(picture, sample(scene.cord, grid, points), Outline(CORD_COLOUR, 1.0))
    for patch in beside:
        draw_patch(picture, patch, lesion_outline(patch.finding))
    for patch in cut:
        draw_patch(picture, patch, lesion_outline(patch.finding, fill=0.25))
    sheet = lesion_sheet(to_image(picture), [*cut, *beside])
    draw_scale_bar(sheet, plane.pixel_mm)
    draw_levels(sheet, scene, plane)
    draw_letters(sheet, scene, plane)
    return sheet.image


def _label_lesions(picture: Image.Image, scene: Scene, plane: PicturePlane, corner: tuple[int, int]) -> None:
    """Write the lesions in a column right of the marked panel, each with a line to its place.

    Where there is not room for all, the surest ones have it.
    """
    places = {f: plane.to_pixel(f.lesion.centroid_mm) for f in scene.report.findings}
    height = _labels_height(scene, plane)
    capacity = max(1, height // _LABEL_STEP)
    left_out = len(places) - (capacity - 1) if len(places) > capacity else 0
    surest = sorted(places, key=lambda finding: -finding.lesion.confidence)[: len(places) - left_out]
    findings = sorted(surest, key=lambda finding: places[finding][1])
    room = height - (_LABEL_STEP if left_out else 0)
    rows = _spread([places[finding][1] for finding in findings], _LABEL_STEP, room)
    column = corner[0] + plane.size[0] + _LEADER_LENGTH
    draw = ImageDraw.Draw(picture)
    for finding, row in zip(findings, rows, strict=True):
        x, y = places[finding]
        colour = COMPARTMENT_COLOURS[finding.compartment]
        target = (corner[0] + np.clip(x, 0, plane.size[0]), corner[1] + np.clip(y, 0, plane.size[1]))
        draw.line([target, (column - 4, corner[1] + row)], fill=colour, width=1)
        text = fit_text(lesion_label(scene, finding), picture.width - column - 4)
        draw_text(picture, (column, corner[1] + row), text, colour)
    if left_out:
        more = fit_text(f"and {left_out} less sure, see the table", picture.width - column - 4)
        draw_text(picture, (column, corner[1] + height - _LABEL_STEP / 2), more)


def _spread(wanted: list[float], step: float, height: float) -> list[float]:
    """Rows at least ``step`` apart, in the same order, inside the height, nearest to the wanted ones.

    Nearest by least squares: rows that would overlap are pooled about their common middle.
    """
    blocks: list[tuple[float, int]] = []
    for rank, row in enumerate(wanted):
        total, count = row - rank * step, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
    starts = [total / count for total, count in blocks for _ in range(count)]
    last = height - step / 2 - (len(wanted) - 1) * step
    return [min(max(start, step / 2), last) + rank * step for rank, start in enumerate(starts)]
