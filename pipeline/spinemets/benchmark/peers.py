"""The same weights run as they usually are, and how far the fast execution agrees with that.

The usual way is MONAI's ``SlidingWindowInferer`` in float32 with patches of 96 pixels, an overlap
of a half and Gaussian weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from spinemets.allocation import as_usual
from spinemets.benchmark.machine import wait_for
from spinemets.benchmark.stages import NetworkRun
from spinemets.bundles import Bundle
from spinemets.execution import TrainedNetwork
from spinemets.inference import Engine
from spinemets.network import SpineUNet, build_network
from spinemets.segmentation import read_networks

__all__ = ["Agreement", "agreement", "monai_networks", "sliding_window_s"]

_PATCH = 96
_OVERLAP = 0.5
_PATCHES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Agreement:
    """Against float32: share of voxels of the same name, and each structure's Dice."""

    argmax: float
    dice: dict[int, float]


def monai_networks(bundle: Bundle, device: torch.device) -> tuple[SpineUNet, SpineUNet]:
    """The bundle's networks as MONAI's modules, in float32.

    Raises
    ------
    ModelIncompatibleError
        The weights do not fit the networks that the bundle describes.
    """
    anatomy, lesion = (_built(network).to(device).eval() for network in read_networks(bundle))
    return anatomy, lesion


def _built(network: TrainedNetwork) -> SpineUNet:
    built = build_network(network.definition)
    own = dict(network.named_parameters())
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(own[name])
    return built


def sliding_window_s(networks: tuple[SpineUNet, ...], runs: Sequence[NetworkRun]) -> float:
    """Seconds that MONAI's inferer takes for the runs, of which each network has one in turn.

    On a GPU each is run twice, for its libraries choose their kernels in the first.
    """
    from monai.inferers.inferer import SlidingWindowInferer

    total_s = 0.0
    for place, run in enumerate(runs):
        network, image = networks[place % len(networks)], run.image.contiguous()
        patch = (min(image.shape[2], _PATCH), _PATCH, _PATCH)
        inferer = SlidingWindowInferer(patch, _PATCHES_AT_ONCE, _OVERLAP, mode="gaussian")
        elapsed_s = 0.0
        for _ in range(1 if image.device.type == "cpu" else 2):
            start = perf_counter()
            # In a program of its own it would run with the C library's defaults.
            with as_usual(), torch.inference_mode():
                inferer(image, partial(_at_once, network, run.condition.to(image.device)))
                wait_for(image.device)
            elapsed_s = perf_counter() - start
        total_s += elapsed_s
    return total_s


def _at_once(network: SpineUNet, condition: Tensor, patches: Tensor) -> Tensor:
    logits: Tensor = network(patches, condition.expand(len(patches), -1))
    return logits


def agreement(networks: tuple[SpineUNet, ...], runs: Sequence[NetworkRun]) -> Agreement:
    """How the anatomy network's fast execution compares with MONAI's module in float32 and one pass."""
    engine, image, condition = runs[0].engine, runs[0].image, runs[0].condition
    found = Engine.run(engine, image, condition, engine.new_report()).argmax(dim=1)
    multiple = engine.definition.in_plane_multiple
    rows, columns = (-size % multiple for size in image.shape[3:])
    with torch.inference_mode():
        padded = torch.nn.functional.pad(image, (0, columns, 0, rows))
        exact = networks[0](padded, condition.to(image.device)).argmax(dim=1)
    exact = exact[..., : image.shape[3], : image.shape[4]].to(found.device)
    dice = {
        int(label): float(2 * ((found == label) & (exact == label)).sum())
        / float((found == label).sum() + (exact == label).sum())
        for label in torch.unique(exact)
    }
    return Agreement(float((found == exact).float().mean()), dice)
