"""The network takes what its definition says, and folding loses nothing."""

from __future__ import annotations

import pytest
import torch

from spinemets.errors import ModelIncompatibleError
from spinemets.network import NetworkDefinition, _fold, _unfold, build_network

SMALL = NetworkDefinition(image_channels=1, conditions=4, outputs=3, filters=(4, 6, 8))
VALUES = {"image_channels": 1, "conditions": 4, "outputs": 3, "filters": [4, 6, 8]}
T2 = torch.tensor([[0.0, 1.0, 0.0, 0.0]])


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return build_network(SMALL).eval()


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 1, 3, 16, 24, generator=torch.Generator().manual_seed(2))


def test_folding_and_unfolding_are_inverses():
    image = torch.arange(2 * 3 * 2 * 6 * 8.0).reshape(2, 3, 2, 6, 8)
    assert torch.equal(_unfold(_fold(image)), image)
    folded = torch.arange(2 * 12 * 2 * 3 * 4.0).reshape(2, 12, 2, 3, 4)
    assert torch.equal(_fold(_unfold(folded)), folded)


def test_folding_turns_each_block_of_pixels_into_channels():
    image = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    assert _fold(image)[0, :, 0, 0, 1].tolist() == [2, 3, 6, 7]


def test_a_definition_is_read_from_plain_data():
    assert NetworkDefinition.from_mapping(VALUES) == SMALL
    assert SMALL.in_plane_multiple == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_channels", 0), ("image_channels", "1"), ("image_channels", 1.5), ("image_channels", True),
        ("conditions", -1), ("conditions", None), ("outputs", 0), ("outputs", [3]),
        ("filters", [4, 6]), ("filters", []), ("filters", [4, 0, 8]), ("filters", "468"), ("filters", 4),
    ],
)  # fmt: skip
def test_a_definition_of_no_network_is_refused(name, value):
    with pytest.raises(ModelIncompatibleError, match="network definition"):
        NetworkDefinition.from_mapping({**VALUES, name: value})


@pytest.mark.parametrize("name", list(VALUES))
def test_a_definition_that_lacks_a_value_is_refused(name):
    with pytest.raises(ModelIncompatibleError, match=name):
        NetworkDefinition.from_mapping({k: v for k, v in VALUES.items() if k != name})


def test_every_accepted_depth_builds():
    for depth in (3, 4, 5):
        definition = NetworkDefinition(1, 0, 1, tuple(range(2, 2 + depth)))
        side = definition.in_plane_multiple
        network = build_network(definition).eval()
        with torch.inference_mode():
            logits = network(torch.randn(1, 1, 2, 2 * side, side), torch.zeros(1, 0))
        assert logits.shape == (1, 1, 2, 2 * side, side)


def test_the_output_has_the_image_s_size(network, image):
    with torch.inference_mode():
        assert network(image, T2).shape == (1, 3, 3, 16, 24)


def test_the_condition_changes_the_output(network, image):
    with torch.inference_mode():
        t1, t2 = network(image, torch.tensor([[1.0, 0, 0, 0]])), network(image, T2)
    assert float((t1 - t2).abs().mean()) > 1e-3


def test_each_image_of_a_batch_has_its_own_condition(network, image):
    conditions = torch.eye(4)[:2]
    with torch.inference_mode():
        together = network(image.expand(2, -1, -1, -1, -1), conditions)
        alone = torch.cat([network(image, condition[None]) for condition in conditions])
    assert torch.allclose(together, alone, atol=1e-5)


def test_slices_are_never_pooled(network):
    strides = {m.stride[0] for m in network.modules() if isinstance(m, torch.nn.Conv3d)}
    assert strides == {1}


def test_weights_lie_channels_last(network):
    weights = [p for p in network.parameters() if p.dim() == 5]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)


def test_the_seed_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_network(SMALL).parameters()])

    assert torch.equal(weights(4), weights(4))
    assert not torch.equal(weights(4), weights(5))
