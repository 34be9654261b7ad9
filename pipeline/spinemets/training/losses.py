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
    """Binary cross-entropy with hard voxels weighted up, plus soft Dice of the batch.

    Parameters
    ----------
    logits
        (batch, 1, slices, rows, columns).
    lesion
        uint8, (batch, slices, rows, columns): 1 lesion, 0 none, 255 unknown.
    """
    known = lesion != 255
    truth = (lesion == 1).float()
    logit = logits[:, 0].float()
    entropy = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    p = torch.sigmoid(logit)
    # Focal weighting (Lin et al. 2017, gamma 1) with lesions, about 1 voxel in 100, ten times up.
    weight = known * (1 + 9 * truth) * (p - truth).abs()
    focal = (entropy * weight).sum() / (known.sum().clamp_min(1) * 0.02)
    p = p * known
    overlap = (p * truth).sum()
    dice = 1 - (2 * overlap + 20) / (p.sum() + truth.sum() + 20)
    return focal + dice
