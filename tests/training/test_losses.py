"""The losses prefer the truth, and ask nothing where the truth is not known."""

from __future__ import annotations

import pytest
import torch

from spinemets.channels import Channel
from spinemets.training.losses import lesion_loss, partial_label_loss
from spinemets.training.scans import ANY, bit

SHAPE = (2, 8, 8)


def logits_for(channel, strength=8.0):
    logits = torch.zeros(1, len(Channel), *SHAPE)
    logits[:, channel] = strength
    return logits


def allowed_everywhere(*channels):
    return torch.full((1, *SHAPE), bit(*channels), dtype=torch.int16)


@pytest.fixture
def mixed():
    """Left half a lumbar body, a strip of canal, the rest background; one corner unknown."""
    allowed = allowed_everywhere(Channel.BACKGROUND)
    allowed[..., :4] = bit(Channel.LUMBAR_BODY)
    allowed[..., 6] = bit(Channel.THECAL_SAC, Channel.CORD)
    allowed[:, 0, :2] = ANY
    return allowed


def random_logits(seed=0):
    logits = torch.randn(1, len(Channel), *SHAPE, generator=torch.Generator().manual_seed(seed))
    return logits.requires_grad_()


def test_unknown_voxels_have_no_gradient(mixed):
    logits = random_logits()
    partial_label_loss(logits, mixed).backward()
    unknown = (mixed == ANY)[:, None].expand_as(logits)
    assert float(logits.grad[unknown].abs().max()) < 1e-7
    assert (logits.grad[~unknown].abs().amax() > 1e-4).item()


def test_a_patch_of_which_nothing_is_known_costs_and_teaches_nothing():
    logits = random_logits()
    loss = partial_label_loss(logits, allowed_everywhere(*Channel))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert float(logits.grad.abs().max()) < 1e-7


@pytest.mark.parametrize("channel", list(Channel))
def test_the_right_answer_costs_least(channel):
    losses = [float(partial_label_loss(logits_for(c), allowed_everywhere(channel))) for c in Channel]
    assert min(range(len(Channel)), key=losses.__getitem__) == channel
    assert losses[channel] < 0.2


def test_canal_is_sac_or_cord_either_way():
    canal = allowed_everywhere(Channel.THECAL_SAC, Channel.CORD)
    sac, cord, disc = (
        float(partial_label_loss(logits_for(c), canal))
        for c in (Channel.THECAL_SAC, Channel.CORD, Channel.DISC)
    )
    assert sac == pytest.approx(cord, abs=1e-5)
    assert sac < 0.1
    assert disc > sac + 1


def test_what_is_certainly_not_cord_is_not_called_cord():
    anything_else = allowed_everywhere(*(c for c in Channel if c is not Channel.CORD))
    cord, disc = (
        float(partial_label_loss(logits_for(c), anything_else)) for c in (Channel.CORD, Channel.DISC)
    )
    assert cord > disc + 1


def test_a_body_of_the_wrong_region_costs_less_than_none():
    lumbar = allowed_everywhere(Channel.LUMBAR_BODY)
    thoracic, background = (
        float(partial_label_loss(logits_for(c), lumbar)) for c in (Channel.THORACIC_BODY, Channel.BACKGROUND)
    )
    assert thoracic < background


def test_descending_the_partial_label_loss_finds_the_truth(mixed):
    logits = random_logits(3)
    optimizer = torch.optim.Adam([logits], lr=1.0)
    for _ in range(25):
        optimizer.zero_grad()
        partial_label_loss(logits, mixed).backward()
        optimizer.step()
    chosen = logits.argmax(dim=1)
    assert ((mixed.int() >> chosen) & 1).all()


def lesion_truth():
    lesion = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    lesion[:, :, 2:5, 2:5] = 1
    lesion[:, 1, :, 7] = 255
    return lesion


def test_lesion_loss_ignores_unknown_voxels():
    logits = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    lesion_loss(logits, lesion_truth()).backward()
    unknown = (lesion_truth() == 255)[:, None]
    assert not logits.grad[unknown].any()
    assert logits.grad[~unknown].any()


def test_lesion_loss_prefers_the_truth():
    lesion = lesion_truth()
    right = torch.where(lesion == 1, 9.0, -9.0)[:, None]
    losses = [float(lesion_loss(logits, lesion)) for logits in (right, torch.full_like(right, -9.0), -right)]
    assert losses == sorted(losses)
    assert losses[0] < 0.1 < losses[1]


def test_a_healthy_patch_called_healthy_costs_nothing():
    healthy = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    assert float(lesion_loss(torch.full((1, 1, *SHAPE), -12.0), healthy)) < 1e-2
    assert float(lesion_loss(torch.full((1, 1, *SHAPE), 3.0), healthy)) > 1


def test_missing_a_small_lesion_costs_more_than_its_share_of_voxels():
    lesion = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
    lesion[:, :, 4:44, 4:44], lesion[:, :, 50:54, 50:54] = 1, 2
    missed = [torch.where((lesion > 0) & (lesion != n), 9.0, -9.0)[:, None] for n in (1, 2)]
    large, small = (float(lesion_loss(logits, lesion)) for logits in missed)
    assert large > small > large * 3 * (lesion == 2).sum() / (lesion == 1).sum()
