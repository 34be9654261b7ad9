"""How sure a lesion is, from its voxels, its size and the number of series."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.confidence import Evidence, confidence, gather_evidence
from spinemets.config import LesionConfig

PLAIN = LesionConfig(
    confidence_shift=0.0, confidence_evidence=1.0, confidence_size=0.0, confidence_series=0.0
)


def nowhere(count):
    return np.zeros(count, dtype=np.bool_)


def test_what_lies_mostly_in_the_cord_is_in_the_cord():
    probabilities = np.full(10, 0.5, dtype=np.float32)
    for inside, is_in in ((4, False), (6, True)):
        assert gather_evidence(probabilities, np.arange(10) < inside, 1.0, 1).in_cord is is_in


def test_even_voxels_alone_give_their_own_probability():
    evidence = gather_evidence(np.full(50, 0.8, dtype=np.float32), nowhere(50), 2.0, 1)
    assert evidence.volume_mm3 == pytest.approx(100.0)
    assert confidence(evidence, PLAIN) == pytest.approx(0.8, abs=1e-6)


def test_a_blurred_rim_does_not_lower_the_evidence():
    core = np.full(50, 0.9, dtype=np.float32)
    rim = np.full(50, 0.2, dtype=np.float32)
    blurred = gather_evidence(np.concatenate([core, rim]), nowhere(100), 1.0, 1)
    assert blurred.log_odds == pytest.approx(gather_evidence(core, nowhere(50), 1.0, 1).log_odds, abs=1e-5)


def test_certain_voxels_stay_finite():
    assert np.isfinite(gather_evidence(np.ones(3, dtype=np.float32), nowhere(3), 1.0, 1).log_odds)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("confidence_size", Evidence(0.0, 4000.0, 1)),
        ("confidence_series", Evidence(0.0, 1000.0, 3)),
        ("confidence_evidence", Evidence(1.0, 1000.0, 1)),
        ("confidence_cord", Evidence(0.0, 1000.0, 1, in_cord=True)),
    ],
)
def test_each_weight_acts_on_its_own_evidence(name, more):
    config = PLAIN.model_copy(update={name: 2.0})
    assert confidence(Evidence(0.0, 1000.0, 1), config) == pytest.approx(0.5)
    assert confidence(more, config) > 0.8
