"""What validation counts as found and as made up."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.anatomy import Structure
from spinemets.network import NetworkDefinition, build_network
from spinemets.training import validation
from spinemets.training.scans import LabelledScan
from spinemets.volume import Weighting

SHAPE = (9, 64, 64)


def scan(lesions):
    structures = np.zeros(SHAPE, dtype=np.uint8)
    structures[2:7, 10:50, 10:50] = Structure.VERTEBRAL_BODY
    image = np.random.default_rng(0).normal(100, 5, SHAPE).astype(np.float32)
    allowed = np.ones(SHAPE, dtype=np.uint16)
    return LabelledScan("own/p01", image, allowed, structures, (3.0, 1.0, 1.0), Weighting.T1, lesions)


@pytest.fixture
def scored(monkeypatch):
    """What a network scores that finds exactly the voxels given, in every scan."""
    network = build_network(NetworkDefinition(1, 4, 1, (4, 6, 8)))

    def score(found, own):
        monkeypatch.setattr(validation, "_lesions", lambda *_: found.astype(np.float32))
        return validation.validate_lesions(network, network, [scan(own)])

    return score


def test_own_lesions_that_are_found_are_no_false_positives(scored):
    own = np.zeros(SHAPE, dtype=np.uint8)
    own[3:6, 15:30, 15:30] = 1
    own[3:6, 35:48, 35:48] = 2
    scores = scored(own == 1, own)
    assert scores == {"sensitivity": 0.5, "false positives per scan": 0.0}


def test_what_lies_outside_of_own_lesions_is_made_up_unless_nothing_is_known_there(scored):
    own = np.zeros(SHAPE, dtype=np.uint8)
    own[3:6, 15:30, 15:30] = 1
    own[:, 55:] = 255
    found = own == 1
    found[3:6, 35:48, 35:48] = True
    found[3:6, 56:62, 10:20] = True
    assert scored(found, own) == {"sensitivity": 1.0, "false positives per scan": 1.0}
