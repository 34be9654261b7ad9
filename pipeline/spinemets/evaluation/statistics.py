"""FROC curves, bootstrap intervals over patients, calibration and confusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from spinemets.evaluation.lesions import ExamOutcome

__all__ = [
    "FrocCurve",
    "bootstrap_interval",
    "chance_calibration_error",
    "confusion_matrix",
    "expected_calibration_error",
    "froc",
    "reliability",
    "sensitivity_at",
    "wilson_interval",
]


class _OfPatient(Protocol):
    @property
    def patient(self) -> str: ...


_Exam = TypeVar("_Exam", bound=_OfPatient)


@dataclass(frozen=True, slots=True, eq=False)
class FrocCurve:
    """Sensitivity against false positives per exam as the threshold falls; all of shape (n,)."""

    thresholds: npt.NDArray[np.float64]
    false_positives_per_exam: npt.NDArray[np.float64]
    sensitivities: npt.NDArray[np.float64]


def froc(exams: Sequence[ExamOutcome]) -> FrocCurve:
    """The free-response curve over every confidence that occurs, from strict to lenient.

    Raises
    ------
    ValueError
        There are no exams, or there is no lesion in them.
    """
    lesions = [lesion for exam in exams for lesion in exam.lesions]
    if not lesions:
        raise ValueError("no true lesions to score; expected at least one exam with a lesion")
    found = np.sort([lesion.score for lesion in lesions if lesion.found_by is not None])
    made_up = np.sort([score for exam in exams for score in exam.false_positive_scores])
    thresholds = np.unique(np.concatenate((found, made_up)))[::-1]
    if not thresholds.size:
        thresholds = np.array([1.0])
    # A bootstrap draws hundreds of curves, so that every score is sorted but once.
    rates, shares = (
        (scores.size - np.searchsorted(scores, thresholds)) / total
        for scores, total in ((made_up, len(exams)), (found, len(lesions)))
    )
    return FrocCurve(thresholds, rates, shares)


def sensitivity_at(curve: FrocCurve, false_positives_per_exam: float) -> float:
    """The highest sensitivity that costs no more than so many false positives per exam."""
    affordable = curve.sensitivities[curve.false_positives_per_exam <= false_positives_per_exam]
    return float(affordable.max(initial=0.0))


def bootstrap_interval(
    exams: Sequence[_Exam],
    statistic: Callable[[Sequence[_Exam]], float | None],
    *,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of a statistic when patients are drawn again with replacement.

    All exams of a patient are drawn together, as they are not independent. None where fewer than
    two patients have a value: one alone tells nothing of how patients differ.
    """
    by_patient: dict[str, list[_Exam]] = {}
    for exam in exams:
        by_patient.setdefault(exam.patient, []).append(exam)
    patients = list(by_patient.values())
    if sum(statistic(own) is not None for own in patients) < 2:
        return None
    random = np.random.default_rng(seed)
    values = []
    for _ in range(repeats):
        drawn = random.integers(len(patients), size=len(patients))
        value = statistic([exam for index in drawn for exam in patients[index]])
        if value is not None:
            values.append(value)
    if not values:
        return None
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which holds for few and for extreme shares.

    Examples
    --------
    >>> [round(limit, 3) for limit in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    if total == 0:
        return 0.0, 1.0
    share = right / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    spread = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, float(centre - spread)), min(1.0, float(centre + spread))


def expected_calibration_error(
    confidences: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10
) -> float | None:
    """The mean gap between confidence and accuracy over equal bins of confidence, weighted by count.

    Guo et al., ICML 2017. None where there is nothing to score.

    Examples
    --------
    >>> expected_calibration_error([0.9, 0.9, 0.6, 0.6], [True, True, True, False])
    0.1
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if confidence.size == 0:
        return None
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    gaps = np.bincount(place, weights=confidence - right, minlength=bins)
    return round(float(np.abs(gaps).sum() / counts.sum()), 12)


def chance_calibration_error(
    confidences: npt.ArrayLike, bins: int = 10, repeats: int = 500, seed: int = 0
) -> float | None:
    """The expected calibration error that confidences which are exactly true would show by chance.

    The error adds up gaps without their sign, so that few calls never give 0. An error is to be
    compared with this one; None where there is nothing to score.

    Examples
    --------
    >>> chance_calibration_error([1.0, 0.0])
    0.0
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    if confidence.size == 0:
        return None
    rng = np.random.default_rng(seed)
    errors = [
        expected_calibration_error(confidence, rng.random(confidence.size) < confidence, bins) or 0.0
        for _ in range(repeats)
    ]
    return round(float(np.mean(errors)), 12)


def reliability(
    confidences: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean confidence, share that is right, and count of every equal bin of confidence that is not empty.

    Examples
    --------
    >>> [values.tolist() for values in reliability([0.9, 0.95, 0.2], [True, False, False])]
    [[0.2, 0.925], [0.0, 0.5], [1, 2]]
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    means, shares = (
        np.bincount(place, weights=values, minlength=bins)[filled] / counts[filled]
        for values in (confidence, right)
    )
    return means, shares, counts[filled]


def confusion_matrix(
    truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Counts, shape (classes, classes): a row for what it is, a column for what it was called.

    Raises
    ------
    ValueError
        The sequences differ in length, or hold what is not in ``classes``.
    """
    if len(truth) != len(predicted):
        raise ValueError(f"{len(truth)} true values do not fit {len(predicted)} predicted ones")
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for is_, called in zip(truth, predicted, strict=True):
        counts[classes.index(is_), classes.index(called)] += 1
    return counts
