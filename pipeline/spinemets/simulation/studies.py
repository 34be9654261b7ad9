"""Whole simulated studies: a spine, lesions in it, one or several sequences, and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, VertebralLevel
from spinemets.classification.place import touches
from spinemets.config import ClassificationConfig
from spinemets.io.label_values import VERSE_LABELS
from spinemets.simulation.acquisition import acquire
from spinemets.simulation.contrast import draw_properties
from spinemets.simulation.disease import PhantomLesion
from spinemets.simulation.implicit import draw_waves
from spinemets.simulation.phantom import PhantomOptions, SpinePhantom, draw_spine
from spinemets.simulation.profile import STEP_MM
from spinemets.simulation.rasterisation import PhantomLabels
from spinemets.simulation.shapes import log_uniform
from spinemets.simulation.tissues import LEVEL_OF_CODE
from spinemets.spinal_axis import SpinalAxis, axis_through
from spinemets.volume import Grid, PointMm, Weighting

__all__ = [
    "FieldOfView",
    "SimulatedStudy",
    "StudyOptions",
    "draw_lesions",
    "draw_study",
    "field_of_view",
    "truth_record",
    "verse_numbers",
]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
FieldOfView = Literal["cervical", "thoracic", "lumbar", "whole"]
_L = VertebralLevel
_LIMITS: dict[FieldOfView, tuple[VertebralLevel, VertebralLevel]] = {
    "cervical": (_L.C1, _L.T3),
    "thoracic": (_L.C7, _L.L1),
    "lumbar": (_L.T11, _L.S3),
    "whole": (_L.C1, _L.S5),
}
_MARGIN_MM = 18.0
_SPACING_MM: PointMm = (4.0, 1.0, 1.0)
_RADIUS_MM = (4.0, 14.0)
_INTRADURAL_RADIUS_MM = (2.5, 5.0)
_EPIDURAL_CHANCE = 0.25
_CANAL_SAMPLED_MM = 4.0


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """What a study shows.

    Attributes
    ----------
    region
        The field of view, sagittal.
    weightings
        A sequence each, on one grid.
    lesions
        How many are put in, within the field of view.
    compartments
        What their compartments are drawn from; one that is not in view is left out.
    """

    region: FieldOfView = "lumbar"
    weightings: tuple[Weighting, ...] = (Weighting.T2,)
    lesions: int = 2
    compartments: tuple[Compartment, ...] = tuple(Compartment)
    phantom: PhantomOptions = field(default_factory=PhantomOptions)


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedStudy:
    """Images in arbitrary units, float32, by weighting, and what lies at every voxel of their grid."""

    phantom: SpinePhantom
    images: Mapping[Weighting, Array]
    labels: PhantomLabels


def draw_study(options: StudyOptions, rng: np.random.Generator) -> SimulatedStudy:
    """Draw a spine with lesions and scan it; equal states of ``rng`` give equal studies."""
    phantom = draw_spine(rng, options.phantom)
    grid = field_of_view(phantom, options.region)
    lesions = draw_lesions(phantom, grid, options.lesions, options.compartments, rng)
    phantom = replace(phantom, lesions=lesions)
    properties = draw_properties(rng, phantom.age_years)
    images: dict[Weighting, Array] = {}
    labels = None
    for weighting in options.weightings:
        images[weighting], labels = acquire(phantom, grid, weighting, rng, properties)
    if labels is None:
        raise ValueError("no weighting is asked for; name at least one")
    return SimulatedStudy(phantom, images, labels)


def field_of_view(phantom: SpinePhantom, region: FieldOfView) -> Grid:
    """A sagittal grid over a region: 13 slices of 4 mm, 1 mm in plane."""
    centres = {level: np.array(point) for level, point in phantom.centroids_mm().items()}
    top, foot = (centres[level][2] for level in _LIMITS[region])
    low, high = foot - _MARGIN_MM, top + _MARGIN_MM
    inside = np.array([point for point in centres.values() if low < point[2] < high])
    slices = 17 if region == "whole" else 13
    shape = (slices, 260 if region == "whole" else 210, round(high - low))
    affine = np.diag([*_SPACING_MM, 1.0])
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    corner = middle - (np.array(shape) - 1) / 2 * _SPACING_MM
    affine[:3, 3] = corner[0], corner[1], low
    return Grid(shape, affine)


def draw_lesions(
    phantom: SpinePhantom,
    grid: Grid,
    count: int,
    compartments: Sequence[Compartment],
    rng: np.random.Generator,
) -> tuple[PhantomLesion, ...]:
    """Lesions in what is in view of a spine: of bone around its bodies, others along the canal."""
    low, high = grid.affine[2, 3] + 12, grid.affine[2, 3] + grid.shape[2] * grid.spacing_mm[2] - 12
    bodies = [
        np.array(point)
        for level, point in phantom.centroids_mm().items()
        if level is not _L.C1 and low < point[2] < high
    ]
    heights = np.arange(low, high, 2.0, dtype=np.float32)
    rows = phantom.profile.index_of(heights)
    with_cord = heights[phantom.profile.cord_width_mm[rows] > 3]
    with_sac = heights[phantom.profile.sac_width_mm[rows] > 8]
    drawn = []
    for _ in range(count):
        compartment = compartments[int(rng.integers(len(compartments)))]
        if compartment is Compartment.EXTRADURAL:
            centre = bodies[int(rng.integers(len(bodies)))] + rng.normal(0, (6.0, 5.0, 3.0))
            radii = log_uniform(_RADIUS_MM, rng) * rng.uniform(0.8, 1.2, 3)
        else:
            inside_cord = compartment is Compartment.INTRAMEDULLARY
            possible = with_cord if inside_cord else with_sac
            if not possible.size:
                continue
            centre = _place_in_canal(phantom, float(rng.choice(possible)), inside_cord, rng)
            radius = float(rng.uniform(*_INTRADURAL_RADIUS_MM))
            radii = np.array([radius, radius, radius * rng.uniform(1.2, 2.5)])
        x, y, z = (float(value) for value in centre)
        wide, deep, tall = (float(value) for value in radii)
        epidural = compartment is Compartment.EXTRADURAL and rng.random() < _EPIDURAL_CHANCE
        uneven = draw_waves(rng, (9.0, 25.0), 0.1, 6)
        drawn.append(PhantomLesion(compartment, (x, y, z), (wide, deep, tall), uneven, epidural))
    return tuple(drawn)


def _place_in_canal(
    phantom: SpinePhantom, height_mm: float, inside_cord: bool, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The cord's middle, or a place between cord and dura, in the world."""
    profile = phantom.profile
    row = profile.index_of(np.array([height_mm], dtype=np.float32))[0]
    x, y = float(profile.canal_x_mm[row]), float(profile.canal_y_mm[row] + profile.sac_shift_mm[row])
    if inside_cord:
        y += float(profile.cord_shift_mm[row])
    else:
        turn = rng.uniform(0, 2 * np.pi)
        x += 0.35 * float(profile.sac_width_mm[row]) * np.cos(turn)
        y += 0.35 * float(profile.sac_depth_mm[row]) * np.sin(turn)
    return phantom.deformed((x, y, height_mm))


