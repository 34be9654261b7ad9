"""How well levels are named on simulated spines, whose true levels are known.

Kinds of study, one sagittal series each:

- ``sacrum``: thoracolumbar, the sacrum in view, usual numbering.
- ``neither``: neither sacrum nor C2 in view, usual numbering.
- ``whole``: from above C2 to the sacrum, usual numbering.
- ``T13`` and ``L6``: as ``sacrum``, with a thirteenth thoracic or a sixth lumbar vertebra.
- ``T13_whole`` and ``L6_whole``: the same in whole view, where all vertebrae can be counted.

A study is *right* where every vertebra wholly in view, C2 to the lowest lumbar one, is found and
bears its name. It is *flagged* where every name that is wrong is marked uncertain, and none of
its vertebrae is missed; that a study shows neither sacrum nor C2 is a caution of every such
report and flags nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.evaluation.levels import LevelOutcome, match_levels
from spinemets.evaluation.statistics import wilson_interval
from spinemets.evaluation.tables import Row
from spinemets.findings import StudyReport
from spinemets.simulation.acquisition import acquire
from spinemets.simulation.phantom import Numbering, PhantomOptions, SpinePhantom, draw_spine
from spinemets.volume import Grid, PointMm, Series, Study, Volume, Weighting

__all__ = ["KINDS", "PhantomStudy", "PhantomVerdict", "all_studies", "draw_study", "judge", "phantom_tables"]

KINDS = ("sacrum", "neither", "T13", "L6", "whole", "T13_whole", "L6_whole")
_NUMBERING: dict[str, Numbering] = {"T13": "T13", "T13_whole": "T13", "L6": "L6", "L6_whole": "L6"}
_WEIGHTINGS = (Weighting.T2, Weighting.T1, Weighting.T2_FS)
_SLICES, _SLICE_MM, _DEPTH_MM = 13, 4.0, 220
# What must be in view of a vertebra's height for its name to be asked for.
_HALF_BODY_MM = 14.0


@dataclass(frozen=True, slots=True, eq=False)
class PhantomStudy:
    """A simulated study and the centres of the bodies wholly in view, in RAS+ mm."""

    name: str
    kind: str
    study: Study
    truth: Mapping[VertebralLevel, PointMm]


@dataclass(frozen=True, slots=True)
class PhantomVerdict:
    """What became of one study.

    Attributes
    ----------
    right
        Every vertebra is found and named right.
    flagged
        Not right, but every wrong name is marked uncertain, and no vertebra is missed.
    cautioned
        The report holds a caution on the numbering beside that.
    wrong, missed
        Numbers of vertebrae.
    """

    name: str
    kind: str
    weighting: str
    seen: str
    right: bool
    flagged: bool
    cautioned: bool
    wrong: int
    missed: int
    outcomes: tuple[LevelOutcome, ...]

    def row(self) -> Row:
        """One row of a table."""
        errors = [
            f"{one.truth.value} as {one.predicted.value if one.predicted else 'none'}"
            for one in self.outcomes
            if not one.is_right
        ]
        return {
            "study": self.name,
            "kind": self.kind,
            "weighting": self.weighting,
            "in view": self.seen,
            "right": int(self.right),
            "flagged": int(self.flagged),
            "wrong": self.wrong,
            "missed": self.missed,
            "errors": ", ".join(errors[:6]) + (", ..." if len(errors) > 6 else ""),
        }


def draw_study(kind: str, index: int, seed: int = 0) -> PhantomStudy:
    """The ``index``-th study of a kind; always the same for one seed.

    Raises
    ------
    KeyError
        There is no such kind.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), index])
    phantom = draw_spine(rng, PhantomOptions(numbering=_NUMBERING.get(kind, "usual")))
    grid = _field_of_view(phantom, kind, rng)
    weighting = _WEIGHTINGS[index % len(_WEIGHTINGS)]
    image, _ = acquire(phantom, grid, weighting, rng)
    name = f"{kind}_{index:03d}"
    series = Series(name, f"{name}_{weighting.name}", weighting.value, weighting=weighting, plane=grid.plane)
    study = Study(name, (Volume(image, grid, series),))
    low, high = grid.affine[2, 3], grid.affine[2, 3] + (grid.shape[2] - 1) * grid.spacing_mm[2]
    truth: dict[VertebralLevel, PointMm] = {
        level: centre
        for level, centre in phantom.centroids_mm().items()
        if level != VertebralLevel.C1
        and level.region is not SpineRegion.SACRAL
        and low + _HALF_BODY_MM < centre[2] < high - _HALF_BODY_MM
    }
    return PhantomStudy(name, kind, study, truth)


