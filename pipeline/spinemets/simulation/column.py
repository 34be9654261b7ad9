"""Vertebrae and discs in place: a column stacked up from the sacrum's upper endplate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.simulation.implicit import BodyShape, Capsule
from spinemets.simulation.morphometry import COCCYX, Row
from spinemets.simulation.processes import posterior_elements, ribs

__all__ = ["DiscShape", "VertebraShape", "stack_column"]

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class VertebraShape:
    """One vertebra in place.

    Attributes
    ----------
    level
        None for a segment of the coccyx.
    centre_mm
        Of the body (for C1, of the dens that stands in its ring), before deformation.
    frame
        Columns are the body's own right, front and up.
    body
        None for C1, which has none.
    body_parts
        Rods that count as body: the dens of C2, the front arch and lateral masses of C1.
    processes
        The posterior elements; for the sacrum, its wings and crest.
    genant_grade
        0 for a body of full height, else 1 to 3.
    mimic
        "", "oedema", "fat" or "haemangioma".
    """

    level: VertebralLevel | None
    centre_mm: Vector
    frame: npt.NDArray[np.float64]
    body: BodyShape | None
    body_parts: tuple[Capsule, ...] = ()
    processes: tuple[Capsule, ...] = ()
    ribs: tuple[Capsule, ...] = ()
    genant_grade: int = 0
    mimic: str = ""

    @property
    def is_sacral(self) -> bool:
        """True from S1 to the coccyx."""
        return self.level is None or self.level.region is SpineRegion.SACRAL

    def to_world(self, local: npt.ArrayLike) -> Vector:
        """A point in the vertebra's frame to undeformed world mm."""
        return np.asarray(self.centre_mm + self.frame @ np.asarray(local, dtype=float))


@dataclass(frozen=True, slots=True, eq=False)
class DiscShape:
    """One disc in place.

    Attributes
    ----------
    gap_mm
        Height between the rims of the endplates, in the middle.
    opening_deg
        Angle by which it is higher in front.
    grade
        0 healthy, 1 intermediate, 2 desiccated.
    bulge_mm
        How far it stands out behind.
    """

    centre_mm: Vector
    frame: npt.NDArray[np.float64]
    width_mm: float
    depth_mm: float
    gap_mm: float
    opening_deg: float
    grade: int
    bulge_mm: float


def _frame(forward_deg: float, sideways_deg: float) -> npt.NDArray[np.float64]:
    a, b = np.radians((forward_deg, sideways_deg))
    pitch = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    roll = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return np.asarray(pitch @ roll)


