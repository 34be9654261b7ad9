"""From two training checkpoints to a bundle's weights and the description that inference needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from spinemets.atomic import atomic_write_bytes, atomic_write_text
from spinemets.channels import Channel
from spinemets.errors import ModelIncompatibleError
from spinemets.network import NetworkDefinition, build_network
from spinemets.training.calibration import LogitScale
from spinemets.training.footprint import measure_footprints
from spinemets.training.loop import network_definition
from spinemets.training.offsets import LAST_LAYER, add_offsets
from spinemets.training.recipe import Recipe
from spinemets.volume import Weighting

__all__ = ["Calibration", "export_bundle", "store_footprint"]

_TOLD = (
    Weighting.T1,
    Weighting.T2,
    Weighting.T2_FS,
    Weighting.T1_GD,
    Weighting.T1_FS_GD,
    Weighting.PD_FS,
    Weighting.DIXON_WATER,
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is put into the networks' last layers, from ``scripts/calibrate.py``.

    Attributes
    ----------
    lesions
        Of the lesion network's logits.
    anatomy
        What is added to the anatomy network's logits, by channel.
    """

    lesions: LogitScale = field(default_factory=lambda: LogitScale(1.0, 0.0))
    anatomy: Mapping[Channel, float] = field(default_factory=dict)


_UNCHANGED = Calibration()
_METADATA = Path("configs/metadata.json")
_FOOTPRINT = "footprint_bytes_per_voxel"


def export_bundle(
    bundle: Path,
    recipes: tuple[Recipe, Recipe],
    checkpoints: tuple[Path, Path],
    calibration: Calibration = _UNCHANGED,
) -> dict[str, int]:
    """Write the averaged weights of the anatomy and the lesion network into a bundle.

    Weights are stored as float16 and computed with as float32 or bfloat16. The key
    ``spinemets`` of the bundle's ``metadata.json`` is renewed, with the networks' footprints as
    measured on this machine; its other keys are kept.

    Returns
    -------
    dict
        The step that each checkpoint was taken at.

    Raises
    ------
    ModelIncompatibleError
        A checkpoint does not belong to its recipe.
    """
    weights: dict[str, Tensor] = {}
    definitions: dict[str, NetworkDefinition] = {}
    steps: dict[str, int] = {}
    for recipe, checkpoint in zip(recipes, checkpoints, strict=True):
        definition = network_definition(recipe)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        averaged = _averaged(definition, state["average"], checkpoint)
        if recipe.task == "lesion":
            averaged = _scaled(averaged, calibration.lesions)
        else:
            averaged = add_offsets(averaged, calibration.anatomy)
        weights |= {f"{recipe.task}.{name}": value.half().contiguous() for name, value in averaged.items()}
        definitions[recipe.task] = definition
        steps[recipe.task] = int(state["step"])
    atomic_write_bytes(bundle / "models" / "model.safetensors", save(weights))
    _describe(bundle / _METADATA, definitions)
    return steps


def store_footprint(bundle: Path) -> dict[str, dict[str, float]]:
    """Measure the footprint of a bundle's networks and store it; weights and other keys are kept.

    Returns
    -------
    dict
        Bytes per voxel by network and precision, as stored; empty where this system cannot
        measure them, and the bundle is left as it is.

    Raises
    ------
    ModelIncompatibleError
        The bundle's metadata describe no networks.
    """
    metadata = bundle / _METADATA
    values = json.loads(metadata.read_text(encoding="utf-8"))
    try:
        described = {name: values["spinemets"]["network"][name] for name in ("anatomy", "lesion")}
    except (KeyError, TypeError) as error:
        raise ModelIncompatibleError(f"{metadata}: describes no networks, it lacks {error}") from error
    footprints = measure_footprints(
        {name: NetworkDefinition.from_mapping(shape) for name, shape in described.items()}
    )
    if footprints:
        values["spinemets"][_FOOTPRINT] = footprints
        _write(metadata, values)
    return footprints


def _averaged(
    definition: NetworkDefinition, weights: dict[str, Tensor], checkpoint: Path
) -> dict[str, Tensor]:
    """Every parameter once: DynUNet's own state lists its layers under two names."""
    network = build_network(definition)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelIncompatibleError(f"{checkpoint}: does not belong to its recipe: {error}") from error
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def _scaled(weights: dict[str, Tensor], scale: LogitScale) -> dict[str, Tensor]:
    weight, bias = weights[f"{LAST_LAYER}.weight"], weights[f"{LAST_LAYER}.bias"]
    return {
        **weights,
        f"{LAST_LAYER}.weight": weight * scale.slope,
        f"{LAST_LAYER}.bias": bias * scale.slope + scale.shift,
    }


def _describe(metadata: Path, definitions: Mapping[str, NetworkDefinition]) -> None:
    shapes = {name: asdict(definition) for name, definition in definitions.items()}
    footprints = measure_footprints(definitions)
    values = json.loads(metadata.read_text(encoding="utf-8"))
    values["spinemets"] = {
        "format": 1,
        "network": {"type": "spinemets-cascade", **shapes},
        "spacing_mm": {"in_plane": 1.0, "slice_min": 2.5, "slice_target": 3.0},
        "channels": [channel.name.lower() for channel in Channel],
        "weightings": [weighting.value for weighting in _TOLD],
        **({_FOOTPRINT: footprints} if footprints else {}),
    }
    _write(metadata, values)


def _write(metadata: Path, values: Mapping[str, object]) -> None:
    atomic_write_text(metadata, json.dumps(values, indent=2) + "\n")
