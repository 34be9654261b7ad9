"""A bundle's networks: built with its weights and footprints, or refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from spinemets.bundles import load_bundle, reading_checksum
from spinemets.channels import Channel
from spinemets.config import SegmentationConfig
from spinemets.errors import ModelIncompatibleError
from spinemets.inference import Engine
from spinemets.network import build_network
from spinemets.segmentation import load_segmenter, read_networks
from spinemets.segmented import NetworkExecution
from stand_in_networks import ANATOMY, LESION, SPACING


def write_bundle(folder, network=None, channels=None, weights=None, footprints=None):
    torch.manual_seed(9)
    definitions = {"anatomy": ANATOMY, "lesion": LESION}
    described = {
        part: {
            "image_channels": d.image_channels,
            "conditions": 4,
            "outputs": d.outputs,
            "filters": [4, 6, 8],
        }
        for part, d in definitions.items()
    }
    metadata = {
        "version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.13.0", "task": "t",
        "description": "d", "network_data_format": {},
        "spinemets": {
            "format": 1,
            "network": {"type": "spinemets-cascade", **described} if network is None else network(described),
            "spacing_mm": SPACING.model_dump(),
            "channels": channels or [channel.name.lower() for channel in Channel],
            "weightings": ["T1", "T2"],
            **({"footprint_bytes_per_voxel": footprints} if footprints else {}),
        },
    }  # fmt: skip
    stored = {
        f"{part}.{name}": value.detach().half().contiguous()
        for part, definition in definitions.items()
        for name, value in build_network(definition).named_parameters()
    }
    for child in ("configs", "models"):
        (folder / child).mkdir(parents=True)
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    save_file(weights(stored) if weights else stored, folder / "models/model.safetensors")
    return load_bundle(folder, trusted_checksum=reading_checksum(folder))


def test_a_bundle_s_networks_are_built_with_its_weights(tmp_path):
    anatomy, lesion = read_networks(write_bundle(tmp_path / "small"))
    assert (anatomy.definition, lesion.definition) == (ANATOMY, LESION)
    torch.manual_seed(9)
    expected = build_network(ANATOMY).state_dict()
    for name, value in anatomy.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].half().float())


def test_a_segmenter_says_which_model_it_is_and_where_it_runs(tmp_path):
    bundle = write_bundle(tmp_path / "small")
    segmenter = load_segmenter(bundle, SegmentationConfig(device="cpu", precision="float32"))
    provenance = segmenter.provenance
    assert (provenance.model, provenance.model_version, provenance.model_sha256) == (
        "small", "0.1.0", bundle.sha256,
    )  # fmt: skip
    assert provenance.execution == NetworkExecution("cpu", "float32")


@pytest.mark.parametrize(
    ("precision", "anatomy", "lesion"), [("float32", 110.5, 140.5), ("bfloat16", 62.5, None)]
)
def test_each_network_plans_with_its_own_footprint_or_none(tmp_path, precision, anatomy, lesion):
    footprints = {"anatomy": {"bfloat16": 62.5, "float32": 110.5}, "lesion": {"float32": 140.5}}
    told = []

    class Told(Engine):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            told.append((self.definition.outputs, self._footprint_bytes_per_voxel))

    config = SegmentationConfig(device="cpu", precision=precision)
    load_segmenter(write_bundle(tmp_path / "with", footprints=footprints), config, Told)
    load_segmenter(write_bundle(tmp_path / "without"), config, Told)
    assert told == [(10, anatomy), (1, lesion), (10, None), (1, None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": lambda d: {"type": "nnU-Net", **d}}, "nnU-Net"),
        ({"network": lambda d: {"type": "spinemets-cascade", "anatomy": d["anatomy"]}}, "no lesion network"),
        (
            {"network": lambda d: {"type": "spinemets-cascade", **d, "anatomy": {"filters": [4, 6, 8]}}},
            "network definition",
        ),
        ({"channels": [channel.name.lower() for channel in reversed(Channel)]}, "output channels"),
        ({"channels": ["background"]}, "output channels"),
        ({"weights": lambda w: {k: v for k, v in w.items() if k.startswith("anatomy.")}}, "lesion weights"),
        ({"weights": lambda w: {k: v[:1].clone() for k, v in w.items()}}, "anatomy weights"),
    ],
)
def test_a_bundle_of_another_make_is_refused(tmp_path, changes, message):
    with pytest.raises(ModelIncompatibleError, match=message):
        read_networks(write_bundle(tmp_path / "other", **changes))


@pytest.mark.parametrize(
    ("part", "changed"),
    [("lesion", {"image_channels": 8}), ("anatomy", {"outputs": 9}), ("anatomy", {"conditions": 3})],
    ids=str,
)
def test_a_network_that_is_given_or_gives_something_else_is_refused(tmp_path, part, changed):
    other = replace({"anatomy": ANATOMY, "lesion": LESION}[part], **changed)

    def described(networks):
        return {"type": "spinemets-cascade", **networks, part: networks[part] | changed}

    def fitting(stored):
        network = build_network(other)
        own = {f"{part}.{name}": value.detach().contiguous() for name, value in network.named_parameters()}
        return stored | own

    bundle = write_bundle(tmp_path / "older", network=described, weights=fitting)
    with pytest.raises(ModelIncompatibleError, match=f"the {part} network"):
        read_networks(bundle)


@pytest.mark.parametrize("kept", [0, 4, 5_000])
def test_weights_that_were_cut_short_are_refused(tmp_path, kept):
    folder = write_bundle(tmp_path / "copied").path
    weights = folder / "models/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    bundle = load_bundle(folder, trusted_checksum=reading_checksum(folder))
    with pytest.raises(ModelIncompatibleError, match=r"model\.safetensors.*copy"):
        read_networks(bundle)
