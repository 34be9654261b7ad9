"""Scoring against the lumbar exams of the SPIDER dataset (van der Graaf et al., Sci Data 2024).

What their label maps hold, as seen in 27 exams with the labels joined to three classes
(1 vertebra with its arch, 2 disc, 3 spinal canal):

- Vertebrae are labelled from the lowest lumbar one up to the edge of the image, a part of a
  vertebra at the edge included, now and then without its arch. The sacrum and its arches are
  not labelled, nor are the transverse processes beyond the slab of slices.
- Discs are labelled from the lumbosacral one upwards; rudimentary sacral discs are not.
- The canal is labelled down to about S1 or S2, where it stops though the sac goes on; the
  cord is part of it.

So each class is scored only in the slices across the spine's axis (head to foot) in which
the truth has that class: what lies above or below may be there without a label. Everything
within those slices counts, left, right, front and back.

The dataset's exams count vertebrae upwards from L5. Without instances the count comes from the discs:
the vertebra above the lowest disc is taken for L5, which is wrong in transitional anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt

from spinemets.anatomy import SpineRegion, Structure, VertebralLevel
from spinemets.errors import GeometryError
from spinemets.evaluation.levels import LevelOutcome, field_of_view
from spinemets.evaluation.overlap import dice, surface_dice
from spinemets.evaluation.tables import Row
from spinemets.volume import Grid, Mask

__all__ = ["SpiderPrediction", "SpiderScore", "body_centres_mm", "score_spider", "scored_slices"]

VERTEBRA, DISC, CANAL = 1, 2, 3
SURFACE_TOLERANCE_MM = 2.0
_CLASSES = {
    "vertebra": (VERTEBRA, (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS)),
    "disc": (DISC, (Structure.DISC,)),
    "canal": (CANAL, (Structure.THECAL_SAC, Structure.CORD)),
}
_NAMES = [
    level
    for level in reversed(VertebralLevel)
    if level.region in (SpineRegion.LUMBAR, SpineRegion.THORACIC) and not level.is_supernumerary
]
_SMALLEST_DISC = 0.2
_PROBE_MM = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class SpiderPrediction:
    """A result on the grid of the exam.

    Attributes
    ----------
    anatomy
        Values of ``Structure``.
    levels
        Vertebrae by the numbers of ``names``.
    names
        The level that each number stands for.
    lesions
        Lesions by number. The exams are of patients with low back pain, none known to have
        metastases: what is found there counts as made up.
    """

    anatomy: npt.NDArray[np.integer]
    levels: npt.NDArray[np.integer]
    names: dict[int, VertebralLevel]
    lesions: npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class SpiderScore:
    """How one exam's result agrees with its labels; None where a class is in neither."""

    subject: str
    dice: dict[str, float | None]
    surface_dice: dict[str, float | None]
    levels: tuple[LevelOutcome, ...]
    lesions: int

    def row(self) -> Row:
        """One row of a table."""
        right = sum(outcome.is_right for outcome in self.levels)
        wrong = [
            f"{outcome.truth.value} as {outcome.predicted.value if outcome.predicted else 'none'}"
            for outcome in self.levels
            if not outcome.is_right
        ]
        return {
            "subject": self.subject,
            **{f"{name} Dice": value for name, value in self.dice.items()},
            **{f"{name} surface Dice": value for name, value in self.surface_dice.items()},
            "levels right": right,
            "levels": len(self.levels),
            "wrong levels": ", ".join(wrong) or None,
            "lesions": self.lesions,
        }


def score_spider(
    subject: str, prediction: SpiderPrediction, truth: npt.NDArray[np.integer], grid: Grid
) -> SpiderScore:
    """Score one exam as the module describes.

    Raises
    ------
    GeometryError
        The arrays are not of the grid's shape.
    """
    for array in (prediction.anatomy, prediction.levels, prediction.lesions, truth):
        if array.shape != grid.shape:
            raise GeometryError(
                f"{subject}: a map of shape {array.shape} does not fit a grid of {grid.shape}"
            )
    overlaps: dict[str, float | None] = {}
    surfaces: dict[str, float | None] = {}
    for name, (value, structures) in _CLASSES.items():
        scored = scored_slices(truth == value, grid)
        found, true = np.isin(prediction.anatomy, structures)[scored], (truth == value)[scored]
        overlaps[name] = dice(found, true)
        surfaces[name] = surface_dice(found, true, grid.spacing_mm, SURFACE_TOLERANCE_MM)
    lesions = len(np.unique(prediction.lesions[prediction.lesions > 0]))
    return SpiderScore(subject, overlaps, surfaces, _named(subject, prediction, truth, grid), lesions)


def scored_slices(mask: Mask, grid: Grid) -> tuple[slice, slice, slice]:
    """The slices across the head-foot axis from the first to the last that the mask touches."""
    axis = int(np.abs(grid.affine[2, :3] / np.array(grid.spacing_mm)).argmax())
    others = tuple(k for k in range(3) if k != axis)
    touched = np.flatnonzero(mask.any(axis=others))
    first, last = (int(touched[0]), int(touched[-1])) if touched.size else (0, -1)
    slices = [slice(None)] * 3
    slices[axis] = slice(first, last + 1)
    return slices[0], slices[1], slices[2]


def body_centres_mm(
    truth: npt.NDArray[np.integer], grid: Grid
) -> dict[VertebralLevel, npt.NDArray[np.float64]]:
    """Centres of the bodies between two labelled discs, from L5 upwards, in RAS+ mm.

    The centre is the middle between the centres of the discs; it is left out where the truth
    shows no vertebra there.
    """
    discs = _disc_centres_mm(truth, grid)
    centres = {}
    for level, below, above in zip(_NAMES, discs[:-1], discs[1:], strict=False):
        centre = (below + above) / 2
        index = tuple(np.rint(grid.to_index(centre)).astype(int))
        if truth[index] == VERTEBRA:
            centres[level] = centre
    return centres


def _disc_centres_mm(truth: npt.NDArray[np.integer], grid: Grid) -> list[npt.NDArray[np.float64]]:
    """Centres of the labelled discs from foot to head; crumbs of labels are no discs."""
    statistics = cc3d.statistics(cc3d.connected_components(truth == DISC, connectivity=6))
    sizes, middles = statistics["voxel_counts"][1:], statistics["centroids"][1:]
    if sizes.size == 0:
        return []
    whole = sizes >= _SMALLEST_DISC * np.median(sizes[sizes >= 0.05 * sizes.max()])
    centres = [grid.to_world(middle) for middle in middles[whole]]
    return sorted(centres, key=lambda centre: float(centre[2]))


def _named(
    subject: str, prediction: SpiderPrediction, truth: npt.NDArray[np.integer], grid: Grid
) -> tuple[LevelOutcome, ...]:
    """The name found around the centre of every true body, by majority of the named voxels."""
    centres = body_centres_mm(truth, grid)
    seen = field_of_view(list(centres))
    reach = np.ceil(_PROBE_MM / np.array(grid.spacing_mm)).astype(int)
    outcomes = []
    for level, centre in centres.items():
        index = np.rint(grid.to_index(centre)).astype(int)
        low, high = np.maximum(index - reach, 0), index + reach + 1
        around = prediction.levels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        numbers = np.bincount(around[around > 0])
        found = prediction.names.get(int(numbers.argmax())) if numbers.size else None
        outcomes.append(LevelOutcome(subject, seen, level, found))
    return tuple(outcomes)
