"""A folder of results against a folder of truths: every score, as named tables.

A truth has the form of a result, and whatever it lacks is not scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.errors import GeometryError
from spinemets.evaluation.lesions import (
    ExamOutcome,
    LesionOutcome,
    LesionTruth,
    false_positives_per_exam,
    match_lesions,
    sensitivity,
    size_group,
)
from spinemets.evaluation.levels import (
    LevelOutcome,
    RateRow,
    identification_rates,
    match_levels,
    studies_all_right,
)
from spinemets.evaluation.overlap import dice, surface_dice
from spinemets.evaluation.statistics import (
    bootstrap_interval,
    confusion_matrix,
    froc,
    sensitivity_at,
)
from spinemets.evaluation.summary import (
    calibration_rows,
    diameter_rows,
    found_of,
    healthy_row,
    interval_rows,
    lesion_call_rows,
    of_size,
    patient_rows,
    sequence_rows,
    signal_rows,
    structure_rows,
)
from spinemets.evaluation.tables import Row, mean_row
from spinemets.volume import Grid, PointMm

__all__ = ["ExamScore", "FindingFacts", "StudyResult", "score_exam", "summarise"]

LabelMap = npt.NDArray[np.integer]
SURFACE_TOLERANCE_MM = 2.0
_COMPARTMENT = "compartment"  # the topic of a finding that a reader must look at for it
CompartmentTrust: TypeAlias = tuple[float | None, bool, bool, bool]
_FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class FindingFacts:
    """What a report or a truth says of one lesion."""

    confidence: float = 1.0
    compartment: Compartment | None = None
    region: SpineRegion | None = None
    structure: Structure | None = None
    signal_ratio: float | None = None
    compartment_confidence: float | None = None
    needs_review: bool = False
    review_topics: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """One study's result or truth; None or empty for what it does not hold.

    Attributes
    ----------
    anatomy, lesions
        Values of ``Structure``, and lesion numbers; shape ``grid.shape``.
    level_centres_mm
        Centre of every named body in RAS+ mm.
    level_confidences
        How sure each name is.
    findings
        By lesion number.
    weightings
        Of the series that were analysed.
    """

    study: str
    grid: Grid
    anatomy: LabelMap | None = None
    lesions: LabelMap | None = None
    level_centres_mm: Mapping[VertebralLevel, PointMm] = field(default_factory=dict)
    level_confidences: Mapping[VertebralLevel, float] = field(default_factory=dict)
    findings: Mapping[int, FindingFacts] = field(default_factory=dict)
    weightings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExamScore:
    """Everything scored for one study.

    Attributes
    ----------
    level_calls
        (confidence, right) of every name given to a vertebra of the truth.
    compartment_calls, region_calls
        (truth, called) of every lesion that was found and whose truth is known.
    compartment_trust
        (confidence, right, flagged for review, flagged for its compartment) of every compartment given
        to such a lesion.
    sequences
        The weightings that were analysed, as in "T1 + T2"; empty where the result does not tell.
    """

    study: str
    dice: Mapping[str, float | None]
    surface_dice: Mapping[str, float | None]
    levels: tuple[LevelOutcome, ...]
    level_calls: tuple[tuple[float, bool], ...]
    lesions: ExamOutcome | None
    compartment_calls: tuple[tuple[str, str], ...]
    region_calls: tuple[tuple[str, str], ...]
    patient: str = ""
    compartment_trust: tuple[CompartmentTrust, ...] = ()
    sequences: str = ""


def _bodies(result: StudyResult) -> dict[VertebralLevel, PointMm]:
    """Where the levels with a body of their own lie: C1 has none, and the sacrum is labelled as one."""
    return {
        level: centre
        for level, centre in result.level_centres_mm.items()
        if level is not VertebralLevel.C1 and level.region is not SpineRegion.SACRAL
    }


def score_exam(predicted: StudyResult, truth: StudyResult, patient: str) -> ExamScore:
    """Score one study against its truth.

    Raises
    ------
    GeometryError
        The two are not on the same grid.
    """
    if not predicted.grid.is_close(truth.grid):
        raise GeometryError(
            f"{truth.study}: the result lies on a grid of {predicted.grid.shape} and the truth on one of "
            f"{truth.grid.shape}, or elsewhere in space; give the truth on the grid of the source series"
        )
    overlaps, surfaces = _structures(predicted, truth)
    levels = match_levels(truth.study, _bodies(truth), _bodies(predicted))
    calls = tuple(
        (predicted.level_confidences.get(outcome.predicted, 1.0), outcome.is_right)
        for outcome in levels
        if outcome.predicted is not None
    )
    lesions = _lesions(predicted, truth, patient)
    found = [] if lesions is None else [one for one in lesions.lesions if one.found_by is not None]
    return ExamScore(
        truth.study,
        overlaps,
        surfaces,
        levels,
        calls,
        lesions,
        _calls(found, predicted, lambda facts: facts.compartment),
        _calls(found, predicted, lambda facts: facts.region),
        patient,
        _trust(found, predicted),
        " + ".join(sorted(set(predicted.weightings))),
    )


def _structures(
    predicted: StudyResult, truth: StudyResult
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    overlaps: dict[str, float | None] = {}
    surfaces: dict[str, float | None] = {}
    if predicted.anatomy is None or truth.anatomy is None:
        return overlaps, surfaces
    for structure in Structure:
        if structure is Structure.BACKGROUND:
            continue
        masks = predicted.anatomy == structure, truth.anatomy == structure
        name = structure.name.lower()
        overlaps[name] = dice(*masks)
        surfaces[name] = surface_dice(*masks, truth.grid.spacing_mm, SURFACE_TOLERANCE_MM)
    return overlaps, surfaces


def _lesions(predicted: StudyResult, truth: StudyResult, patient: str) -> ExamOutcome | None:
    if predicted.lesions is None or truth.lesions is None:
        return None
    return match_lesions(
        (patient, truth.study),
        predicted.lesions,
        truth.lesions,
        voxel_volume_mm3=truth.grid.voxel_volume_mm3,
        confidences={number: facts.confidence for number, facts in predicted.findings.items()},
        known={
            number: LesionTruth(facts.compartment, facts.region, facts.structure, facts.signal_ratio)
            for number, facts in truth.findings.items()
        },
    )


def _calls(
    found: Sequence[LesionOutcome],
    predicted: StudyResult,
    choose: Callable[[LesionTruth | FindingFacts], Compartment | SpineRegion | None],
) -> tuple[tuple[str, str], ...]:
    pairs = []
    for lesion in found:
        facts = predicted.findings.get(lesion.found_by or 0)
        is_, called = choose(lesion.truth), choose(facts) if facts else None
        if is_ is not None:
            pairs.append((is_.value, called.value if called else "none"))
    return tuple(pairs)


def _trust(found: Sequence[LesionOutcome], predicted: StudyResult) -> tuple[CompartmentTrust, ...]:
    trust = []
    for lesion in found:
        facts = predicted.findings.get(lesion.found_by or 0)
        if facts is not None and lesion.truth.compartment is not None:
            right = facts.compartment is lesion.truth.compartment
            asked = _COMPARTMENT in facts.review_topics
            trust.append((facts.compartment_confidence, right, facts.needs_review, asked))
    return tuple(trust)


def summarise(scores: Sequence[ExamScore]) -> dict[str, tuple[Row, ...]]:
    """Named tables of everything that was scored; what no study has is left out."""
    tables: dict[str, tuple[Row, ...]] = {"studies": (*map(_exam_row, scores),)}
    if len(scores) > 1:
        tables["studies"] += (mean_row(tables["studies"]),)
    tables["patients"] = patient_rows(scores)
    tables["means"] = interval_rows(scores)
    outcomes = [outcome for score in scores for outcome in score.levels]
    if outcomes:
        tables["levels"] = _level_rows(outcomes)
    exams = [score.lesions for score in scores if score.lesions is not None]
    if exams:
        tables["lesions"] = _lesion_rows(exams)
    if sensitivity(exams) is not None:
        tables["froc"] = _froc_rows(exams)
        tables["diameters"] = diameter_rows(exams)
    told = {
        "structures": structure_rows(exams),
        "sequences": sequence_rows(scores),
        "signals": signal_rows(scores),
    }
    tables |= {name: rows for name, rows in told.items() if rows}
    tables |= _confusions(scores)
    calls = lesion_call_rows(scores)
    if calls:
        tables["lesions found"] = calls
    tables["calibration"] = calibration_rows(scores)
    return tables


def _exam_row(score: ExamScore) -> Row:
    row: dict[str, str | int | float | None] = {"study": score.study}
    row |= {f"{name} Dice": value for name, value in score.dice.items()}
    row |= {f"{name} surface Dice": value for name, value in score.surface_dice.items()}
    if score.levels:
        row |= {"levels": len(score.levels), "levels right": sum(one.is_right for one in score.levels)}
    if score.lesions is not None:
        row["lesions"] = len(score.lesions.lesions)
        row["lesions found"] = sum(one.found_by is not None for one in score.lesions.lesions)
        row["false positives"] = len(score.lesions.false_positive_scores)
    return row


def _level_rows(outcomes: Sequence[LevelOutcome]) -> tuple[Row, ...]:
    groups: list[RateRow] = [
        studies_all_right(outcomes),
        *identification_rates(outcomes, lambda _: "every vertebra"),
    ]
    groups += identification_rates(outcomes, lambda one: one.truth.region.value)
    groups += identification_rates(outcomes, lambda one: f"field of view {one.field_of_view}")
    return tuple(
        {"group": row.group, "right": row.right, "of": row.total, "rate": row.rate} for row in groups
    )


def _lesion_rows(exams: Sequence[ExamOutcome]) -> tuple[Row, ...]:
    """Sensitivity by size and by compartment, with intervals; false positives in the last row."""
    selections: dict[str, Callable[[LesionOutcome], bool]] = {"all": lambda _: True}
    selections |= {size: of_size(size) for size in map(size_group, (50.0, 500.0, 5000.0))}
    selections |= {one.value: _in_compartment(one) for one in Compartment}
    rows: list[Row] = [{"lesions": name, **found_of(exams, select)} for name, select in selections.items()]
    low, high = bootstrap_interval(exams, false_positives_per_exam) or (None, None)
    rate = false_positives_per_exam(exams)
    name = "false positives per exam"
    rows.append({"lesions": name, "of": len(exams), "found": rate, "low": low, "high": high})
    healthy = healthy_row(exams)
    return (*rows, healthy) if healthy is not None else tuple(rows)


def _in_compartment(compartment: Compartment) -> Callable[[LesionOutcome], bool]:
    return lambda lesion: lesion.truth.compartment is compartment


def _froc_rows(exams: Sequence[ExamOutcome]) -> tuple[Row, ...]:
    curve = froc(exams)
    rows: list[Row] = []
    for rate in _FROC_RATES:

        def at_rate(drawn: Sequence[ExamOutcome], rate: float = rate) -> float | None:
            return None if sensitivity(drawn) is None else sensitivity_at(froc(drawn), rate)

        low, high = bootstrap_interval(exams, at_rate, repeats=200) or (None, None)
        value = sensitivity_at(curve, rate)
        rows.append({"false positives per exam": rate, "sensitivity": value, "low": low, "high": high})
    return tuple(rows)


def _confusions(scores: Sequence[ExamScore]) -> dict[str, tuple[Row, ...]]:
    tables: dict[str, tuple[Row, ...]] = {}
    for name, words, pairs in (
        (
            "compartments",
            [one.value for one in Compartment],
            [p for s in scores for p in s.compartment_calls],
        ),
        ("regions", [one.value for one in SpineRegion], [p for s in scores for p in s.region_calls]),
    ):
        if pairs:
            classes = [*words, "none"]
            counts = confusion_matrix([p[0] for p in pairs], [p[1] for p in pairs], classes)
            tables[name] = tuple(
                {"is": word, **{f"called {other}": int(n) for other, n in zip(classes, row, strict=True)}}
                for word, row in zip(words, counts, strict=False)
            )
    return tables
