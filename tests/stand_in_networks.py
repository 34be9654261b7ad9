"""Networks that read structures off grey values, pictures for them, and a segmenter around them."""

from __future__ import annotations

import numpy as np
import torch

from spinemets.bundles import SpacingMm
from spinemets.channels import STRUCTURE_OF_CHANNEL, Channel, condition_vector
from spinemets.config import SegmentationConfig
from spinemets.findings import Provenance
from spinemets.inference import EngineReport
from spinemets.intensity import LESION_INPUTS
from spinemets.network import NetworkDefinition
from spinemets.segmentation import CascadeSegmenter
from spinemets.volume import Series, Volume, Weighting

CPU = torch.device("cpu")
ANATOMY = NetworkDefinition(1, 4, len(Channel), (4, 6, 8))
LESION = NetworkDefinition(len(LESION_INPUTS), 4, 1, (4, 6, 8))
SPACING = SpacingMm(in_plane=1.0, slice_min=2.5, slice_target=3.0)
PROVENANCE = Provenance("0.0.0", "small", "1.0.0", "0" * 64)
GREY = np.array([0, 50, 100, 150, 240, 200, 25], dtype=np.float32)
"""Of each ``Structure`` in the pictures that ``Reader`` can read."""


class Reader:
    """An anatomy engine that reads each structure off its grey value."""

    device = CPU

    def __init__(self) -> None:
        self.conditions: list[list[float]] = []

    def new_report(self) -> EngineReport:
        return EngineReport("cpu", "float32")

    def run(self, image, condition, _report):
        self.conditions.append(condition[0].tolist())
        grey = (image - image.min()) / (image.max() - image.min()) * GREY.max()
        channels = torch.from_numpy(GREY[STRUCTURE_OF_CHANNEL])[None, :, None, None, None]
        likely = -(((grey - channels) / 5) ** 2)
        # The four regions' bodies look alike; call every body lumbar.
        likely[:, Channel.C2 : Channel.LUMBAR_BODY] -= 50
        return likely


class BrightOrByWeighting:
    """A lesion engine: log odds that depend on the weighting, or on the right half of the image."""

    device = CPU

    def __init__(self, log_odds: dict[Weighting, float] | None = None) -> None:
        self.log_odds = {tuple(condition_vector(w).tolist()): v for w, v in (log_odds or {}).items()}
        self.seen = []

    def new_report(self) -> EngineReport:
        return EngineReport("cpu", "float32")

    def run(self, image, condition, _report):
        self.seen.append(image)
        logits = torch.full_like(image[:, :1], self.log_odds.get(tuple(condition[0].tolist()), -6.0))
        if not self.log_odds:
            logits[:, :, image.shape[2] // 2 + 1 :] = 6.0
        return logits


def segmenter_of(anatomy, lesion, **settings):
    return CascadeSegmenter((anatomy, lesion), SPACING, SegmentationConfig(**settings), PROVENANCE)


def series(weighting=Weighting.T2, uid="1", frame="frame"):
    return Series("study", uid, weighting=weighting, frame_of_reference_uid=frame)


def picture(spine, weighting=Weighting.T2, uid="1"):
    return Volume(GREY[spine.anatomy], spine.grid, series(weighting, uid))


def below_middle(grid):
    """Which voxels lie in the lower half of the image; they are the first along the last axis."""
    return np.broadcast_to(np.arange(grid.shape[2]) < grid.shape[2] // 2, grid.shape)
