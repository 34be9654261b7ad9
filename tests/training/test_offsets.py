"""Offsets of the anatomy network's logits."""

from __future__ import annotations

import pytest
import torch

from spinemets.channels import Channel
from spinemets.network import NetworkDefinition, build_network
from spinemets.training import offsets as module
from spinemets.training.offsets import add_offsets, fit_offsets


@pytest.fixture
def network():
    torch.manual_seed(3)
    return build_network(NetworkDefinition(1, 4, len(Channel), (4, 8, 8))).eval()


def test_an_offset_moves_its_channel_alone_by_its_amount(network):
    image, condition = torch.randn(1, 1, 3, 16, 16), torch.zeros(1, 4)
    with torch.no_grad():
        before = network(image, condition)
        network.load_state_dict(
            add_offsets(dict(network.named_parameters()), {Channel.DISC: -0.8}), strict=False
        )
        moved = network(image, condition) - before
    assert torch.allclose(moved[:, Channel.DISC], torch.tensor(-0.8), atol=1e-5)
    moved[:, Channel.DISC] = 0
    assert torch.allclose(moved, torch.zeros(()), atol=1e-6)


def test_the_weights_given_stay_as_they_are(network):
    weights = dict(network.named_parameters())
    before = weights[f"{module.LAST_LAYER}.bias"].detach().clone()
    add_offsets(weights, {Channel.SACRUM: 2.0})
    assert torch.equal(weights[f"{module.LAST_LAYER}.bias"], before)


def test_each_offset_is_the_best_one_by_its_own_score(network, monkeypatch):
    start = network.body.output_block.conv.conv.bias.detach().clone()
    best = {"disc": (Channel.DISC, -1.0), "vertebra": (Channel.POSTERIOR_ELEMENTS, 0.2)}

    def score(tried, _scans):
        moved = tried.body.output_block.conv.conv.bias.detach() - start
        return {name: -abs(float(moved[channel * 4]) - value) for name, (channel, value) in best.items()}

    monkeypatch.setattr(module, "validate_anatomy", score)
    assert fit_offsets(network, []) == {Channel.DISC: -1.0, Channel.POSTERIOR_ELEMENTS: 0.2}


def test_a_score_that_no_scan_tells_leaves_its_channel_as_it_is(network, monkeypatch, caplog):
    monkeypatch.setattr(module, "validate_anatomy", lambda *_: {"vertebra": 0.9})
    assert set(fit_offsets(network, [])) == {Channel.POSTERIOR_ELEMENTS}
    assert "disc" in caplog.text
