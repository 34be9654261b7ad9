"""Calibration of lesion logits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from spinemets.training.calibration import (
    Candidate,
    LogitScale,
    StudyCandidates,
    confidence,
    find_candidates,
    fit_scale,
    operating_points,
)


def test_candidates_are_told_true_false_or_neither():
    truth = np.zeros((10, 40, 40), dtype=np.int32)
    truth[2:8, 2:14, 2:14], truth[2:8, 20:38, 20:38] = 1, 2
    probability = np.full(truth.shape, 0.01, dtype=np.float32)
    probability[2:8, 2:14, 2:14] = 0.9
    probability[4:6, 22:26, 22:26] = 0.8  # a fragment too small to find lesion 2
    probability[2:8, 2:12, 28:38] = 0.6  # made up
    study = find_candidates(probability, truth, 2.0, 0.4, (20.0, 1000.0))
    assert sorted(c.is_lesion for c in study.candidates) == [False, True]
    assert [None if place is None else study.candidates[place].is_lesion for place in study.found_by] == [
        True,
        None,
    ]


def studies(n: int, slope: float, shift: float) -> list[StudyCandidates]:
    """Candidates whose true confidence is that of the scale given."""
    rng = np.random.default_rng(5)
    result = []
    for value in rng.normal(0, 1.5, n):
        logits = np.full(8, value, dtype=np.float32)
        real = bool(rng.random() < expit(slope * value + shift))
        result.append(StudyCandidates((Candidate(logits, real),), (0,) if real else ()))
    return result


def test_the_scale_that_made_the_outcomes_is_found():
    scale = fit_scale(studies(1500, 2.0, -0.5))
    assert scale.slope == pytest.approx(2.0, rel=0.2)
    assert scale.shift == pytest.approx(-0.5, abs=0.2)


def test_calibrated_confidences_come_true():
    made = studies(1500, 0.5, 1.0)
    scale = fit_scale(made)
    candidates = [c for study in made for c in study.candidates]
    sure = [c for c in candidates if confidence(c, scale) > 0.8]
    promised = np.mean([confidence(c, scale) for c in sure])
    assert np.mean([c.is_lesion for c in sure]) == pytest.approx(promised, abs=0.05)


def test_higher_cuts_find_less_and_make_up_less():
    points = operating_points(studies(300, 1.0, 0.0), LogitScale(1.0, 0.0))
    for name in ("sensitivity", "false_positives_per_exam"):
        values = [getattr(point, name) for point in points]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1]


def test_too_few_candidates_are_refused():
    with pytest.raises(ValueError, match="too few"):
        fit_scale(studies(5, 1.0, 0.0))