def verse_numbers(vertebra: Labels) -> Labels:
    """A simulated vertebra map in VerSe's numbers."""
    table = np.zeros(256, dtype=np.uint8)
    for code, level in LEVEL_OF_CODE.items():
        table[code] = VERSE_LABELS[level]
    return np.asarray(table[vertebra])


def truth_record(phantom: SpinePhantom, labels: PhantomLabels) -> dict[str, object]:
    """Levels whose centre is in the image, and every lesion in it with its compartment and levels.

    The form of ``truth.json``, which ``scripts/evaluate.py results`` reads.
    """
    upper = np.array(labels.grid.shape) - 1
    centroids = phantom.centroids_mm()
    levels = [
        {"level": level.value, "centroid_mm": [round(value, 1) for value in point]}
        for level, point in centroids.items()
        if ((labels.grid.to_index(point) >= 0) & (labels.grid.to_index(point) <= upper)).all()
    ]
    canal, lesions = _canal(phantom), []
    for number, lesion in enumerate(phantom.lesions, start=1):
        mask = labels.lesion == number
        if not mask.any():
            continue
        touched, main = _levels_of(labels.vertebra[mask], labels.grid.voxel_volume_mm3)
        centre = labels.grid.to_world(np.argwhere(mask)).mean(axis=0)
        if main is None:
            # Along the canal: behind a tilted sacrum the level nearest in height is the one above.
            place, *bodies = canal.project([tuple(centre), *centroids.values()])[:, 0]
            main = list(centroids)[int(np.abs(np.array(bodies) - place).argmin())]
        region: SpineRegion = main.region
        lesions.append(
            {
                "lesion": number,
                "compartment": lesion.compartment.value,
                "levels": [level.value for level in touched] or [main.value],
                "region": region.value,
                "centroid_mm": [round(float(value), 1) for value in centre],
                "volume_mm3": round(float(mask.sum()) * labels.grid.voxel_volume_mm3),
            }
        )
    return {"levels": levels, "lesions": lesions}


def _canal(phantom: SpinePhantom) -> SpinalAxis:
    """The curve through the canal's middle."""
    profile = phantom.profile
    every = slice(None, None, -round(_CANAL_SAMPLED_MM / STEP_MM))
    heights = profile.bottom_mm + STEP_MM * np.arange(len(profile.cosine))
    middle = zip(profile.canal_x_mm[every], profile.canal_y_mm[every], heights[every], strict=True)
    return axis_through(np.array([phantom.deformed(point) for point in middle]))


def _levels_of(codes: Labels, voxel_mm3: float) -> tuple[list[VertebralLevel], VertebralLevel | None]:
    """The levels that a lesion touches, by what counts in a report, and the one that holds most of it."""
    counts = np.bincount(codes[codes > 0], minlength=256)
    if not counts.any():
        return [], None
    enough = touches(counts, len(codes), voxel_mm3, ClassificationConfig())
    touched = sorted(LEVEL_OF_CODE[int(code)] for code in np.flatnonzero(enough))
    return touched, LEVEL_OF_CODE[int(counts.argmax())]
