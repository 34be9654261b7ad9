"""Lesions found, missed and made up, one by one.

The rule: a predicted lesion finds a true one where their intersection over union is at
least 0.1; it is a false positive where less than a tenth of it lies in any true lesion. A
fragment inside a true lesion that is too small to find it is neither. One prediction may
find two true lesions that it joins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, SpineRegion, Structure

__all__ = [
    "UNKNOWN",
    "ExamOutcome",
    "LesionOutcome",
    "LesionTruth",
    "diameter_group",
    "false_positives_per_exam",
    "match_lesions",
    "sensitivity",
    "signal_group",
    "size_group",
]

MINIMUM_IOU = 0.1
MINIMUM_SHARE_INSIDE = 0.1
UNKNOWN = 255
_MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class LesionTruth:
    """What is known of a true lesion besides its voxels; None where it is not known.

    Attributes
    ----------
    structure
        What most of it lies in.
    signal_ratio
        Its signal as a share of what was there before, where it was implanted into one sequence.
    """

    compartment: Compartment | None = None
    region: SpineRegion | None = None
    structure: Structure | None = None
    signal_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class LesionOutcome:
    """What became of one true lesion.

    Attributes
    ----------
    number
        Its value in the truth's label map.
    found_by
        The predicted lesion of the greatest confidence that finds it; None where it was missed.
    score
        That lesion's confidence; 0 where it was missed.
    """

    number: int
    volume_mm3: float
    truth: LesionTruth
    found_by: int | None
    score: float

    @property
    def diameter_mm(self) -> float:
        """Diameter of the sphere of the same volume, in mm."""
        return float(np.cbrt(6 * self.volume_mm3 / np.pi))


@dataclass(frozen=True, slots=True)
class ExamOutcome:
    """One exam: its true lesions, and what was made up.

    Attributes
    ----------
    false_positive_scores
        The confidences of predicted lesions that are none.
    false_positives
        The numbers of these, in the same order.
    """

    patient: str
    study: str
    lesions: tuple[LesionOutcome, ...]
    false_positive_scores: tuple[float, ...]
    false_positives: tuple[int, ...] = ()


def match_lesions(
    study: tuple[str, str],
    predicted: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    *,
    voxel_volume_mm3: float,
    confidences: Mapping[int, float],
    known: Mapping[int, LesionTruth],
) -> ExamOutcome:
    """Match two instance maps by the module's rule.

    Parameters
    ----------
    study
        The patient's and the study's name.
    predicted, truth
        0 or a lesion's number, of one shape. 255 in a truth says that nothing is known there,
        unless it is a lesion's number in ``known``: such voxels do not count, and a prediction that
        mostly lies there is not made up.
    confidences
        By the number of a predicted lesion; 1 where it is absent.
    known
        By the number of a true lesion; nothing is known where it is absent.
    """
    unknowable: set[int] = set()
    if UNKNOWN not in known:
        predicted, truth, unknowable = _where_known(predicted, truth)
    sizes_predicted, sizes_true, common = _overlaps(predicted, truth)
    found: dict[int, tuple[float, int]] = {}
    for (p, t), shared in common.items():
        union = sizes_predicted[p] + sizes_true[t] - shared
        if shared / union >= MINIMUM_IOU:
            found[t] = max(found.get(t, (-1.0, 0)), (confidences.get(p, 1.0), p))
    lesions = tuple(
        LesionOutcome(
            number=t,
            volume_mm3=size * voxel_volume_mm3,
            truth=known.get(t, LesionTruth()),
            found_by=found[t][1] if t in found else None,
            score=found[t][0] if t in found else 0.0,
        )
        for t, size in sorted(sizes_true.items())
    )
    inside = {p: sum(n for (q, _), n in common.items() if q == p) for p in sizes_predicted}
    made_up = [
        p
        for p, size in sizes_predicted.items()
        if inside[p] / size < MINIMUM_SHARE_INSIDE and p not in unknowable
    ]
    scores = tuple(confidences.get(p, 1.0) for p in made_up)
    return ExamOutcome(*study, lesions, false_positive_scores=scores, false_positives=tuple(made_up))


def _where_known(
    predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], set[int]]:
    """Both maps without what is unknown, and the numbers of predicted lesions that mostly lie there."""
    unknown = truth == UNKNOWN
    if not unknown.any():
        return predicted, truth, set()
    numbers, sizes = np.unique(predicted[predicted > 0], return_counts=True)
    hidden = np.array([int((predicted[unknown] == number).sum()) for number in numbers.tolist()])
    mostly = set(numbers[hidden > _MOSTLY * sizes].tolist())
    return np.where(unknown, 0, predicted), np.where(unknown, 0, truth), mostly


def _overlaps(
    predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]
) -> tuple[dict[int, int], dict[int, int], dict[tuple[int, int], int]]:
    """Voxels of every predicted lesion, of every true one, and of every pair that overlaps."""
    lesions = (predicted > 0) | (truth > 0)
    highest = int(truth.max(initial=0)) + 1
    # One number for each pair, so that one sort of lesion voxels counts them all.
    codes = predicted[lesions].astype(np.int64) * highest + truth[lesions]
    codes, counts = np.unique(codes, return_counts=True)
    pairs = np.divmod(codes, highest)
    sizes_predicted: dict[int, int] = {}
    sizes_true: dict[int, int] = {}
    common: dict[tuple[int, int], int] = {}
    for p, t, count in zip(pairs[0].tolist(), pairs[1].tolist(), counts.tolist(), strict=True):
        if p:
            sizes_predicted[p] = sizes_predicted.get(p, 0) + count
        if t:
            sizes_true[t] = sizes_true.get(t, 0) + count
        if p and t:
            common[p, t] = count
    return sizes_predicted, sizes_true, common


def sensitivity(
    exams: Sequence[ExamOutcome],
    threshold: float = 0.0,
    select: Callable[[LesionOutcome], bool] = lambda _: True,
) -> float | None:
    """The share of true lesions found with at least the threshold's confidence.

    None where no lesion is selected.
    """
    lesions = [lesion for exam in exams for lesion in exam.lesions if select(lesion)]
    if not lesions:
        return None
    return sum(lesion.found_by is not None and lesion.score >= threshold for lesion in lesions) / len(lesions)


def false_positives_per_exam(exams: Sequence[ExamOutcome], threshold: float = 0.0) -> float:
    """Lesions made up with at least the threshold's confidence, per exam.

    Raises
    ------
    ValueError
        There are no exams.
    """
    if not exams:
        raise ValueError("no exams to score; expected at least one")
    return sum(score >= threshold for exam in exams for score in exam.false_positive_scores) / len(exams)


def diameter_group(diameter_mm: float) -> str:
    """The group of diameters that a lesion is reported in.

    >>> diameter_group(5.0)
    '5-10 mm'
    """
    for limit, name in ((5.0, "< 5 mm"), (10.0, "5-10 mm"), (20.0, "10-20 mm")):
        if diameter_mm < limit:
            return name
    return ">= 20 mm"


def signal_group(ratio: float) -> str:
    """The group of signals, as shares of what was there before, that a lesion is reported in.

    >>> signal_group(1.5)
    '1.3-2'
    """
    for limit, name in ((0.5, "< 0.5"), (0.77, "0.5-0.77"), (1.3, "0.77-1.3"), (2.0, "1.3-2")):
        if ratio < limit:
            return name
    return ">= 2"


def size_group(volume_mm3: float) -> str:
    """The group of sizes that a lesion is reported in; 1 mL is the limit used by whole-body MRI studies.

    >>> size_group(999.0)
    '0.1-1 mL'
    """
    if volume_mm3 < 100.0:
        return "< 0.1 mL"
    return "0.1-1 mL" if volume_mm3 < 1000.0 else ">= 1 mL"
