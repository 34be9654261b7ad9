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
from spinemets.simulation.column import DiscShape, VertebraShape, stack_column
from spinemets.simulation.disease import PhantomLesion
from spinemets.simulation.implicit import Waves, draw_waves, smooth_waves
from spinemets.simulation.morphometry import COCCYX, Row, region_rows
from spinemets.simulation.profile import AxialProfile, draw_profile
from spinemets.volume import PointMm

__all__ = ["PhantomOptions", "SpinePhantom", "draw_spine"]

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
    lesions
        None are drawn; put them in with ``dataclasses.replace``.
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
    lesions: tuple[PhantomLesion, ...] = ()

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
    vertebrae, discs = stack_column(levels, rows, tilts, (age, options.fracture), rng)
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
    scaled = []
    slender, canal_size = rng.normal(1.0, 0.04), rng.normal(1.0, 0.06)
    for row in rows:
        changes = {}
        for name in Row.__dataclass_fields__:
            value = getattr(row, name)
            if name.endswith("_mm"):
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


def _with_mimic(vertebra: VertebraShape, options: PhantomOptions, rng: np.random.Generator) -> VertebraShape:
    drawn = rng.random()
    if vertebra.body is None or vertebra.is_sacral:
        return vertebra
    if vertebra.genant_grade and drawn < 0.4:
        return replace(vertebra, mimic="oedema")
    if drawn < options.mimics:
        return replace(vertebra, mimic=str(rng.choice(("oedema", "fat", "haemangioma"))))
    return vertebra
