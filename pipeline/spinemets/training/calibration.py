"""How sure a lesion may be: weights of the evidence under which confidences come true.

A lesion's confidence should be the share of lesions of that confidence that are real. The
weights are fitted, and the threshold and the cut chosen, on the same studies, none of them a
test study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize
from scipy.special import log_expit, logit

from spinemets.confidence import Evidence, confidence, confidence_terms, gather_evidence
from spinemets.config import LesionConfig
from spinemets.evaluation.lesions import UNKNOWN, match_lesions
from spinemets.volume import Mask
from spinemets.voxels import islands_of

__all__ = [
    "Candidate",
    "OperatingPoint",
    "StudyCandidates",
    "find_candidates",
    "fit_confidence",
    "fit_cord",
    "operating_points",
]

Array = npt.NDArray[np.float32]

_MINIMUM_CANDIDATES = 20
_RIDGE = 1e-3  # keeps a weight finite where the studies do not tell it, as of series where all have one


@dataclass(frozen=True, slots=True)
class Candidate:
    """A component of the lesion map."""

    evidence: Evidence
    is_lesion: bool


@dataclass(frozen=True, slots=True)
class StudyCandidates:
    """One study at one threshold.

    Attributes
    ----------
    candidates
        True and false ones; fragments that are neither, and what lies where nothing is known, are left out.
    found_by
        For every true lesion of the size that counts: the candidate's place, or None.
    """

    candidates: tuple[Candidate, ...]
    found_by: tuple[int | None, ...]


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
    series: int = 1,
    cord: Mask | None = None,
) -> StudyCandidates:
    """Components of a lesion map, each told whether it is a lesion by the rule of the evaluation.

    Parameters
    ----------
    probability
        Of lesion, any 3-D shape.
    truth
        0 or a lesion's number, same shape; all 0 for a healthy exam. 255 where nothing is known.
    minimum_volumes_mm3
        Smaller components are no candidates; smaller true lesions do not count.
    series
        Number of series that the map was fused from.
    cord
        Where the cord is, same shape; None where none is in view.
    """
    smallest, counts_from = minimum_volumes_mm3
    labels = islands_of(probability >= threshold)
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
        known = truth[box][inside] != UNKNOWN
        touched = known.mean() < 0.5 or (truth[box][inside][known] > 0).mean() >= 0.1
        if touched and number not in real:
            continue
        place[number] = len(candidates)
        in_cord = np.zeros(int(inside.sum()), dtype=np.bool_) if cord is None else cord[box][inside]
        evidence = gather_evidence(probability[box][inside], in_cord, voxel_volume_mm3, series)
        candidates.append(Candidate(evidence, number in real))
    found_by = tuple(
        None if lesion.found_by is None else place.get(lesion.found_by)
        for lesion in outcome.lesions
        if lesion.volume_mm3 >= counts_from
    )
    return StudyCandidates(tuple(candidates), found_by)


def fit_confidence(studies: Sequence[StudyCandidates], config: LesionConfig) -> LesionConfig:
    """Weights of the evidence under which the candidates' outcomes are likeliest.

    Returns
    -------
    LesionConfig
        ``config`` with the fitted weights. That of the cord stays: its lesions are too few beside
        those of bone, and have a fit of their own (``fit_cord``).

    Raises
    ------
    ValueError
        There are too few candidates to fit, or only true or only false ones.

    Notes
    -----
    Logistic regression; for the log odds alone it is that of Platt 1999, "Probabilistic outputs
    for support vector machines".
    """
    candidates = [c for study in studies for c in study.candidates if not c.evidence.in_cord]
    real = np.array([c.is_lesion for c in candidates], dtype=float)
    if len(candidates) < _MINIMUM_CANDIDATES or not 0 < real.mean() < 1:
        raise ValueError(
            f"{len(candidates)} candidates, {int(real.sum())} of them lesions, are too few to fit"
        )
    terms = np.array([confidence_terms(c.evidence)[:4] for c in candidates])

    def loss(weights: npt.NDArray[np.float64]) -> float:
        log_odds = terms @ weights
        missed = real * log_expit(log_odds) + (1 - real) * log_expit(-log_odds)
        return float(_RIDGE * (weights**2).sum() - missed.mean())

    shift, evidence, size, of_series = optimize.minimize(loss, np.zeros(4), method="BFGS").x.tolist()
    return config.model_copy(
        update={
            "confidence_shift": shift,
            "confidence_evidence": max(0.0, evidence),
            "confidence_size": size,
            "confidence_series": of_series,
        }
    )


def fit_cord(studies: Sequence[StudyCandidates], config: LesionConfig) -> LesionConfig:
    """``config`` with the cord's weight under which the outcomes of candidates in it are likeliest.

    Raises
    ------
    ValueError
        There are too few such candidates, or only true or only false ones.
    """
    candidates = [c for study in studies for c in study.candidates if c.evidence.in_cord]
    real = np.array([c.is_lesion for c in candidates], dtype=float)
    if len(candidates) < _MINIMUM_CANDIDATES or not 0 < real.mean() < 1:
        raise ValueError(
            f"{len(candidates)} candidates in the cord, {int(real.sum())} of them lesions, are too few to fit"
        )
    without = config.model_copy(update={"confidence_cord": 0.0})
    others = logit([confidence(c.evidence, without) for c in candidates])

    def loss(weight: float) -> float:
        log_odds = others + weight
        return -float((real * log_expit(log_odds) + (1 - real) * log_expit(-log_odds)).mean())

    fitted = optimize.minimize_scalar(loss, bounds=(-10.0, 10.0), method="bounded")
    return config.model_copy(update={"confidence_cord": float(fitted.x)})


def operating_points(studies: Sequence[StudyCandidates], config: LesionConfig) -> list[OperatingPoint]:
    """Sensitivity and false positives per exam at cuts of the confidence, from 0.05 to 0.95."""
    points = []
    for cut in np.arange(0.05, 0.951, 0.05):
        false, found, total = 0, 0, 0
        for study in studies:
            kept = [confidence(c.evidence, config) >= cut for c in study.candidates]
            false += sum(k and not c.is_lesion for k, c in zip(kept, study.candidates, strict=True))
            total += len(study.found_by)
            found += sum(place is not None and kept[place] for place in study.found_by)
        points.append(
            OperatingPoint(round(float(cut), 2), found / max(1, total), false / max(1, len(studies)))
        )
    return points
