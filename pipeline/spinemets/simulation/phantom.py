"""A whole spine as parameters: every vertebra, disc, the canal and the body around them.

``draw_spine`` draws one; ``rasterisation.rasterise`` turns it into label maps on any grid.
The origin is the middle of the sacrum's upper endplate; axes are RAS+ mm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.findings import PointMm
from spinemets.simulation.implicit import BodyShape, Capsule, Waves, draw_waves, smooth_waves
from spinemets.simulation.morphometry import COCCYX, Row, region_rows
from spinemets.simulation.processes import posterior_elements, ribs
from spinemets.simulation.profile import AxialProfile, draw_profile

__all__ = ["DiscShape", "PhantomOptions", "SpinePhantom", "VertebraShape", "draw_spine"]

Vector = npt.NDArray[np.float64]
Numbering = Literal["usual", "T13", "L6", "no T12", "no L5"]
_COUNTS: dict[str, tuple[int, int]] = {
    "usual": (12, 5),
    "T13": (13, 5),
    "L6": (12, 6),
    "no T12": (11, 5),
    "no L5": (12, 4),
}


@dataclass(frozen=True, slots=True)
class PhantomOptions:
    """What kinds of spine are drawn.

    Attributes
    ----------
    numbering
        The number of thoracic and lumbar vertebrae; None draws one, mostly the usual.
    age_years
        Drawn uniformly; decides disc degeneration, osteophytes and marrow fat.
    size
        Factor on all lengths, drawn uniformly.
    fracture
        Chance that a phantom has collapsed vertebrae.
    scoliosis_deg
        Standard deviation of the lateral tilt's amplitude.
    mimics
        Chance per body of a benign change that resembles a lesion (oedema or fat along an
        endplate, a haemangioma).
    """

    numbering: Numbering | None = None
    age_years: tuple[float, float] = (20.0, 85.0)
    size: tuple[float, float] = (0.92, 1.18)
    fracture: float = 0.12
    scoliosis_deg: float = 2.5
    mimics: float = 0.06


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
        return self.centre_mm + self.frame @ np.asarray(local, dtype=float)


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


@dataclass(frozen=True, slots=True, eq=False)
class SpinePhantom:
    """A spine, head to foot, with the canal and the body around it.

    Attributes
    ----------
    deformation
        Three smooth functions that move every point, in mm.
    roughness
        A smooth function that makes every surface uneven, in mm.
    fields
        Smooth functions of unit deviation that arrange the soft tissue.
    """

    vertebrae: tuple[VertebraShape, ...]
    discs: tuple[DiscShape, ...]
    profile: AxialProfile
    deformation: tuple[Waves, Waves, Waves]
    roughness: Waves
    fields: tuple[Waves, ...]
    age_years: float
    size: float
    numbering: Numbering

    @property
    def levels(self) -> tuple[VertebralLevel, ...]:
        """Every level it has, head to foot."""
        return tuple(v.level for v in self.vertebrae if v.level is not None)

    def centroids_mm(self) -> dict[VertebralLevel, PointMm]:
        """Centre of every body in RAS+ mm, as it lies after deformation."""
        centroids = {}
        for vertebra in self.vertebrae:
            if vertebra.level is not None:
                local = (0.0, 7.5 * self.size, 0.0) if vertebra.body is None else (0.0, 0.0, 0.0)
                x, y, z = self.deformed(vertebra.to_world(local))
                centroids[vertebra.level] = (float(x), float(y), float(z))
        return centroids

    def deformed(self, point_mm: npt.ArrayLike) -> Vector:
        """Where a point of the undeformed phantom lies in the world."""
        target = np.asarray(point_mm, dtype=float)
        point = target.copy()
        for _ in range(4):  # the deformation is given from the world inwards: invert by iteration
            x, y, z = (np.array([value], dtype=np.float32) for value in point)
            point = target - np.array([smooth_waves((x, y, z), waves)[0] for waves in self.deformation])
        return point


def draw_spine(rng: np.random.Generator, options: PhantomOptions | None = None) -> SpinePhantom:
    """Draw a spine from the coccyx to the skull base.

    Parameters
    ----------
    rng
        The only source of chance: equal states give equal spines.
    """
    options = options or PhantomOptions()
    numbering = options.numbering or _draw_numbering(rng)
    size, age = float(rng.uniform(*options.size)), float(rng.uniform(*options.age_years))
    levels, rows = _plan(numbering, size, rng)
    tilts = _draw_tilts(levels, rows, options, rng)
    vertebrae, discs = _stack(levels, rows, tilts, (age, options.fracture), rng)
    vertebrae = tuple(_with_mimic(v, options, rng) for v in vertebrae)
    return SpinePhantom(
        vertebrae=vertebrae,
        discs=discs,
        profile=draw_profile(levels, rows, vertebrae, rng),
        deformation=(
            draw_waves(rng, (50.0, 220.0), 1.2, 8),
            draw_waves(rng, (50.0, 220.0), 1.2, 8),
            draw_waves(rng, (50.0, 220.0), 1.0, 8),
        ),
        roughness=draw_waves(rng, (8.0, 25.0), float(rng.uniform(0.2, 0.45)), 8),
        fields=tuple(draw_waves(rng, limits, 1.0, 10) for limits in _FIELD_WAVELENGTHS_MM),
        age_years=age,
        size=size,
        numbering=numbering,
    )


_FIELD_WAVELENGTHS_MM = ((25.0, 80.0), (8.0, 25.0), (6.0, 14.0), (40.0, 120.0))


def _draw_numbering(rng: np.random.Generator) -> Numbering:
    names: tuple[Numbering, ...] = ("usual", "T13", "L6", "no T12", "no L5")
    return names[int(rng.choice(5, p=(0.8, 0.05, 0.06, 0.045, 0.045)))]


def _plan(
    numbering: Numbering, size: float, rng: np.random.Generator
) -> tuple[tuple[VertebralLevel, ...], tuple[Row, ...]]:
    thoracic, lumbar = _COUNTS[numbering]
    counts = zip(SpineRegion, (7, thoracic, lumbar, 5), strict=True)
    levels: list[VertebralLevel] = []
    rows: list[Row] = []
    for region, count in counts:
        members = [level for level in VertebralLevel if level.region is region]
        levels += members[:count]
        rows += region_rows(region, count)
    lengths = ("_mm",)
    scaled = []
    slender, canal_size = rng.normal(1.0, 0.04), rng.normal(1.0, 0.06)
    for row in rows:
        changes = {}
        for name in Row.__dataclass_fields__:
            value = getattr(row, name)
            if name.endswith(lengths):
                factor = size * float(np.clip(rng.normal(1.0, 0.025), 0.92, 1.08))
                factor *= slender if name in ("width_mm", "depth_mm") else 1.0
                if name.startswith(("canal", "sac")):
                    factor = size**0.5 * canal_size
                elif name.startswith("cord"):
                    factor = size**0.3
                changes[name] = value * factor
        scaled.append(replace(row, **changes))
    return tuple(levels), tuple(scaled)


def _draw_tilts(
    levels: tuple[VertebralLevel, ...],
    rows: tuple[Row, ...],
    options: PhantomOptions,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Forward and sideways lean of every vertebra and coccygeal segment, (n, 2), in degrees."""
    forward = np.array([row.tilt_deg for row in rows] + [segment[3] for segment in COCCYX])
    regions = [level.region for level in levels] + [SpineRegion.SACRAL] * len(COCCYX)
    lumbar, thoracic, cervical = rng.normal((0.92, 0.9, 0.8), (0.25, 0.25, 0.8))
    for index, region in enumerate(regions):
        if region is SpineRegion.CERVICAL:
            forward[index] = 12.0 * thoracic + cervical * (forward[index] - 12.0)
        else:
            forward[index] *= thoracic if region is SpineRegion.THORACIC else lumbar
    forward = forward + rng.normal(0.0, 4.0)
    place = np.linspace(0.0, 1.0, len(forward))
    amplitude = abs(rng.normal(0.0, options.scoliosis_deg)) * (4.0 if rng.random() < 0.08 else 1.0)
    sideways = amplitude * np.sin(2 * np.pi * (rng.uniform(0.8, 2.0) * place + rng.random()))
    jitter = rng.normal(0.0, 1.0, (len(forward), 2))
    tilts = np.stack([forward, sideways], axis=1) + jitter
    tilts[-len(COCCYX) :, 0] += rng.normal(0.0, 10.0)
    return np.clip(tilts, -70.0, 66.0)


