"""From two training checkpoints to a bundle's weights and the description that inference needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save
from torch import Tensor

from spinemets.atomic import atomic_write_bytes, atomic_write_text
from spinemets.channels import Channel
from spinemets.errors import ModelIncompatibleError, ModelNotFoundError
from spinemets.network import NetworkDefinition
from spinemets.training.footprint import measure_footprints
from spinemets.training.loop import network_definition
from spinemets.training.offsets import add_offsets
from spinemets.training.recipe import Recipe
from spinemets.training.trained import read_trained
from spinemets.volume import Weighting

__all__ = ["export_bundle", "store_footprint"]

_TOLD = (
    Weighting.T1,
    Weighting.T2,
    Weighting.T2_FS,
    Weighting.T1_GD,
    Weighting.T1_FS_GD,
    Weighting.PD_FS,
    Weighting.DIXON_WATER,
)


_METADATA = Path("configs/metadata.json")
_FOOTPRINT = "footprint_bytes_per_voxel"


def export_bundle(
    bundle: Path,
    recipes: tuple[Recipe, Recipe],
    checkpoints: tuple[Path, Path],
    anatomy_offsets: Mapping[Channel, float] = MappingProxyType({}),
) -> dict[str, int | None]:
    """Write the averaged weights of the anatomy and the lesion network into a bundle.

    Each comes from a checkpoint, or from a bundle's folder, which may be the same one.

    Weights are stored as float16 and computed with as float32 or bfloat16. The key
    ``spinemets`` of the bundle's ``metadata.json`` is renewed, with the networks' footprints as
    measured on this machine; its other keys are kept.

    Parameters
    ----------
    anatomy_offsets
        What is added to the anatomy network's logits, by channel, from ``scripts/calibrate.py``.

    Returns
    -------
    dict
        The step that each checkpoint was taken at; None for what a bundle held.

    Raises
    ------
    ModelIncompatibleError
        A checkpoint does not belong to its recipe.
    ModelNotFoundError
        The folder holds no description that could be renewed.
    """
    values = _read(bundle / _METADATA)
    weights: dict[str, Tensor] = {}
    definitions: dict[str, NetworkDefinition] = {}
    steps: dict[str, int | None] = {}
    for recipe, checkpoint in zip(recipes, checkpoints, strict=True):
        trained = read_trained(checkpoint, recipe.task)
        if trained.weights.definition != network_definition(recipe):
            raise ModelIncompatibleError(f"{checkpoint}: does not belong to its recipe")
        own = trained.weights.parameters
        if recipe.task == "anatomy":
            own = add_offsets(own, anatomy_offsets)
        weights |= {f"{recipe.task}.{name}": value.half().contiguous() for name, value in own.items()}
        definitions[recipe.task] = trained.weights.definition
        steps[recipe.task] = trained.step
    atomic_write_bytes(bundle / "models" / "model.safetensors", save(weights))
    _describe(bundle / _METADATA, values, definitions)
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
    ModelNotFoundError
        There is no such bundle.
    """
    metadata = bundle / _METADATA
    values = _read(metadata)
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


def _describe(metadata: Path, values: dict[str, Any], definitions: Mapping[str, NetworkDefinition]) -> None:
    shapes = {name: asdict(definition) for name, definition in definitions.items()}
    footprints = measure_footprints(definitions)
    values["spinemets"] = {
        "format": 1,
        "network": {"type": "spinemets-cascade", **shapes},
        "spacing_mm": {"in_plane": 1.0, "slice_min": 2.5, "slice_target": 3.0},
        "channels": [channel.name.lower() for channel in Channel],
        "weightings": [weighting.value for weighting in _TOLD],
        **({_FOOTPRINT: footprints} if footprints else {}),
    }
    _write(metadata, values)


def _read(metadata: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(metadata.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelNotFoundError(
            f"{metadata}: cannot be read ({error.strerror}); name a bundle's folder"
        ) from error
    except ValueError as error:
        raise ModelIncompatibleError(f"{metadata}: is not JSON ({error})") from error
    return values


def _write(metadata: Path, values: Mapping[str, object]) -> None:
    atomic_write_text(metadata, json.dumps(values, indent=2) + "\n")