def stack_column(
    levels: tuple[VertebralLevel, ...],
    rows: tuple[Row, ...],
    tilts: npt.NDArray[np.float64],
    chances: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[tuple[VertebraShape, ...], tuple[DiscShape, ...]]:
    """Stack vertebrae upwards from the sacrum's upper endplate, and the sacrum downwards.

    Parameters
    ----------
    levels, rows
        Head to foot, S5 last.
    tilts
        Shape (n, 2): forward and sideways lean in degrees, with the coccyx.
    chances
        Age in years, and the chance that vertebrae are fractured.
    """
    age, fracture = chances
    frames = [_frame(*tilt) for tilt in tilts]
    first_sacral = levels.index(VertebralLevel.S1)
    fractured = _draw_fractures(levels, fracture, rng)
    vertebrae: dict[int, VertebraShape] = {}
    discs: dict[int, DiscShape] = {}

    top = np.zeros(3)
    for index in range(first_sacral - 1, -1, -1):
        row, frame, below = rows[index], frames[index], frames[index + 1]
        gap = row.disc_below_mm * _disc_shrinkage(age, rng)
        up = (frame[:, 2] + below[:, 2]) / np.linalg.norm(frame[:, 2] + below[:, 2])
        opening = tilts[index + 1, 0] - tilts[index, 0]
        if levels[index] is not VertebralLevel.C1:
            discs[index] = _disc(index, top + up * gap / 2, (rows, frames), gap, opening, age, rng)
        bottom = top + up * gap
        body = _body(levels[index], row, fractured.get(index, 0), age, rng)
        # C1 has no body: its frame sits in the dens, above the body of C2.
        rise = 0.4 * row.height_mm if body is None else row.height_mm / 2
        centre = bottom + frame[:, 2] * rise
        vertebrae[index] = _vertebra(levels[index], row, (centre, frame), body, rng)
        vertebrae[index] = replace(vertebrae[index], genant_grade=fractured.get(index, 0))
        top = centre + frame[:, 2] * row.height_mm / 2
        if levels[index] is VertebralLevel.C2:
            top = centre + frame[:, 2] * (row.height_mm / 2 + 1.0)
    _stack_sacrum(levels, rows, frames, first_sacral, (vertebrae, discs), rng)
    return tuple(vertebrae[i] for i in sorted(vertebrae)), tuple(discs[i] for i in sorted(discs))


def _stack_sacrum(
    levels: tuple[VertebralLevel, ...],
    rows: tuple[Row, ...],
    frames: list[npt.NDArray[np.float64]],
    first: int,
    built: tuple[dict[int, VertebraShape], dict[int, DiscShape]],
    rng: np.random.Generator,
) -> None:
    vertebrae, discs = built
    top = np.zeros(3)
    remnant = rng.uniform(0.3, 1.6)
    for index in range(first, len(frames)):
        frame, level = frames[index], levels[index] if index < len(levels) else None
        if level is None:
            width, depth, height, _ = COCCYX[index - len(levels)]
            body: BodyShape | None = BodyShape(width, depth, height, squareness=2.2)
            gap = 1.5
            processes: tuple[Capsule, ...] = ()
        else:
            row = rows[index]
            body = _body(level, row, 0, 40.0, rng)
            gap, processes = row.disc_below_mm * remnant, posterior_elements(level, row, rng)
        height = body.height_mm if body is not None else 0.0
        vertebrae[index] = VertebraShape(level, top - frame[:, 2] * height / 2, frame, body, (), processes)
        bottom = top - frame[:, 2] * height
        if level is not None and index + 1 < len(levels):
            middle = bottom - frame[:, 2] * gap / 2
            discs[index] = DiscShape(
                middle, frame, row.width_mm * 0.55, row.depth_mm * 0.75, gap, 0.0, 2 if gap < 2.5 else 1, 0.0
            )
        top = bottom - frame[:, 2] * gap


def _disc_shrinkage(age: float, rng: np.random.Generator) -> float:
    return float(np.clip(rng.normal(1.08 - 0.003 * age, 0.14), 0.35, 1.3))


def _draw_fractures(
    levels: tuple[VertebralLevel, ...], chance: float, rng: np.random.Generator
) -> dict[int, int]:
    if rng.random() >= chance:
        return {}
    candidates = [i for i, level in enumerate(levels) if VertebralLevel.T3 < level < VertebralLevel.L6]
    # Most osteoporotic fractures lie about the thoracolumbar junction.
    weights = np.array([1.0 + 3.0 * (VertebralLevel.T10 < levels[i] < VertebralLevel.L3) for i in candidates])
    chosen = rng.choice(candidates, size=1 + int(rng.poisson(0.6)), replace=False, p=weights / weights.sum())
    return {int(index): int(rng.integers(1, 4)) for index in chosen}


def _body(
    level: VertebralLevel, row: Row, grade: int, age: float, rng: np.random.Generator
) -> BodyShape | None:
    if level is VertebralLevel.C1:
        return None
    sacral = level.region is SpineRegion.SACRAL
    small = level.region is SpineRegion.CERVICAL or sacral
    # Genant: 20-25 %, 25-40 % and more than 40 % of the height.
    loss = row.height_mm * (0.0, 0.225, 0.33, 0.5)[grade] * rng.uniform(0.92, 1.08)
    frontal = float(rng.choice((1.0, 0.15, 0.6)))
    concavity = (0.4 if small else 1.0) * rng.uniform(0.6, 1.9, 2)
    return BodyShape(
        width_mm=row.width_mm,
        depth_mm=row.depth_mm,
        height_mm=row.height_mm,
        waist=float(rng.uniform(0.03, 0.08) if small else rng.uniform(0.07, 0.16)),
        concavity_mm=(float(concavity[0]), float(concavity[1])),
        squareness=float(rng.uniform(2.3, 3.1)),
        front_loss_mm=float(loss * frontal),
        # The upper endplate's front half and both endplates' bowls add up to the loss in the middle.
        middle_loss_mm=float(loss * (1.0 - 0.5 * frontal) / 1.4),
        osteophyte_mm=0.0 if sacral else float(max(0.0, rng.normal((age - 45) / 25, 0.7))),
    )


def _vertebra(
    level: VertebralLevel,
    row: Row,
    pose: tuple[Vector, npt.NDArray[np.float64]],
    body: BodyShape | None,
    rng: np.random.Generator,
) -> VertebraShape:
    centre, frame = pose
    parts: tuple[Capsule, ...] = ()
    scale = row.width_mm / 20
    if level is VertebralLevel.C2:
        rise = row.height_mm / 2
        dens_mm = 13.0 * row.height_mm / 20
        parts = (Capsule((0, 0, 0), (0, -0.5, rise + dens_mm - 4.5), (5.0, 5.2, 5.0)),)
    elif level is VertebralLevel.C1:
        arch = 8.8 * scale
        parts = (
            Capsule((-12 * scale, arch - 4, 0), (0, arch, 0.5), (3, 3, 5)),
            Capsule((12 * scale, arch - 4, 0), (0, arch, 0.5), (3, 3, 5)),
            Capsule((-16 * scale, -4, -2), (-16 * scale, 2, 2), (6.5, 6, 7)),
            Capsule((16 * scale, -4, -2), (16 * scale, 2, 2), (6.5, 6, 7)),
        )
    side_ribs = ribs(row, level, rng) if level.region is SpineRegion.THORACIC else ()
    return VertebraShape(level, centre, frame, body, parts, posterior_elements(level, row, rng), side_ribs)


def _disc(
    index: int,
    centre: Vector,
    column: tuple[tuple[Row, ...], list[npt.NDArray[np.float64]]],
    gap: float,
    opening: float,
    age: float,
    rng: np.random.Generator,
) -> DiscShape:
    rows, frames = column
    upper, lower = rows[index], rows[index + 1]
    mean = frames[index] + frames[index + 1]
    frame = mean / np.linalg.norm(mean, axis=0)
    wear = rng.normal((age - 35) / 22 + (0.9 - gap / upper.disc_below_mm) * 2, 0.6)
    grade = int(np.clip(np.round(wear), 0, 2))
    bulge = max(0.0, rng.normal(0.4 * grade, 0.7)) * (2.5 if rng.random() < 0.06 else 1.0)
    return DiscShape(
        centre_mm=centre,
        frame=frame,
        width_mm=(upper.width_mm + lower.width_mm) / 2 * 1.01,
        depth_mm=min(upper.depth_mm, lower.depth_mm) + 1.0,
        gap_mm=gap,
        opening_deg=float(opening),
        grade=grade,
        bulge_mm=float(bulge),
    )
