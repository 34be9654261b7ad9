"""An exported bundle loads, and holds the footprint of its networks; one that lacks it can get it."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import export_bundle as export_script
from spinemets.bundles import load_bundle, reading_checksum, register_bundle
from spinemets.channels import Channel
from spinemets.errors import ModelIncompatibleError, ModelNotFoundError
from spinemets.network import build_network
from spinemets.segmentation import read_networks
from spinemets.training import export, footprint
from spinemets.training.export import export_bundle, store_footprint
from spinemets.training.loop import network_definition
from spinemets.training.recipe import NetworkSettings, Recipe, SourceSettings

RECIPES = tuple(
    Recipe(task=task, steps=1, network=NetworkSettings(filters=(4, 6, 8)), sources=SourceSettings(phantoms=1))
    for task in ("anatomy", "lesion")
)
FOOTPRINTS = {"anatomy": {"float32": 110.5, "bfloat16": 62.0}, "lesion": {"float32": 140.0}}
OTHER_KEYS = {
    "version": "0.3.0",
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "task": "a task",
    "description": "a description",
    "network_data_format": {"inputs": {}, "outputs": {}},
    "authors": "somebody",
}


@pytest.fixture
def measured(monkeypatch):
    """What the measurement gives; tests may change it."""
    found = {name: dict(values) for name, values in FOOTPRINTS.items()}
    monkeypatch.setattr(export, "measure_footprints", lambda _: found)
    return found


@pytest.fixture
def bundle(tmp_path, measured):
    """An export of two fresh networks."""
    assert measured
    folder = tmp_path / "models" / "small"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs/metadata.json").write_text(json.dumps(OTHER_KEYS))
    torch.manual_seed(5)
    for recipe in RECIPES:
        weights = build_network(network_definition(recipe)).state_dict()
        torch.save({"average": weights, "step": 7}, tmp_path / f"{recipe.task}.pt")
    assert export_bundle(folder, RECIPES, (tmp_path / "anatomy.pt", tmp_path / "lesion.pt")) == {
        "anatomy": 7,
        "lesion": 7,
    }
    return folder


def facts_of(folder):
    return load_bundle(folder, reading_checksum(folder)).facts


def metadata_of(folder):
    return json.loads((folder / "configs/metadata.json").read_text())


def without_footprint(folder):
    """The bundle as it was exported before footprints were stored."""
    values = metadata_of(folder)
    del values["spinemets"]["footprint_bytes_per_voxel"]
    (folder / "configs/metadata.json").write_text(json.dumps(values))
    return values


def test_an_export_can_be_loaded_and_keeps_the_other_keys(bundle):
    anatomy, lesion = read_networks(load_bundle(bundle, reading_checksum(bundle)))
    assert [network.definition for network in (anatomy, lesion)] == [network_definition(r) for r in RECIPES]
    assert metadata_of(bundle).items() >= OTHER_KEYS.items()
    assert facts_of(bundle).channels == tuple(channel.name.lower() for channel in Channel)


def test_an_export_holds_the_footprint_of_both_networks(bundle):
    assert facts_of(bundle).footprint_bytes_per_voxel == FOOTPRINTS


def test_a_bundle_without_a_footprint_gets_one_and_changes_in_nothing_else(bundle):
    before, weights = without_footprint(bundle), (bundle / "models/model.safetensors").read_bytes()
    assert facts_of(bundle).footprint_bytes_per_voxel == {}
    assert store_footprint(bundle) == FOOTPRINTS
    assert facts_of(bundle).footprint_bytes_per_voxel == FOOTPRINTS
    assert (bundle / "models/model.safetensors").read_bytes() == weights
    assert without_footprint(bundle) == before


def test_a_system_that_cannot_measure_leaves_the_bundle_as_it_is(bundle, measured):
    before = (bundle / "configs/metadata.json").read_bytes()
    measured.clear()
    assert store_footprint(bundle) == {}
    assert (bundle / "configs/metadata.json").read_bytes() == before


def test_metadata_without_networks_are_refused(bundle):
    (bundle / "configs/metadata.json").write_text(json.dumps(OTHER_KEYS))
    with pytest.raises(ModelIncompatibleError, match="describes no networks"):
        store_footprint(bundle)


def test_a_bundle_that_is_not_there_is_refused_before_anything_is_written(bundle, tmp_path):
    nowhere = bundle.parent / "nowhere"
    for work in (
        lambda: store_footprint(nowhere),
        lambda: export_bundle(nowhere, RECIPES, (tmp_path / "anatomy.pt", tmp_path / "lesion.pt")),
    ):
        with pytest.raises(ModelNotFoundError, match="name a bundle's folder"):
            work()
    assert not nowhere.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux and the GNU C library")
def test_the_script_measures_stores_and_registers(bundle, monkeypatch, capsys):
    without_footprint(bundle)
    monkeypatch.setattr(export, "measure_footprints", footprint.measure_footprints)
    monkeypatch.setattr(footprint, "_SIZES", ((12, 128, 128), (12, 192, 192)))
    monkeypatch.setattr("sys.argv", ["export_bundle.py", "--bundle", str(bundle), "--footprint-only"])
    assert export_script.main() == 0
    footprints = facts_of(bundle).footprint_bytes_per_voxel
    assert str(footprints) in capsys.readouterr().out
    assert all(20 < footprints[name]["float32"] < 400 for name in ("anatomy", "lesion"))
    registered = json.loads((bundle.parent / "registry.json").read_text())["bundles"]["small"]
    assert "configs/metadata.json" in registered["files"]


def test_one_network_can_be_renewed_and_the_other_kept(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.bundles.bundles_folder", lambda: bundle.parent)
    register_bundle(bundle)
    anatomy, before = read_networks(load_bundle(bundle))
    torch.manual_seed(6)
    other = build_network(network_definition(RECIPES[1])).state_dict()
    torch.save({"average": other, "step": 9}, tmp_path / "lesion.pt")
    assert export_bundle(bundle, RECIPES, (bundle, tmp_path / "lesion.pt")) == {"anatomy": None, "lesion": 9}
    kept, after = read_networks(load_bundle(bundle, reading_checksum(bundle)))
    assert all(torch.equal(value, kept.parameters[name]) for name, value in anatomy.parameters.items())
    assert not all(torch.equal(value, after.parameters[name]) for name, value in before.parameters.items())


def test_a_checkpoint_of_another_recipe_is_refused(bundle, tmp_path):
    larger = RECIPES[0].model_copy(update={"network": NetworkSettings(filters=(4, 6, 8, 10))})
    with pytest.raises(ModelIncompatibleError, match="does not belong to its recipe"):
        export_bundle(bundle, (larger, RECIPES[1]), (tmp_path / "anatomy.pt", tmp_path / "lesion.pt"))
