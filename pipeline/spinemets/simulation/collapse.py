"""Vertebrae that have lost height, in any labelled scan: old fractures, which are no lesions.

A collapse is a shift along foot-head alone, so that one map of heights moves image and labels
alike. Axes are (left-right, back-front, foot-head).
"""

from __future__ import annotations

from typing import TypeVar

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.volume import Mask, PointMm

__all__ = ["draw_collapse", "moved_image", "moved_labels"]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Heights = npt.NDArray[np.float32]
_Scalar = TypeVar("_Scalar", bound=np.generic)

_LOSS = (0.15, 0.55)  # of a body's height: Genant's grades 1 to 3 begin at 0.20, 0.25 and 0.40
_FADE_BEHIND_MM = 12.0
_FADE_ABOVE_MM = 150.0  # over several vertebrae, each stretched by little
_SMALLEST_MM = 12.0


def draw_collapse(structures: Labels, spacing_mm: PointMm, rng: np.random.Generator) -> Heights | None:
    """Where each height of a scan comes from once one of its vertebrae has lost height.

    The upper endplate sinks: most at the front (wedge), in the middle (biconcave) or everywhere
    (crush). What lies above follows, ever less.

    Returns
    -------
    array or None
        float32, (rows, heights): index along foot-head to take, for ``moved_image``, beyond the
        last one where the scan ends; None where no body is seen that could collapse.

    Notes
    -----
    Genant et al. 1993, "Vertebral fracture assessment using a semiquantitative technique",
    J Bone Miner Res 8:1137-1148.
    """
    bodies = cc3d.connected_components(structures == Structure.VERTEBRAL_BODY, connectivity=6)
    boxes = ndimage.find_objects(bodies.astype(np.int32))
    if not boxes:
        return None
    chosen = int(rng.integers(len(boxes)))
    _, rows, heights = boxes[chosen]
    extents_mm = [
        (cut.stop - cut.start) * step for cut, step in zip((rows, heights), spacing_mm[1:], strict=True)
    ]
    # Whole bodies only; two that touch would sink as one.
    if min(extents_mm) < _SMALLEST_MM or extents_mm[1] > 45 or heights.stop == structures.shape[2]:
        return None
    body = bodies[:, rows, heights] == chosen + 1
    lower, upper = (ends + heights.start for ends in _endplates(body))
    sinking = rng.uniform(*_LOSS) * (upper - lower) * _profile(len(lower), rng)
    before, after = rows.start, structures.shape[1] - rows.stop
    lower, upper = (np.pad(ends, (before, after), mode="edge") for ends in (lower, upper))
    sinking = np.pad(sinking, (before, after), mode="edge")
    behind_mm = (rows.start - np.arange(structures.shape[1])) * spacing_mm[1]
    sinking *= np.clip(1 - behind_mm / _FADE_BEHIND_MM, 0, 1)
    height = np.arange(structures.shape[2])
    places = (lower, upper - sinking, upper + _FADE_ABOVE_MM / spacing_mm[2])
    shift = [np.interp(height, xs, (0, s, 0)) for *xs, s in zip(*places, sinking, strict=True)]
    return np.asarray(height + np.stack(shift), dtype=np.float32)


def moved_image(image: Array, heights: Heights) -> Array:
    """An image as a collapse leaves it, interpolated along foot-head."""
    last = image.shape[2] - 1
    places = np.clip(heights, 0, last)[None]
    below = np.minimum(places.astype(np.intp), last - 1)
    lower, upper = (np.take_along_axis(image, below + step, axis=2) for step in (0, 1))
    return np.asarray(lower + (places - below) * (upper - lower), dtype=np.float32)


def moved_labels(labels: npt.NDArray[_Scalar], heights: Heights) -> npt.NDArray[_Scalar]:
    """Labels as a collapse leaves them, each voxel taken from the nearest."""
    places = np.clip(np.rint(heights), 0, labels.shape[2] - 1).astype(np.intp)
    return np.take_along_axis(labels, places[None], axis=2)


def _endplates(body: Mask) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Height of the lower and the upper endplate at every row, (rows,) each, smoothed."""
    top = body.shape[2]
    seen = body.any(axis=2)
    low = np.where(seen, body.argmax(axis=2), np.nan)
    high = np.where(seen, top - body[:, :, ::-1].argmax(axis=2), np.nan)
    rows = np.arange(body.shape[1])
    ends = []
    for values in (low, high):
        known = np.flatnonzero(seen.any(axis=0))
        middle = np.nanmedian(values[:, known], axis=0)
        ends.append(ndimage.gaussian_filter1d(np.interp(rows, known, middle), 3.0, mode="nearest"))
    return ends[0], np.maximum(ends[1], ends[0] + 1)


def _profile(rows: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """How far each row of the endplate sinks, from the back to the front: 0..1."""
    place = np.linspace(0, 1, rows)
    wedge = rng.uniform(0, 0.3) + (1 - rng.uniform(0, 0.3)) * place
    biconcave = 1 - (2 * place - 1) ** 2 * rng.uniform(0.5, 1.0)
    crush = np.full(rows, rng.uniform(0.7, 1.0))
    shapes = (wedge, biconcave, crush)
    return np.clip(shapes[int(rng.choice(3, p=(0.5, 0.35, 0.15)))], 0, 1)
