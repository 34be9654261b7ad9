"""Marks on a picture: outlines, letters, a scale bar.

Knows pixels and colours only; where things lie in the body is decided by the caller.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
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
    "Sheet",
    "Spot",
    "display_window",
    "draw_orientation",
    "draw_outline",
    "draw_scale_bar",
    "draw_text",
    "fit_text",
    "grey_picture",
    "text_width",
    "to_image",
    "write_where_free",
]

Colour = tuple[int, int, int]
ColourPicture = npt.NDArray[np.float32]
# Column and row of a text, and Pillow's anchor, as "lm" for left and middle.
Spot = tuple[float, float, str]
# Rows and columns.
Box = tuple[slice, slice]

BACKDROP: Colour = (24, 28, 34)
FONT_SIZE = 14
_MUTED: Colour = (205, 210, 216)
_SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)
_RIM, _CLEAR = 2, 4
_DASH, _GAP_SHADE = 3, np.float32(0.3)
_EDGE, _LETTER_STEP = 6, 18


@dataclass(frozen=True, slots=True)
class Outline:
    """How a region's border is drawn.

    Attributes
    ----------
    fill
        Opacity of the region inside, 0 to leave it untouched.
    dashed
        For what is doubtful.
    """

    colour: Colour
    width_px: float = 1.6
    fill: float = 0.0
    dashed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """An image, and which of its pixels letters must leave free.

    Attributes
    ----------
    taken
        Shape (height, width); whatever is written takes its place.
    """

    image: Image.Image
    taken: npt.NDArray[np.bool_]


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
    colours = np.broadcast_to(np.array(outline.colour, dtype=np.float32), picture.shape)
    if outline.dashed:
        # Darker gaps rather than none, so that the border can be followed over bright fluid too.
        rows, columns = np.indices(mask.shape)
        gap = ((columns // _DASH + rows // _DASH) % 2 == 1) & (line > 0)
        colours = np.where(gap[..., None], _GAP_SHADE * colours, colours)
    alpha = np.maximum(line, outline.fill * mask)[..., None].astype(np.float32)
    return np.asarray(picture * (1 - alpha) + alpha * colours)


def to_image(picture: ColourPicture) -> Image.Image:
    """A colour picture as an 8-bit RGB image."""
    return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _writable(text: str) -> str:
    """A text in letters that the font has: "84 mm3" for "84 mm³", "Wirbelsaule" for "Wirbelsäule"."""
    return "".join(map(_letter, unicodedata.normalize("NFC", text)))


@cache
def _letter(character: str) -> str:
    """A character without what the font lacks of it; the character itself where nothing like it is there."""
    decomposed = unicodedata.normalize("NFKD", character)
    plain = "".join(part for part in decomposed if not unicodedata.combining(part))
    if _has(character) or not plain or not all(map(_has, plain)):
        return character
    return plain


def _has(character: str) -> bool:
    """Whether the font has a letter; for all others it draws the same box."""
    box, drawn = (bytes(_font(FONT_SIZE).getmask(one)) for one in ("\uffff", character))
    return drawn != box


def text_width(text: str, size: int = FONT_SIZE) -> int:
    """Width of a text in pixels."""
    return round(_font(size).getlength(_writable(text)))


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
        place,
        _writable(text),
        fill=colour,
        font=_font(size),
        anchor=anchor,
        stroke_width=_RIM,
        stroke_fill=(0, 0, 0),
    )


def write_where_free(
    sheet: Sheet, text: str, spots: Iterable[Spot], colour: Colour = _MUTED, *, at_all_costs: bool = False
) -> None:
    """Write a text at the first spot where it covers nothing and does not run off the image.

    Parameters
    ----------
    at_all_costs
        Where no spot is free, write it at the first one that lies on the image, rather than not.
    """
    on_image = [(spot, box) for spot in spots if _holds(sheet, box := _text_box(sheet, text, spot))]
    free = [(spot, box) for spot, box in on_image if not sheet.taken[box].any()]
    chosen = free or (on_image if at_all_costs else [])
    if chosen:
        (column, row, anchor), box = chosen[0]
        draw_text(sheet.image, (column, row), text, colour, anchor=anchor)
        sheet.taken[tuple(slice(max(0, part.start - _CLEAR), part.stop + _CLEAR) for part in box)] = True


def _text_box(sheet: Sheet, text: str, spot: Spot) -> Box:
    """Rows and columns that a text covers."""
    column, row, anchor = spot
    left, top, right, bottom = ImageDraw.Draw(sheet.image).textbbox(
        (column, row), _writable(text), font=_font(FONT_SIZE), anchor=anchor, stroke_width=_RIM
    )
    return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


def _holds(sheet: Sheet, box: Box) -> bool:
    return all(
        part.start >= 0 and part.stop <= size for part, size in zip(box, sheet.taken.shape, strict=True)
    )


def draw_orientation(sheet: Sheet, letters: Sequence[str]) -> None:
    """Write the letters of the left, right, top and bottom edge, as near to its middle as is free."""
    width, height = sheet.image.size
    left, right, top, bottom = letters
    rows, columns = _from_the_middle(height), _from_the_middle(width)
    write_where_free(sheet, left, [(_EDGE, row, "lm") for row in rows], at_all_costs=True)
    write_where_free(sheet, right, [(width - _EDGE, row, "rm") for row in rows], at_all_costs=True)
    write_where_free(sheet, top, [(column, _EDGE, "mt") for column in columns], at_all_costs=True)
    write_where_free(sheet, bottom, [(column, height - _EDGE, "mb") for column in columns], at_all_costs=True)


def _from_the_middle(length: int) -> list[float]:
    """Places along an edge, the middle first."""
    steps = range(int(length / 2 / _LETTER_STEP))
    return [length / 2 + sign * step * _LETTER_STEP for step in steps for sign in ((1, -1) if step else (1,))]


def draw_scale_bar(sheet: Sheet, pixel_mm: float) -> None:
    """Draw the longest round length that fits a third of the width, at the bottom right, else left."""
    width, height = sheet.image.size
    length_mm = next((mm for mm in _SCALE_BARS_MM if mm / pixel_mm <= width / 3), _SCALE_BARS_MM[-1])
    words, length = f"{length_mm} mm", round(length_mm / pixel_mm)
    extent = max(length, text_width(words)) + 2 * _EDGE
    rows = slice(max(0, height - 36), height)
    right, left = slice(max(0, width - 10 - extent), width), slice(0, 10 + extent)
    on_the_left = bool(sheet.taken[rows, right].any() and not sheet.taken[rows, left].any())
    end = 10 + max(length, text_width(words)) if on_the_left else width - 10
    start, base = end - length, height - 10
    draw = ImageDraw.Draw(sheet.image)
    for colour, stroke in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        draw.line([(start, base), (end, base)], fill=colour, width=stroke)
        for x in (start, end):
            draw.line([(x, base - 4), (x, base + 4)], fill=colour, width=stroke)
    draw_text(sheet.image, (end, base - 7), words, anchor="rb", size=13)
    sheet.taken[rows, left if on_the_left else right] = True
