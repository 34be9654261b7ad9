"""Networks that were trained before are read from checkpoints and from bundles alike."""

from __future__ import annotations

import pytest
import torch

from spinemets.bundles import bundles_folder
from spinemets.errors import ConfigError
from spinemets.network import SpineUNet
from spinemets.training.loop import network_definition
from spinemets.training.recipe import Recipe
from spinemets.training.trained import built, read_trained

RELEASED = bundles_folder() / "spine_metastasis_mri"


def recipe(task, filters):
    return Recipe.model_validate({"task": task, "steps": 1, "sources": {}, "network": {"filters": filters}})


def checkpoint(path, network, step=3):
    torch.save({"average": network.state_dict(), "step": step}, path)
    return path


@pytest.mark.parametrize("filters", [(4, 6, 8), (4, 6, 8, 10), (4, 6, 8, 10, 12)])
@pytest.mark.parametrize("task", ["anatomy", "lesion"])
def test_a_checkpoint_tells_its_network_s_size(tmp_path, task, filters):
    network = SpineUNet(network_definition(recipe(task, filters)))
    path = checkpoint(tmp_path / "checkpoint.pt", network)
    trained = read_trained(path, task)
    assert trained.weights.definition == network_definition(recipe(task, filters))
    assert trained.step == 3
    copy = dict(built(trained.weights).named_parameters())
    assert all(torch.equal(value, copy[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize("task", ["anatomy", "lesion"])
def test_the_released_bundle_holds_what_its_recipe_trains(task):
    trained = read_trained(RELEASED, task)
    assert trained.step is None
    copy = dict(built(trained.weights).named_parameters())
    assert copy.keys() == trained.weights.parameters.keys()
    assert all(torch.equal(value, copy[name]) for name, value in trained.weights.parameters.items())


def test_the_other_network_is_refused(tmp_path):
    network = SpineUNet(network_definition(recipe("anatomy", (4, 6, 8))))
    path = checkpoint(tmp_path / "checkpoint.pt", network)
    with pytest.raises(ConfigError, match="holds no lesion network"):
        read_trained(path, "lesion")


@pytest.mark.parametrize("content", [b"", b"no weights", b"step 3", None])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, content):
    path = tmp_path / "strange.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"strange\.pt"):
        read_trained(path, "anatomy")


@pytest.mark.parametrize("content", [b"step 3", b"# A text\n", b""])
def test_nobody_is_told_to_load_what_is_unsafe(tmp_path, content):
    (tmp_path / "strange.pt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_trained(tmp_path / "strange.pt", "anatomy")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"average": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(ConfigError, match=r"other\.pt"):
        read_trained(path, "anatomy")
