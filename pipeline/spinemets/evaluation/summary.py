"""Tables by patient, by size, by exam without lesions, and how far a confidence can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from spinemets.anatomy import Structure
from spinemets.evaluation.lesions import (
    ExamOutcome,
    LesionOutcome,
    diameter_group,
    false_positives_per_exam,
    sensitivity,
    signal_group,
    size_group,
)
from spinemets.evaluation.statistics import (
    bootstrap_interval,
    chance_calibration_error,
    expected_calibration_error,
    wilson_interval,
)
from spinemets.evaluation.tables import Row

if TYPE_CHECKING:
    from spinemets.evaluation.results import ExamScore

__all__ = [
    "calibration_rows",
    "confidence_calls",
    "diameter_rows",
    "found_of",
    "healthy_row",
    "interval_rows",
    "lesion_call_rows",
    "of_size",
    "patient_rows",
    "sequence_rows",
    "signal_rows",
    "structure_rows",
]

Call = tuple[float, bool]
_SIZES = tuple(map(size_group, (500.0, 5000.0)))
_DIAMETERS_MM = (4.0, 7.0, 15.0, 30.0)
_SIGNALS = tuple(map(signal_group, (0.3, 0.6, 1.0, 1.5, 3.0)))
_LARGE = size_group(5000.0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def patient_rows(scores: Sequence[ExamScore]) -> tuple[Row, ...]:
    """What was found in every patient, all of a patient's exams taken together."""
    rows: list[Row] = []
    ordered = sorted(scores, key=lambda score: score.patient)
    for patient, group in groupby(ordered, key=lambda score: score.patient):
        exams = list(group)
        lesions = [one.lesions for one in exams if one.lesions is not None]
        levels = [outcome for one in exams for outcome in one.levels]
        row: dict[str, str | int | float | None] = {"patient": patient, "exams": len(exams)}
        row["mean Dice"] = _mean([value for one in exams for value in one.dice.values()])
        row["levels right"] = sum(one.is_right for one in levels) / len(levels) if levels else None
        row["lesions"] = sum(len(exam.lesions) for exam in lesions) if lesions else None
        row["sensitivity"] = sensitivity(lesions)
        row["false positives per exam"] = false_positives_per_exam(lesions) if lesions else None
        rows.append(row)
    return tuple(rows)


def interval_rows(scores: Sequence[ExamScore]) -> tuple[Row, ...]:
    """Means over exams with 95 % intervals, patients drawn again with replacement."""
    rows: list[Row] = []
    for name, of in _means(scores).items():
        value = of(scores)
        if value is None:
            continue
        low, high = bootstrap_interval(scores, of) or (None, None)
        rows.append({"figure": name, "value": value, "low": low, "high": high})
    return tuple(rows)


def _means(scores: Sequence[ExamScore]) -> dict[str, Callable[[Sequence[ExamScore]], float | None]]:
    def of_structure(kind: str, name: str) -> Callable[[Sequence[ExamScore]], float | None]:
        return lambda drawn: _mean([getattr(one, kind).get(name) for one in drawn])

    def vertebrae(drawn: Sequence[ExamScore]) -> float | None:
        return _mean([float(outcome.is_right) for one in drawn for outcome in one.levels])

    def studies(drawn: Sequence[ExamScore]) -> float | None:
        return _mean([float(all(o.is_right for o in one.levels)) for one in drawn if one.levels])

    names = list(dict.fromkeys(name for score in scores for name in score.dice))
    means = {f"{name} Dice": of_structure("dice", name) for name in names}
    means |= {f"{name} surface Dice": of_structure("surface_dice", name) for name in names}
    return {**means, "vertebrae named right": vertebrae, "studies with every level right": studies}


def diameter_rows(exams: Sequence[ExamOutcome]) -> tuple[Row, ...]:
    """Sensitivity by the diameter of the sphere of a lesion's volume."""
    rows: list[Row] = []
    for group in dict.fromkeys(map(diameter_group, _DIAMETERS_MM)):

        def select(lesion: LesionOutcome, group: str = group) -> bool:
            return diameter_group(lesion.diameter_mm) == group

        rows.append({"diameter": group, **found_of(exams, select)})
    return tuple(rows)


def structure_rows(exams: Sequence[ExamOutcome]) -> tuple[Row, ...]:
    """Sensitivity by the structure that a lesion lies in, for each size; empty where no truth tells it."""
    present = {one.truth.structure for exam in exams for one in exam.lesions}
    rows: list[Row] = []
    for structure in (one for one in Structure if one in present):
        for size in _SIZES:

            def select(one: LesionOutcome, structure: Structure = structure, size: str = size) -> bool:
                return one.truth.structure is structure and size_group(one.volume_mm3) == size

            rows.append({"structure": structure.name.lower(), "lesions": size, **found_of(exams, select)})
    return tuple(rows)


