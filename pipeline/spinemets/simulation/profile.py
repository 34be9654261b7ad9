"""What varies smoothly from head to foot: the canal's contents and the outline of the body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.simulation.column import VertebraShape
from spinemets.simulation.morphometry import Row
from spinemets.simulation.processes import canal_middle_mm

__all__ = ["AxialProfile", "draw_profile"]

Table = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Along = Callable[[npt.ArrayLike], Floats]  # values per vertebra to values per height
STEP_MM = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class AxialProfile:
    """Values at every half millimetre of height; each array has shape (n,).

    Attributes
    ----------
    bottom_mm
        Height of the first entry.
    canal_x_mm, canal_y_mm
        The middle of the canal.
    cosine
        Of the canal's slope: turns distances at one height into distances across the canal.
    canal_depth_mm, canal_width_mm, sac_depth_mm, sac_width_mm, cord_depth_mm, cord_width_mm
        Full extents across the canal; 0 where there is none.
    sac_shift_mm, cord_shift_mm
        How far the sac lies in front of the canal's middle, and the cord of the sac's.
    front_y_mm
        The front wall of the bodies.
    skin_back_mm, skin_front_mm, skin_half_width_mm, muscle_back_mm, muscle_half_width_mm
        From the canal's middle to the skin and to the muscles' edge.
    neck, chest, belly
        Shares of the regions, adding to 1.
    landmarks_mm
        Heights of the skull base, C7, diaphragm, aortic bifurcation and conus.
    """

    bottom_mm: float
    canal_x_mm: Table
    canal_y_mm: Table
    cosine: Table
    canal_depth_mm: Table
    canal_width_mm: Table
    sac_depth_mm: Table
    sac_width_mm: Table
    sac_shift_mm: Table
    cord_depth_mm: Table
    cord_width_mm: Table
    cord_shift_mm: Table
    front_y_mm: Table
    skin_back_mm: Table
    skin_front_mm: Table
    skin_half_width_mm: Table
    muscle_back_mm: Table
    muscle_half_width_mm: Table
    neck: Table
    chest: Table
    belly: Table
    landmarks_mm: dict[str, float]

    def index_of(self, z_mm: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Table rows for heights; beyond the ends, the end rows."""
        rows = np.rint((z_mm - self.bottom_mm) / STEP_MM)
        return np.asarray(np.clip(rows, 0, len(self.cosine) - 1).astype(np.intp))


def draw_profile(
    levels: Sequence[VertebralLevel],
    rows: Sequence[Row],
    vertebrae: Sequence[VertebraShape],
    rng: np.random.Generator,
) -> AxialProfile:
    """Draw the canal, sac and cord behind a column, and the body around it."""
    placed = vertebrae[: len(levels)]
    canal = np.array(
        [v.to_world((0, -canal_middle_mm(r, lv), 0)) for v, r, lv in zip(placed, rows, levels, strict=True)]
    )
    order = np.argsort(canal[:, 2])
    knots = canal[order, 2]
    heights = np.arange(knots[0] - 60, knots[-1] + 130, STEP_MM)

    def along(values: npt.ArrayLike) -> Floats:
        return np.asarray(np.interp(heights, knots, np.asarray(values, dtype=float)[order]))

    def smooth(values: npt.ArrayLike) -> Floats:
        curve = PchipInterpolator(knots, np.asarray(values, dtype=float)[order])
        inside = np.clip(heights, knots[0], knots[-1])
        return np.asarray(curve(inside))

    z_of = {level: float(canal[i, 2]) for i, level in enumerate(levels)}
    landmarks = _landmarks(levels, z_of, rng)
    canal_y = smooth(canal[:, 1]) + 0.12 * np.maximum(heights - knots[-1], 0)
    slope = np.gradient(canal_y, STEP_MM)
    sac_depth, sac_width, sac_shift = _sac(heights, landmarks, along, rows, rng)
    cord_depth, cord_width, cord_shift = _cord(heights, landmarks["conus"], along, (levels, rows), rng)
    cord_depth = np.minimum(cord_depth, 0.82 * sac_depth)
    cord_width = np.minimum(cord_width, 0.85 * sac_width)
    # The cord hugs the front of the sac in the kyphosis and lies further back in the lordosis.
    room = np.maximum((sac_depth - cord_depth) / 2 - 0.5, 0)
    front = [v.to_world((0, (r.depth_mm / 2), 0))[1] for v, r in zip(placed, rows, strict=True)]
    outline = _outline(levels, along, rng)
    arrays = {
        "canal_x_mm": smooth(canal[:, 0]),
        "canal_y_mm": canal_y,
        "cosine": 1 / np.sqrt(1 + slope**2),
        "canal_depth_mm": along([r.canal_depth_mm for r in rows]),
        "canal_width_mm": along([r.canal_width_mm for r in rows]),
        "sac_depth_mm": sac_depth,
        "sac_width_mm": sac_width,
        "sac_shift_mm": sac_shift,
        "cord_depth_mm": cord_depth,
        "cord_width_mm": cord_width,
        "cord_shift_mm": cord_shift * room,
        "front_y_mm": smooth(front),
        **outline,
    }
    tables = {name: np.asarray(values, dtype=np.float32) for name, values in arrays.items()}
    return AxialProfile(bottom_mm=float(heights[0]), landmarks_mm=landmarks, **tables)


