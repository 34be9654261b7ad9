"""What validation counts as found and as made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataset_files import mrspineseg, spider
from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.network import NetworkDefinition, build_network
from spinemets.training import validation
from spinemets.training.datasets import LAYOUTS
from spinemets.training.scans import ANY, LabelledScan, bit, channels_of
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


@pytest.fixture
def anatomy_scored(monkeypatch):
    """What a network scores that finds exactly these channels; one array per scan, at full thickness."""
    network = build_network(NetworkDefinition(1, 4, len(Channel), (4, 6, 8)))

    def score(scans, channels):
        found = dict(zip([one.subject for one in scans], channels, strict=True))

        def probabilities(_engine, _image, scan):
            middle = torch.from_numpy(found[scan.subject][validation._middles(scan)].astype(np.int64))
            return torch.nn.functional.one_hot(middle, len(Channel)).movedim(-1, 0)[None].float()

        monkeypatch.setattr(validation, "_anatomy", probabilities)
        return validation.validate_anatomy(network, scans)

    return score


def read(kind, folder):
    layout = LAYOUTS[kind]
    return layout.read(layout.find(folder)[0])


def test_what_a_data_set_does_not_label_is_not_scored(tmp_path, anatomy_scored):
    scan = read("mrspineseg", mrspineseg(tmp_path, ("1",)))
    found = channels_of(scan.structures)
    canal = scan.allowed == bit(Channel.BACKGROUND, Channel.THECAL_SAC, Channel.CORD)
    found[canal & (np.indices(found.shape)[1] % 2 == 0)] = Channel.THECAL_SAC
    assert anatomy_scored([scan], [found]) == {"vertebra": 1.0, "disc": 1.0}


def test_a_scan_without_a_group_does_not_lower_the_mean_of_the_others(tmp_path, anatomy_scored):
    scans = [
        read("mrspineseg", mrspineseg(tmp_path / "m", ("1",))),
        read("spider", spider(tmp_path / "s", ("1",), ("t2",))),
    ]
    scores = anatomy_scored(scans, [channels_of(one.structures) for one in scans])
    assert scores == {"vertebra": 1.0, "disc": 1.0, "canal": 1.0}


def test_what_is_missed_and_what_is_made_up_both_lower_the_dice(tmp_path, anatomy_scored):
    scan = read("spider", spider(tmp_path, ("1",), ("t2",)))
    truth = channels_of(scan.structures)
    missed, made_up = truth.copy(), truth.copy()
    missed[truth == Channel.DISC] = Channel.BACKGROUND
    made_up[:, :30, 60:120] = Channel.DISC
    made_up[scan.allowed == ANY] = Channel.DISC
    assert anatomy_scored([scan], [missed]) == {"vertebra": 1.0, "disc": 0.0, "canal": 1.0}
    scores = anatomy_scored([scan], [made_up])
    assert 0.1 < scores["disc"] < 0.9
    discs = (truth == Channel.DISC)[validation._middles(scan)].sum()
    wrong = truth[:, :30, 60:120][validation._middles(scan)].size
    assert scores["disc"] == pytest.approx(2 * discs / (2 * discs + wrong))


def test_what_surrounds_s1_is_not_scored_on_spider_scans(tmp_path, anatomy_scored):
    scan = read("spider", spider(tmp_path, ("1",), ("t2",)))
    found = channels_of(scan.structures)
    around = scan.allowed & bit(Channel.SACRUM) > 0
    found[around] = Channel.POSTERIOR_ELEMENTS
    assert around.any()
    assert anatomy_scored([scan], [found])["vertebra"] == 1.0


def test_no_scans_have_no_scores(anatomy_scored):
    assert anatomy_scored([], []) == {}