def _frame(forward_deg: float, sideways_deg: float) -> npt.NDArray[np.float64]:
    a, b = np.radians((forward_deg, sideways_deg))
    pitch = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    roll = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return np.asarray(pitch @ roll)


def _stack(
    levels: tuple[VertebralLevel, ...],
    rows: tuple[Row, ...],
    tilts: npt.NDArray[np.float64],
    chances: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[tuple[VertebraShape, ...], tuple[DiscShape, ...]]:
    """Stack vertebrae upwards from the sacrum's upper endplate, and the sacrum downwards."""
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
            gap, processes = 1.5, ()
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
        middle_loss_mm=float(loss * (1.0 - 0.7 * frontal)),
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
    return VertebraShape(
        level, centre, frame, body, parts, posterior_elements(level, row, rng), side_ribs
    )


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


def _with_mimic(vertebra: VertebraShape, options: PhantomOptions, rng: np.random.Generator) -> VertebraShape:
    drawn = rng.random()
    if vertebra.body is None or vertebra.is_sacral:
        return vertebra
    if vertebra.genant_grade and drawn < 0.4:
        return replace(vertebra, mimic="oedema")
    if drawn < options.mimics:
        return replace(vertebra, mimic=str(rng.choice(("oedema", "fat", "haemangioma"))))
    return vertebra