def sequence_rows(scores: Sequence[ExamScore]) -> tuple[Row, ...]:
    """What was found by the sequences that were analysed; empty where no result tells them."""
    rows: list[Row] = []
    for sequences, exams in _by_sequences(scores):
        row: dict[str, str | int | float | None] = {"sequences": sequences, "exams": len(exams)}
        for size in _SIZES:
            row |= {f"{size} {name}": value for name, value in found_of(exams, of_size(size)).items()}
        row["false positives per exam"] = false_positives_per_exam(exams)
        rows.append(row)
    return tuple(rows)


def signal_rows(scores: Sequence[ExamScore]) -> tuple[Row, ...]:
    """Sensitivity for large lesions by how their signal differs from what was there before.

    One sequence at a time; empty where no truth tells the signal.
    """
    rows: list[Row] = []
    for sequences, exams in _by_sequences(scores):
        for group in _SIGNALS:

            def select(one: LesionOutcome, group: str = group) -> bool:
                ratio = one.truth.signal_ratio
                is_large = size_group(one.volume_mm3) == _LARGE
                return is_large and ratio is not None and signal_group(ratio) == group

            found = found_of(exams, select)
            if found["of"]:
                rows.append({"sequences": sequences, "signal ratio": group, "lesions": _LARGE, **found})
    return tuple(rows)


def _by_sequences(scores: Sequence[ExamScore]) -> Iterator[tuple[str, list[ExamOutcome]]]:
    """The exams of the same sequences, where results tell these."""
    for sequences in sorted({score.sequences for score in scores} - {""}):
        exams = [one.lesions for one in scores if one.sequences == sequences and one.lesions is not None]
        if exams:
            yield sequences, exams


def of_size(group: str) -> Callable[[LesionOutcome], bool]:
    """What selects the lesions of one group of sizes."""
    return lambda lesion: size_group(lesion.volume_mm3) == group


def found_of(
    exams: Sequence[ExamOutcome], select: Callable[[LesionOutcome], bool]
) -> dict[str, int | float | None]:
    """How many lesions are selected, and what share of them is found, with its interval."""
    low, high = bootstrap_interval(exams, lambda drawn: sensitivity(drawn, select=select)) or (None, None)
    return {
        "of": sum(select(lesion) for exam in exams for lesion in exam.lesions),
        "found": sensitivity(exams, select=select),
        "low": low,
        "high": high,
    }


def healthy_row(exams: Sequence[ExamOutcome]) -> Row | None:
    """False positives in exams that have no lesion; None where every exam has one."""
    healthy = [exam for exam in exams if not exam.lesions]
    if not healthy:
        return None
    low, high = bootstrap_interval(healthy, false_positives_per_exam) or (None, None)
    rate = false_positives_per_exam(healthy)
    name = "false positives per healthy exam"
    return {"lesions": name, "of": len(healthy), "found": rate, "low": low, "high": high}


def lesion_call_rows(scores: Sequence[ExamScore]) -> tuple[Row, ...]:
    """How often the compartment and the region of a lesion that was found are right."""
    trust = [one for score in scores for one in score.compartment_trust]
    regions = [called == is_ for score in scores for is_, called in score.region_calls]
    clear = [right for _, right, review, _ in trust if not review]
    groups: list[tuple[str, Sequence[bool]]] = [
        ("compartment right", [right for _, right, *_ in trust]),
        ("compartment right, not flagged for review", clear),
        ("flagged for review", [review for _, _, review, _ in trust]),
        ("flagged for its compartment", [asked for *_, asked in trust]),
        ("region right", regions),
    ]
    rows: list[Row] = []
    for name, hits in groups:
        if hits:
            low, high = wilson_interval(sum(hits), len(hits))
            share = sum(hits) / len(hits)
            rows.append({"of lesions found": name, "of": len(hits), "share": share, "low": low, "high": high})
    return tuple(rows)


def confidence_calls(scores: Sequence[ExamScore]) -> Mapping[str, Sequence[Call]]:
    """(confidence, right) of every level name, lesion and compartment that was given."""
    exams = [score.lesions for score in scores if score.lesions is not None]
    real = [(one.score, True) for exam in exams for one in exam.lesions if one.found_by is not None]
    made_up = [(score, False) for exam in exams for score in exam.false_positive_scores]
    return {
        "level names": [call for score in scores for call in score.level_calls],
        "lesions": real + made_up,
        "compartments": [
            (confidence, right)
            for score in scores
            for confidence, right, *_ in score.compartment_trust
            if confidence is not None
        ],
    }


def calibration_rows(scores: Sequence[ExamScore]) -> tuple[Row, ...]:
    """Expected calibration error of every kind of confidence."""
    rows: list[Row] = []
    for what, calls in confidence_calls(scores).items():
        error = expected_calibration_error([c[0] for c in calls], [c[1] for c in calls])
        by_chance = chance_calibration_error([c[0] for c in calls])
        rows.append(
            {
                "confidence of": what,
                "count": len(calls),
                "expected calibration error": error,
                "by chance": by_chance,
            }
        )
    return tuple(rows)
