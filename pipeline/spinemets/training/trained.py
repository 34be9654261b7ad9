"""Networks that were trained before: from a checkpoint of a training, or from a bundle."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from spinemets.bundles import load_bundle
from spinemets.errors import ConfigError
from spinemets.execution import NetworkWeights, parameter_shapes
from spinemets.network import SpineUNet, build_network
from spinemets.segmentation import Part, cascade_network, read_networks

__all__ = ["CHECKPOINT_FAULTS", "Trained", "built", "read_trained"]

# What torch.load and reading its result raise where a file is damaged or holds something else.
CHECKPOINT_FAULTS = (
    OSError, EOFError, UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, AttributeError,
    struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A network as it was trained.

    Attributes
    ----------
    step
        Of the checkpoint; None for a bundle, which does not tell.
    """

    weights: NetworkWeights
    step: int | None


def read_trained(source: Path, part: Part) -> Trained:
    """The averaged weights of a checkpoint, or one network of a bundle.

    Parameters
    ----------
    source
        A file of a training, or a bundle's folder.

    Raises
    ------
    ConfigError
        The file is no checkpoint of such a network.
    ModelNotFoundError, ModelNotTrustedError, ModelIncompatibleError
        The folder is no bundle that is registered and can be read.
    """
    if source.is_dir():
        anatomy, lesion = read_networks(load_bundle(source))
        return Trained(anatomy if part == "anatomy" else lesion, None)
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        weights: dict[str, Tensor] = state["average"]
        filters, step = _filters_of(weights), int(state["step"])
    except CHECKPOINT_FAULTS as error:
        raise ConfigError(
            f"{source}: is no checkpoint of a training and no bundle's folder ({fault_words(error)})"
        ) from error
    definition = cascade_network(part, filters)
    shapes = parameter_shapes(definition)
    # DynUNet's own state lists its layers under two names; each parameter counts once.
    own = {name: weights[name] for name in shapes if name in weights}
    if {name: tuple(value.shape) for name, value in own.items()} != shapes:
        raise ConfigError(f"{source}: holds no {part} network")
    return Trained(NetworkWeights(definition, own), step)


def fault_words(error: Exception) -> str:
    """What is wrong with a checkpoint, in one line.

    Of content that is refused as unsafe, PyTorch tells at length how to load it all the same.
    """
    if isinstance(error, UnpicklingError):
        return "it holds something else than weights"
    return next(iter(str(error).splitlines()), type(error).__name__)


def built(weights: NetworkWeights) -> SpineUNet:
    """A network with these weights, ready to run."""
    network = build_network(weights.definition)
    network.load_state_dict(weights.parameters, strict=False)
    return network.eval()


def _filters_of(weights: dict[str, Tensor]) -> tuple[int, ...]:
    """The feature channels of a stored DynUNet, read off its encoder's normalisation layers."""
    names = ["body.input_block.norm1.weight"]
    names += sorted(n for n in weights if n.startswith("body.downsamples.") and n.endswith(".norm1.weight"))
    names += ["body.bottleneck.norm1.weight"]
    return tuple(int(weights[name].numel()) for name in names)
