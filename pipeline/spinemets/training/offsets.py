"""Offsets of the anatomy network's logits, for structures that training leaves too large or small.

Dice rewards a structure that is drawn a little too large wherever its edge is in doubt. An
offset of its logit, put into the last layer's bias, costs nothing and takes that back.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from spinemets.channels import Channel
from spinemets.network import FOLD, SpineUNet
from spinemets.training.scans import LabelledScan
from spinemets.training.validation import validate_anatomy

__all__ = ["LAST_LAYER", "add_offsets", "fit_offsets"]

_log = logging.getLogger(__name__)

LAST_LAYER = "body.output_block.conv.conv"

# The score that tells about a channel. Bodies have no offset: on other scanners than the
# validation subjects' they come out too small rather than too large.
_SCORES = {Channel.DISC: "disc", Channel.POSTERIOR_ELEMENTS: "vertebra"}
_TRIED = tuple(round(float(value), 1) for value in np.arange(-1.6, 0.61, 0.2))


def add_offsets(weights: Mapping[str, Tensor], offsets: Mapping[Channel, float]) -> dict[str, Tensor]:
    """A network's weights with offsets of its channels' logits in the last layer's bias.

    Parameters
    ----------
    weights
        By parameter name; not changed.
    """
    bias = weights[f"{LAST_LAYER}.bias"].detach().clone()
    for channel, offset in offsets.items():
        bias[channel * FOLD**2 : (channel + 1) * FOLD**2] += offset
    return {**weights, f"{LAST_LAYER}.bias": bias}


def fit_offsets(network: SpineUNet, scans: Sequence[LabelledScan]) -> dict[Channel, float]:
    """The offset of every channel that gives the best Dice on scans that are no test scans.

    Channels are tried one by one; they hardly touch each other. A channel whose score no scan tells
    has no offset.
    """
    tried = copy.deepcopy(network)
    chosen: dict[Channel, float] = {}
    for channel, score in _SCORES.items():
        scores: dict[float, float] = {}
        for offset in _TRIED:
            weights = dict(network.named_parameters())
            tried.load_state_dict(add_offsets(weights, {**chosen, channel: offset}), strict=False)
            found = validate_anatomy(tried, scans)
            if score not in found:
                break
            scores[offset] = found[score]
        if scores:
            chosen[channel] = max(scores, key=lambda offset: scores[offset])
        else:
            _log.warning("no validation scan is labelled %s: no offset of %s", score, channel.name.lower())
    return chosen
