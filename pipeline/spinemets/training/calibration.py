"""How sure the lesion network may be: its logits stretched and shifted until confidences come true.

A lesion's confidence should be the share of lesions of that confidence that are real. The last
layer's weights are scaled so (Platt scaling), which changes no order of voxels, and the
thresholds are chosen on the same studies, none of them a test study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize
from scipy.special import expit, logit

from spinemets.evaluation.lesions import match_lesions

__all__ = [
    "Candidate",
    "LogitScale",
    "OperatingPoint",
    "StudyCandidates",
    "find_candidates",
    "fit_scale",
    "operating_points",
]

Array = npt.NDArray[np.float32]

_SURER_SHARE = 0.5  # as in lesions.find_lesions
_MINIMUM_CANDIDATES = 20
_MAXIMUM_LOGITS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A component of the lesion map; ``logits`` are those of its surer half."""

    logits: Array
    is_lesion: bool


@dataclass(frozen=True, slots=True)
class StudyCandidates:
    """One study at one threshold.

    Attributes
    ----------
    candidates
        True and false ones; fragments that are neither are left out.
    found_by
        For every true lesion of the size that counts: the candidate's place, or None.
    """

    candidates: tuple[Candidate, ...]
    found_by: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class LogitScale:
    """The calibrated logit is ``slope * logit + shift``."""

    slope: float
    shift: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one cut of the confidence gives."""

    minimum_confidence: float
    sensitivity: float
    false_positives_per_exam: float


def find_candidates(
    probability: Array,
    truth: npt.NDArray[np.integer],
    voxel_volume_mm3: float,
    threshold: float,
    minimum_volumes_mm3: tuple[float, float] = (60.0, 1000.0),
) -> StudyCandidates:
    """Components of a lesion map, each told whether it is a lesion by the rule of the evaluation.

    Parameters
    ----------
    probability
        Of lesion, any 3-D shape.
    truth
        0 or a lesion's number, same shape; all 0 for a healthy exam.
    minimum_volumes_mm3
        Smaller components are no candidates; smaller true lesions do not count.
    """
    smallest, counts_from = minimum_volumes_mm3
    labels = cc3d.connected_components(probability >= threshold, connectivity=26)
    labels = cc3d.dust(labels, threshold=max(1.0, smallest / voxel_volume_mm3), connectivity=26)
    boxes = ndimage.find_objects(labels)
    outcome = match_lesions(
        ("", ""), labels, truth, voxel_volume_mm3=voxel_volume_mm3, confidences={}, known={}
    )
    real = {lesion.found_by for lesion in outcome.lesions}
    candidates: list[Candidate] = []
    place: dict[int, int] = {}
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        inside = labels[box] == number
        touched = bool((truth[box][inside] > 0).mean() >= 0.1)
        if touched and number not in real:
            continue
        place[number] = len(candidates)
        candidates.append(Candidate(_surer_logits(probability[box][inside]), number in real))
    found_by = tuple(
        None if lesion.found_by is None else place.get(lesion.found_by)
        for lesion in outcome.lesions
        if lesion.volume_mm3 >= counts_from
    )
    return StudyCandidates(tuple(candidates), found_by)


def _surer_logits(probabilities: Array) -> Array:
    """Logits of the surer half; of large components a sample, evenly through their ranks."""
    values = np.sort(probabilities)[-max(1, round(_SURER_SHARE * len(probabilities))) :]
    if len(values) > _MAXIMUM_LOGITS:
        values = values[np.linspace(0, len(values) - 1, _MAXIMUM_LOGITS).astype(int)]
    return np.asarray(logit(np.clip(values, 1e-4, 1 - 1e-4)), dtype=np.float32)


def fit_scale(studies: Sequence[StudyCandidates]) -> LogitScale:
    """Slope and shift under which confidences are likeliest to come true.

    Raises
    ------
    ValueError
        There are too few candidates to fit, or only true or only false ones.

    Notes
    -----
    Platt 1999, "Probabilistic outputs for support vector machines"; here through the mean over a
    lesion's surer half, which is what its confidence is.
    """
    candidates = [c for study in studies for c in study.candidates]
    real = np.array([c.is_lesion for c in candidates], dtype=float)
    if len(candidates) < _MINIMUM_CANDIDATES or not 0 < real.mean() < 1:
        raise ValueError(
            f"{len(candidates)} candidates, {int(real.sum())} of them lesions, are too few to fit"
        )

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        scale = LogitScale(float(np.exp(parameters[0])), float(parameters[1]))
        p = np.clip([confidence(c, scale) for c in candidates], 1e-6, 1 - 1e-6)
        return float(-(real * np.log(p) + (1 - real) * np.log(1 - p)).mean())

    best = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return LogitScale(float(np.exp(best[0])), float(best[1]))


def confidence(candidate: Candidate, scale: LogitScale) -> float:
    """A candidate's confidence under a scale."""
    return float(expit(scale.slope * candidate.logits + scale.shift).mean())


def operating_points(studies: Sequence[StudyCandidates], scale: LogitScale) -> list[OperatingPoint]:
    """Sensitivity and false positives per exam at cuts of the confidence, from 0.05 to 0.95."""
    points = []
    for cut in np.arange(0.05, 0.951, 0.05):
        false, found, total = 0, 0, 0
        for study in studies:
            kept = [confidence(c, scale) >= cut for c in study.candidates]
            false += sum(k and not c.is_lesion for k, c in zip(kept, study.candidates, strict=True))
            total += len(study.found_by)
            found += sum(place is not None and kept[place] for place in study.found_by)
        points.append(
            OperatingPoint(round(float(cut), 2), found / max(1, total), false / max(1, len(studies)))
        )
    return points
