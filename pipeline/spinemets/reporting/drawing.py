"""Marks on a picture: outlines, letters, a scale bar, a legend.

Knows pixels and colours only; where things lie in the body is decided by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

__all__ = [
    "BACKDROP",
    "FONT_SIZE",
    "Outline",
    "display_window",
    "draw_orientation",
    "draw_outline",
    "draw_scale_bar",
    "draw_text",
    "fit_text",
    "grey_picture",
    "text_width",
    "to_image",
]

Colour = tuple[int, int, int]
ColourPicture = npt.NDArray[np.float32]

BACKDROP: Colour = (24, 28, 34)
FONT_SIZE = 14
_MUTED: Colour = (205, 210, 216)
_SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True, slots=True)
class Outline:
    """How a region's border is drawn.

    Attributes
    ----------
    fill
        Opacity of the region inside, 0 to leave it untouched.
    dashed
        For what lies outside the shown slice.
    """

    colour: Colour
    width_px: float = 1.6
    fill: float = 0.0
    dashed: bool = False


def display_window(intensities: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Darkest and brightest shown intensity: robust percentiles of what is not padding."""
    values = intensities[intensities != 0]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (1.0, 99.0))
    return float(low), float(high)


def grey_picture(
    values: npt.NDArray[np.float32], within: npt.NDArray[np.bool_], window: tuple[float, float]
) -> ColourPicture:
    """Intensities, shape (h, w), as grey RGB in 0-255, shape (h, w, 3); the backdrop elsewhere."""
    low, high = window
    grey = 255 * np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[~within] = BACKDROP
    return picture.astype(np.float32)


def draw_outline(picture: ColourPicture, region: npt.NDArray[np.float32], outline: Outline) -> ColourPicture:
    """The picture with the border of a region over it; the region is what is 0.5 or more."""
    mask = region >= 0.5
    if not mask.any():
        return picture
    padded = np.pad(mask, 1, mode="edge")
    depth = ndimage.distance_transform_edt(padded) - ndimage.distance_transform_edt(~padded)
    depth = depth[1:-1, 1:-1]
    half = outline.width_px / 2
    line = np.clip(half + 0.5 - np.abs(depth - np.sign(depth) * 0.5), 0, 1)
    if outline.dashed:
        line = line * _dashes(mask)
    alpha = np.maximum(line, outline.fill * mask)[..., None].astype(np.float32)
    return np.asarray(picture * (1 - alpha) + alpha * np.array(outline.colour, dtype=np.float32))


def _dashes(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Rays from the region's centre that cut its border into dashes of about 5 pixels."""
    rows, columns = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    angle = np.arctan2(y - rows.mean(), x - columns.mean()) / (2 * np.pi) + 0.5
    pairs = max(4, round(2 * np.sqrt(np.pi * mask.sum()) / 10))
    return np.asarray((angle * pairs) % 1 < 0.55)


def to_image(picture: ColourPicture) -> Image.Image:
    """A colour picture as an 8-bit RGB image."""
    return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def text_width(text: str, size: int = FONT_SIZE) -> int:
    """Width of a text in pixels."""
    return round(_font(size).getlength(text))


def fit_text(text: str, width: int, size: int = FONT_SIZE) -> str:
    """The text, cut with an ellipsis where it is wider than ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def draw_text(
    image: Image.Image,
    place: tuple[float, float],
    text: str,
    colour: Colour = _MUTED,
    *,
    anchor: str = "lm",
    size: int = FONT_SIZE,
) -> None:
    """Write a text with a dark rim; ``anchor`` is Pillow's, as "lm" for left and middle."""
    ImageDraw.Draw(image).text(
        place, text, fill=colour, font=_font(size), anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0)
    )


def draw_orientation(image: Image.Image, letters: Sequence[str]) -> None:
    """Write the letters of the left, right, top and bottom edge."""
    width, height = image.size
    left, right, top, bottom = letters
    draw_text(image, (6, height / 2), left, anchor="lm")
    draw_text(image, (width - 6, height / 2), right, anchor="rm")
    draw_text(image, (width / 2, 5), top, anchor="mt")
    draw_text(image, (width / 2, height - 5), bottom, anchor="mb")


def draw_scale_bar(image: Image.Image, pixel_mm: float) -> None:
    """Draw the longest round length that fits a third of the width, at the bottom right."""
    width, height = image.size
    length_mm = next((mm for mm in _SCALE_BARS_MM if mm / pixel_mm <= width / 3), _SCALE_BARS_MM[-1])
    start, end, base = width - 10 - round(length_mm / pixel_mm), width - 10, height - 10
    draw = ImageDraw.Draw(image)
    for colour, stroke in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        draw.line([(start, base), (end, base)], fill=colour, width=stroke)
        for x in (start, end):
            draw.line([(x, base - 4), (x, base + 4)], fill=colour, width=stroke)
    draw_text(image, (end, base - 7), f"{length_mm} mm", anchor="rb", size=13)
