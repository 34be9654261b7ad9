"""How sure a lesion is: the share of candidates like it that are lesions.

A logistic function of four things: what the network says of the candidate's voxels, how large
it is (noise makes many small ones and few large ones), how many series show its place (each is
one more chance to make something up, or to see what is there), and whether it lies in the cord
(whose disease is faint, and which when healthy looks ill far more seldom than marrow does). Its
weights are fitted by ``scripts/calibrate.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from spinemets.config import LesionConfig

__all__ = ["Evidence", "confidence", "confidence_terms", "gather_evidence"]

_SURER_SHARE = 0.5  # a blurred rim does not lower the confidence
_CERTAIN = 1e-4


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a candidate.

    Attributes
    ----------
    log_odds
        Mean over the surer half of its voxels.
    volume_mm3
        Of all its voxels.
    series
        Number of series that show its place.
    in_cord
        Whether most of it lies in the cord.
    """

    log_odds: float
    volume_mm3: float
    series: int
    in_cord: bool = False


def gather_evidence(
    probabilities: npt.NDArray[np.floating],
    in_cord: npt.NDArray[np.bool_],
    voxel_volume_mm3: float,
    series: int,
) -> Evidence:
    """The evidence for a candidate of these voxel probabilities, and which are in the cord, both (n,)."""
    count = max(1, round(_SURER_SHARE * len(probabilities)))
    surer = np.sort(probabilities)[-count:].astype(np.float64)
    log_odds = float(logit(np.clip(surer, _CERTAIN, 1 - _CERTAIN)).mean())
    mostly = 2 * int(in_cord.sum()) > len(in_cord)
    return Evidence(log_odds, len(probabilities) * voxel_volume_mm3, series, mostly)


def confidence(evidence: Evidence, config: LesionConfig) -> float:
    """Probability that a candidate is a lesion, in [0, 1]."""
    weights = (
        config.confidence_shift,
        config.confidence_evidence,
        config.confidence_size,
        config.confidence_series,
        config.confidence_cord,
    )
    return float(expit(np.dot(weights, confidence_terms(evidence))))


def confidence_terms(evidence: Evidence) -> tuple[float, float, float, float, float]:
    """What the weights apply to: 1 for the shift, evidence, size, series and the cord."""
    volume_ml = evidence.volume_mm3 / 1000.0
    return (
        1.0,
        evidence.log_odds,
        float(np.log(volume_ml)),
        float(np.log(evidence.series)),
        float(evidence.in_cord),
    )