def _field_of_view(phantom: SpinePhantom, kind: str, rng: np.random.Generator) -> Grid:
    centres = {level: np.array(point) for level, point in phantom.centroids_mm().items()}
    names = [level for level in phantom.levels if level in centres]
    lumbar = [level for level in names if level.region is SpineRegion.LUMBAR]
    if kind == "neither":
        height = rng.uniform(190, 300)
        # From somewhere above the sacrum to somewhere below C2.
        lowest = centres[lumbar[-1]][2] - 8
        highest = centres[VertebralLevel.C4][2]
        foot = rng.uniform(lowest, max(lowest, highest - height))
    elif kind.endswith("whole"):
        foot = centres[VertebralLevel.S1][2] - rng.uniform(45, 80)
        height = centres[VertebralLevel.C2][2] + rng.uniform(35, 60) - foot
    else:
        height = rng.uniform(300, 440)
        foot = centres[VertebralLevel.S1][2] - rng.uniform(45, 80)
    inside = np.array([point for point in centres.values() if foot < point[2] < foot + height])
    shape = (_SLICES, _DEPTH_MM, round(height))
    affine = np.diag([_SLICE_MM, 1.0, 1.0, 1.0])
    x = inside[:, 0].mean() + rng.normal(0, 3)
    y = inside[:, 1].mean() + rng.uniform(-0.1, 0.1) * _DEPTH_MM
    affine[:3, 3] = x - (_SLICES - 1) / 2 * _SLICE_MM, y - _DEPTH_MM / 2, foot
    return Grid(shape, affine)


def judge(study: PhantomStudy, report: StudyReport, review_confidence: float) -> PhantomVerdict:
    """Compare the levels of a report with the truth.

    Parameters
    ----------
    review_confidence
        Below it a level is marked uncertain (``LevelConfig.review_confidence``).
    """
    found = {vertebra.level: vertebra for vertebra in report.vertebrae}
    outcomes = match_levels(
        study.name, study.truth, {level: vertebra.centroid_mm for level, vertebra in found.items()}
    )
    wrong = [one.predicted for one in outcomes if one.predicted is not None and not one.is_right]
    missed = sum(one.predicted is None for one in outcomes)
    right = not wrong and not missed
    return PhantomVerdict(
        name=study.name,
        kind=study.kind,
        weighting=study.study.reference.series.weighting.value,
        seen=outcomes[0].field_of_view if outcomes else "none",
        right=right,
        flagged=not right
        and not missed
        and all(found[level].confidence < review_confidence for level in wrong),
        cautioned=bool(report.cautions),
        wrong=len(wrong),
        missed=missed,
        outcomes=outcomes,
    )


def phantom_tables(verdicts: Sequence[PhantomVerdict]) -> dict[str, tuple[Row, ...]]:
    """Rates by kind with 95 % intervals, and every study."""
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in verdicts)]
    return {
        "kinds": tuple(_kind_row(kind, [one for one in verdicts if one.kind == kind]) for kind in kinds),
        "studies": tuple(one.row() for one in verdicts),
    }


def _kind_row(kind: str, verdicts: Sequence[PhantomVerdict]) -> Row:
    right = sum(one.right for one in verdicts)
    safe = right + sum(one.flagged for one in verdicts)
    low, high = wilson_interval(safe, len(verdicts))
    vertebrae = [outcome for one in verdicts for outcome in one.outcomes]
    return {
        "kind": kind,
        "studies": len(verdicts),
        "all right": right / len(verdicts),
        "right or flagged": safe / len(verdicts),
        "low": low,
        "high": high,
        "vertebrae right": sum(one.is_right for one in vertebrae) / max(1, len(vertebrae)),
        "vertebrae missed": sum(one.missed for one in verdicts),
    }


def all_studies(count: int, kinds: Iterable[str], seed: int) -> Iterator[PhantomStudy]:
    """``count`` studies of every kind, drawn one after the other."""
    for kind in kinds:
        for index in range(count):
            yield draw_study(kind, index, seed)
