"""Losses that take a set of possible channels as the truth, and voxels of which nothing is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spinemets.channels import Channel

__all__ = ["lesion_loss", "partial_label_loss"]

# Merged groups: whatever region a body is taken for, it must be found; canal is sac or cord.
_GROUPS: tuple[tuple[Channel, ...], ...] = (
    (Channel.C2, Channel.CERVICAL_BODY, Channel.THORACIC_BODY, Channel.LUMBAR_BODY),
    (Channel.THECAL_SAC, Channel.CORD),
    *((channel,) for channel in Channel if channel is not Channel.BACKGROUND),
)


def partial_label_loss(logits: Tensor, allowed: Tensor) -> Tensor:
    """Cross-entropy of the allowed set plus soft Dice of every channel and group.

    Parameters
    ----------
    logits
        (batch, channels, slices, rows, columns).
    allowed
        int16, (batch, slices, rows, columns): channels that are possible, as bits.

    Returns
    -------
    Tensor
        Scalar. A voxel where everything is allowed adds nothing.
    """
    bits = 1 << torch.arange(len(Channel), device=logits.device)
    possible = (allowed.int()[:, None] & bits[None, :, None, None, None]) > 0
    log_p = F.log_softmax(logits.float(), dim=1)
    known = ~possible.all(dim=1)
    set_log_p = torch.logsumexp(log_p.masked_fill(~possible, -30.0), dim=1)
    cross_entropy = -(set_log_p * known).sum() / known.sum().clamp_min(1)
    return cross_entropy + _group_dice(log_p.exp(), possible)


def _group_dice(probability: Tensor, possible: Tensor) -> Tensor:
    """Mean of 1 - Dice over the groups that the truth shows, where membership is certain."""
    losses = []
    for group in _GROUPS:
        members = list(group)
        inside = possible[:, members].any(dim=1)
        others = [channel for channel in Channel if channel not in group]
        certain = ~(inside & possible[:, others].any(dim=1))
        truth = inside & certain
        if not truth.any():
            continue
        p = probability[:, members].sum(dim=1) * certain
        overlap = (p * truth).sum()
        losses.append(1 - (2 * overlap + 1) / (p.sum() + truth.sum() + 1))
    return torch.stack(losses).mean() if losses else probability.sum() * 0


def lesion_loss(logits: Tensor, lesion: Tensor) -> Tensor:
    """Binary cross-entropy in which lesions count alike whatever their size, plus soft Dice.

    Voxels of small lesions weigh more, with the square root of the volume, so that a large lesion
    in a patch does not drown the small ones beside it.

    Parameters
    ----------
    logits
        (batch, 1, slices, rows, columns).
    lesion
        uint8, (batch, slices, rows, columns): 0 none, 1 to 254 the lesion's number, 255 unknown.

    Notes
    -----
    Weighting by instance follows the idea of Kofler et al. 2022, "blob loss", arXiv:2205.08209.
    """
    known = lesion != 255
    truth = (known & (lesion > 0)).float()
    logit = logits[:, 0].float()
    entropy = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    weighted = (entropy * known * (1 + truth * _instance_weights(lesion))).flatten(1).sum(dim=1)
    p = torch.sigmoid(logit) * known
    overlap = (p * truth).flatten(1).sum(dim=1)
    size = p.flatten(1).sum(dim=1) + truth.flatten(1).sum(dim=1)
    ill = truth.flatten(1).any(dim=1)
    dice = (1 - (2 * overlap + 20) / (size + 20)) * ill
    # A hundredth of the voxels is what disease makes up in an ill patch.
    share = 0.01 * known.flatten(1).sum(dim=1).clamp_min(1)
    return (weighted / share).mean() + dice.sum() / ill.sum().clamp_min(1)


def _instance_weights(lesion: Tensor) -> Tensor:
    """What each lesion voxel adds to its weight of 1: 2 for 1,000 voxels, more for fewer, at most 5."""
    result = torch.zeros(lesion.shape, device=lesion.device)
    for sample, out in zip(lesion, result, strict=True):
        counts = torch.bincount(sample.flatten().int(), minlength=256).float()
        weights = (2 * torch.sqrt(1000 / counts.clamp_min(1))).clamp(0.5, 5)
        out.copy_(weights[sample.long()])
    return result