def _landmarks(
    levels: Sequence[VertebralLevel], z_of: dict[VertebralLevel, float], rng: np.random.Generator
) -> dict[str, float]:
    last_thoracic = max(level for level in levels if level.region is SpineRegion.THORACIC)
    lumbar = [level for level in levels if level.region is SpineRegion.LUMBAR]
    pitch = z_of[lumbar[0]] - z_of[lumbar[1]]
    conus = z_of[lumbar[0]] + pitch * float(np.clip(rng.normal(-0.1, 0.6), -1.3, 1.2))
    sac_end = z_of[VertebralLevel.S2] + float(np.clip(rng.normal(0, 9), -18, 18))
    return {
        "skull_base": z_of[VertebralLevel.C1] + 11.0,
        "c7": z_of[VertebralLevel.C7],
        "diaphragm": z_of[last_thoracic] + float(rng.normal(20, 12)),
        "bifurcation": z_of[lumbar[-2]] + float(rng.normal(-5, 8)),
        "conus": conus,
        "sac_end": sac_end,
    }


def _sac(
    heights: Floats, landmarks: dict[str, float], along: Along, rows: Sequence[Row], rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Depth, width and forward shift of the sac."""
    end = landmarks["sac_end"]
    taper = np.clip((heights - end) / 30, 0, 1) ** 0.5
    depth = np.minimum(along([r.sac_depth_mm for r in rows]), along([r.canal_depth_mm for r in rows]) - 1)
    width = along([r.sac_width_mm for r in rows])
    depth, width = depth * np.where(heights > end, np.maximum(taper, 0.25), 0), width * taper
    spare = along([r.canal_depth_mm for r in rows]) - depth
    # Fat lies behind the sac down to L4 and in front of it at L5 and S1.
    forward = np.interp(heights, (-10, 25, 60), (-0.15, 0.1, 0.36)) * rng.uniform(0.6, 1.1)
    return depth, width, spare * forward


def _cord(
    heights: Floats,
    conus: float,
    along: Along,
    column: tuple[Sequence[VertebralLevel], Sequence[Row]],
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats]:
    """Depth, width and forward shift (as a share of the room there is) of the cord."""
    levels, rows = column
    # Above the conus the lumbar enlargement, whatever level it happens to reach.
    taper = np.clip((heights - conus) / 28, 0, 1)
    enlarged = np.exp(-(((heights - conus - 42) / 22) ** 2))
    upper = [level.region in (SpineRegion.CERVICAL, SpineRegion.THORACIC) for level in levels]
    depth_row = [r.cord_depth_mm if u else 6.6 for r, u in zip(rows, upper, strict=True)]
    width_row = [r.cord_width_mm if u else 8.2 for r, u in zip(rows, upper, strict=True)]
    size = rng.normal(1.0, 0.05)
    depth = size * np.maximum(along(depth_row), 6.4 + 1.4 * enlarged) * taper**0.6
    width = size * np.maximum(along(width_row), 8.0 + 1.4 * enlarged) * taper**0.6
    knots = [
        {SpineRegion.CERVICAL: 0.1, SpineRegion.THORACIC: 0.7}.get(level.region, -0.7) for level in levels
    ]
    shift = along(knots) * rng.uniform(0.6, 1.1) + rng.normal(0, 0.1)
    below = heights < conus + 2
    return np.where(below, 0, depth), np.where(below, 0, width), np.clip(shift, -1, 1)


_OUTLINE = {  # level: skin back (without fat), front, half width, muscle back, muscle half width, fat share
    "C1": (42, 105, 74, 36, 55, 0.25),
    "C4": (44, 75, 62, 40, 55, 0.3),
    "C7": (52, 70, 78, 48, 66, 0.45),
    "T2": (44, 100, 165, 42, 90, 0.5),
    "T8": (44, 165, 155, 40, 75, 0.6),
    "T11": (46, 165, 150, 42, 72, 0.75),
    "L2": (56, 160, 148, 53, 75, 0.9),
    "L4": (58, 165, 150, 54, 78, 1.2),
    "S1": (44, 160, 160, 38, 70, 1.4),
    "S3": (24, 140, 160, 15, 55, 1.4),
    "S5": (18, 120, 150, 8, 40, 1.0),
}


def _outline(levels: Sequence[VertebralLevel], along: Along, rng: np.random.Generator) -> dict[str, Floats]:
    """The skin, the muscles and the shares of the regions, by the profile's names."""
    known = [level.value for level in levels]
    places = [known.index(name) for name in _OUTLINE if name in known]
    table = np.array([values for name, values in _OUTLINE.items() if name in known], dtype=float)
    columns = [np.interp(np.arange(len(known)), places, table[:, i]) for i in range(table.shape[1])]
    back, front, half_width, muscle_back, muscle_width, fat_share = columns
    fat_mm, girth = np.exp(rng.normal(np.log(17), 0.5)), rng.uniform(0.85, 1.3)
    stature = rng.uniform(0.9, 1.12)
    neck = np.array([1.0 if name[0] == "C" else 0.5 if name == "T1" else 0.0 for name in known])
    belly = np.array([1.0 if name[0] in "LS" else 0.0 for name in known])
    return {
        "skin_back_mm": along(stature * back + fat_mm * fat_share + 3),
        "skin_front_mm": along(front * girth),
        "skin_half_width_mm": along(half_width * girth**0.5),
        "muscle_back_mm": along(stature * muscle_back),
        "muscle_half_width_mm": along(stature * muscle_width),
        "neck": along(neck),
        "chest": along(1 - neck - belly),
        "belly": along(belly),
    }
