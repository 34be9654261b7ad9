"""Intensities as the networks see them: comparable across scanners, and against normal marrow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spinemets.channels import Channel

__all__ = ["LESION_INPUTS", "lesion_input", "marrow_score", "normalise"]

LESION_INPUTS = (
    "intensity",
    "marrow score",
    "body",
    "posterior",
    "disc",
    "sac",
    "cord",
    "sacrum",
    "own marrow score",
)
_ARCHES = (Channel.POSTERIOR_ELEMENTS, Channel.SACRUM)

_SUBSAMPLE = 200_000
_SAMPLED = 60_000  # values are enough to find the densest part
_DENSEST_SHARE = 0.3
_DENSEST_WIDTH = 2 * 0.3853  # in standard deviations: of the middle 30 % of a normal distribution


def normalise(image: Tensor) -> Tensor:
    """Clip to the 0.5th..99.5th percentile, then zero mean and unit spread over what is not air.

    Parameters
    ----------
    image
        Float, any shape, arbitrary units.

    Returns
    -------
    Tensor
        Same shape; all zeros for a constant image.
    """
    values = image.reshape(-1)
    step = max(1, values.numel() // _SUBSAMPLE)
    sample = values[::step].float()
    low, high = torch.quantile(sample, torch.tensor([0.005, 0.995], device=sample.device))
    if high <= low:
        return torch.zeros_like(image)
    scaled = ((image - low) / (high - low)).clamp(0, 1)
    tissue = ((sample - low) / (high - low)).clamp(0, 1)
    tissue = tissue[tissue > 0.04]
    standardised: Tensor = (scaled - tissue.mean()) / tissue.std().clamp_min(1e-3)
    return standardised


def marrow_score(image: Tensor, marrow: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """How far each voxel is from the normal marrow around it, in robust standard deviations.

    The reference is a smooth field through the bone of this very scan, so that coil fall-off
    and a patient's own marrow cancel; voxels far from the field's median are left out of it,
    so that a lesion does not become its own reference.

    Parameters
    ----------
    image
        (1, 1, slices, rows, columns), float.
    marrow
        Probability of the bone whose marrow is the reference, same shape.

    Returns
    -------
    Tensor
        Same shape, clipped to [-8, 8]; zeros where the scan shows no such bone.
    """
    weight = (marrow > 0.5).to(image.dtype)
    inside = image[weight > 0]
    if inside.numel() < 50:
        return torch.zeros_like(image)
    centre, spread = _most_usual(inside)
    # Two passes: the second leaves out what the first one found unusual.
    for _ in range(2):
        usual = weight * ((image - centre).abs() < 2.5 * spread)
        centre = _smooth(image * usual, spacing_mm) / _smooth(usual, spacing_mm).clamp_min(1e-4)
        residual = (image - centre)[usual > 0]
        if residual.numel() < 50:
            return torch.zeros_like(image)
        spread = 1.4826 * residual.abs().median()
        spread = spread.clamp_min(1e-3)
    return ((image - centre) / spread).clamp(-8, 8)


def lesion_input(image: Tensor, anatomy: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """What the lesion network sees: the image, its marrow scores and the anatomy.

    Marrow of arches and of the sacrum often looks unlike that of bodies, by more than disease
    changes it. So these are compared with themselves as well.

    Parameters
    ----------
    image
        (1, 1, slices, rows, columns), normalised.
    anatomy
        Probabilities of every ``Channel``, (1, channels, slices, rows, columns).

    Returns
    -------
    Tensor
        (1, 9, slices, rows, columns), in the order of ``LESION_INPUTS``.
    """
    body = anatomy[:, Channel.C2 : Channel.SACRUM].sum(dim=1, keepdim=True)
    score = marrow_score(image, body, spacing_mm) / 4
    rest = (Channel.POSTERIOR_ELEMENTS, Channel.DISC, Channel.THECAL_SAC, Channel.CORD, Channel.SACRUM)
    own = torch.zeros_like(score)
    for channel in _ARCHES:
        bone = anatomy[:, channel : channel + 1]
        own = own + bone * marrow_score(image, bone, spacing_mm) / 4
    return torch.cat((image, score, body, anatomy[:, list(rest)], own), dim=1)


def _most_usual(values: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and standard deviation of the densest part of a sample.

    It is the shortest interval that holds three values in ten (the idea of the shorth: Andrews et
    al. 1972, Robust Estimates of Location). A median would lie between healthy marrow and disease
    where half of the marrow is diseased.
    """
    ordered = values[:: -(-values.numel() // _SAMPLED)].sort().values
    held = max(1, round(_DENSEST_SHARE * len(ordered)))
    widths = ordered[held:] - ordered[:-held]
    start = int(widths.argmin())
    return ordered[start + held // 2], (widths[start] / _DENSEST_WIDTH).clamp_min(1e-3)


def _smooth(field: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """A wide blur, about 25 mm: average pooling to 8 mm, box blurs there, back up linearly."""
    size = field.shape[2:]
    pool = [max(1, min(n, round(8.0 / s))) for n, s in zip(size, spacing_mm, strict=True)]
    coarse = F.avg_pool3d(field, pool, ceil_mode=True, count_include_pad=False)
    kernel = [3 if n >= 3 else 1 for n in coarse.shape[2:]]
    padding = [k // 2 for k in kernel]
    for _ in range(4):
        coarse = F.avg_pool3d(coarse, kernel, stride=1, padding=padding, count_include_pad=False)
    return F.interpolate(coarse, size=size, mode="trilinear", align_corners=False)
