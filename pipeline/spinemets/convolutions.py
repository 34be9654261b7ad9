"""Convolutions carried out in another way than they are written, with the same result but for rounding.

What is rounded here is bfloat16 or float16; float32 is left as it is. Knows nothing of networks.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SliceWinograd", "UpsampledConvolution", "flat_convolution", "rounded"]

# F(4, 3) of Winograd's minimal filtering, by the points 0, ±1, ±2 and infinity: four neighbouring
# results of a kernel of three take six products instead of twelve (Lavin A, Gray S. Fast Algorithms
# for Convolutional Neural Networks. CVPR 2016). What multiplies features is exact in bfloat16.
_MADE, _SEEN = 4, 6
_FROM_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_FROM_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_TO_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
_WORTH_IT = 0.7  # share of the products, above which mixing the slices costs more than is saved


def rounded(kernels: Tensor, precision: torch.dtype) -> Tensor:
    """Kernels in a lower precision, each with nearly the sum that it had.

    Neighbouring voxels are nearly alike, so an error of a kernel's sum does far more harm than
    errors that cancel. Each number's error is therefore passed on to the next one.

    Parameters
    ----------
    kernels
        float32, (out, in, ...): everything behind the first two axes is one kernel.

    Examples
    --------
    >>> kernel = torch.full((1, 1, 1, 3), 1.003)
    >>> kernel.to(torch.bfloat16).float().sum().item(), rounded(kernel, torch.bfloat16).float().sum().item()
    (3.0, 3.0078125)
    """
    result = torch.empty_like(kernels, dtype=precision)
    error = torch.zeros_like(kernels.flatten(2)[..., 0])
    for number, short in zip(kernels.flatten(2).unbind(2), result.flatten(2).unbind(2), strict=True):
        wanted = number + error
        short.copy_(wanted)
        error = wanted - short
    return result


def flat_convolution(features: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """A 1×3×3 convolution in two dimensions, padded with zeros.

    In three, PyTorch unfolds an image of few float32 channels, at a tenth of the speed.

    Parameters
    ----------
    features
        (1, in, slices, rows, columns), channels-last.
    kernel
        (out, in, 1, 3, 3).
    stride
        Over rows and columns.
    """
    slices = F.conv2d(features[0].transpose(0, 1), kernel[:, :, 0], None, stride, padding=1)
    return slices.transpose(0, 1)[None]


class SliceWinograd:
    """A 3×3×3 convolution with half the products: four slices at once after Winograd.

    Parameters
    ----------
    kernel
        float32, (out, in, 3, 3, 3).
    precision
        That of the features.
    """

    def __init__(self, kernel: Tensor, precision: torch.dtype) -> None:
        mixed = torch.einsum("ps,oisrc->poirc", torch.tensor(_FROM_KERNEL), kernel)
        self._kernels = [
            rounded(part, precision).contiguous(memory_format=torch.channels_last) for part in mixed
        ]
        self._precision = precision

    @staticmethod
    def pays(slices: int) -> bool:
        """Whether so many slices make few enough groups of four."""
        return _groups(slices) * _SEEN <= _WORTH_IT * 3 * slices

    def __call__(self, features: Tensor) -> Tensor:
        """Convolve (1, in, slices, rows, columns), channels-last, padded with zeros to the same size."""
        _, channels, slices, rows, columns = features.shape
        groups = _groups(slices)
        from_input, to_output = _slice_mixing(slices, self._precision)
        mixed = from_input @ features.permute(0, 2, 3, 4, 1).reshape(slices, -1)
        parts = mixed.view(_SEEN, groups, rows, columns, channels).permute(0, 1, 4, 2, 3)
        outputs = self._kernels[0].shape[0]
        products = features.new_empty((_SEEN, groups, rows, columns, outputs))
        for product, part, kernel in zip(products, parts, self._kernels, strict=True):
            product.copy_(F.conv2d(part, kernel, padding=1).permute(0, 2, 3, 1))
        made = to_output @ products.view(_SEEN * groups, -1)
        return made.view(1, slices, rows, columns, outputs).permute(0, 4, 1, 2, 3)


class UpsampledConvolution:
    """Upsampling, joining with a skip connection and a 3×3×3 convolution, without what is joined.

    Each voxel of the upsampled half is a sum over 2×2 coarse pixels in three slices. Around one
    corner of the coarse grid the four fine pixels see the same four coarse ones, so that one
    convolution with a 3×2×2 kernel and four times the outputs computes that half.

    Parameters
    ----------
    upsampling
        Kernel of the transposed convolution, float32, (coarse, between, 1, 2, 2).
    kernel
        float32, (out, between + skipped, 3, 3, 3).
    precision
        That of the features.
    """

    def __init__(self, upsampling: Tensor, kernel: Tensor, precision: torch.dtype) -> None:
        between = upsampling.shape[1]
        # Seen from a corner, fine pixel ``a`` and the kernel's ``tap`` meet sub-pixel (a + tap) % 2 of
        # coarse pixel (a + tap) // 2.
        meets = torch.zeros(2, 3, 2, 2)
        for a in range(2):
            for tap in range(3):
                meets[a, tap, (a + tap) // 2, (a + tap) % 2] = 1
        merged = torch.einsum(
            "arRp,bcCq,omsrc,impq->aboisRC", meets, meets, kernel[:, :between], upsampling[:, :, 0]
        )
        layout = torch.channels_last_3d
        self._corner = rounded(merged.flatten(0, 2), precision).contiguous(memory_format=layout)
        self._skip = rounded(kernel[:, between:], precision).contiguous(memory_format=layout)

    def __call__(self, features: Tensor, skip: Tensor) -> Tensor:
        """Convolve (1, coarse, slices, rows, columns) upsampled, joined with a skip connection.

        Parameters
        ----------
        skip
            (1, skipped, slices, 2 rows, 2 columns), channels-last as the features.
        """
        upsampled = self._upsampled(features)
        return F.conv3d(skip, self._skip, padding=1).add_(upsampled)

    def _upsampled(self, features: Tensor) -> Tensor:
        """The upsampled half's share, from corners to pixels; a view without the outer ring."""
        corners = F.conv3d(features, self._corner, padding=1)
        _, count, slices, rows, columns = corners.shape
        by_corner = corners.permute(0, 2, 3, 4, 1).view(slices, rows, columns, 2, count // 2)
        by_row = by_corner.transpose(2, 3).contiguous()
        pixels = by_row.view(1, slices, 2 * rows, 2 * columns, count // 4)
        return pixels[:, :, 1:-1, 1:-1].permute(0, 4, 1, 2, 3)


def _groups(slices: int) -> int:
    return -(-slices // _MADE)


@lru_cache(maxsize=64)
def _slice_mixing(slices: int, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrices from slices to what is multiplied, (6 groups, slices), and from there to slices."""
    groups = _groups(slices)
    from_input, to_output = torch.tensor(_FROM_INPUT), torch.tensor(_TO_OUTPUT)
    forth = torch.zeros(_SEEN, groups, groups * _MADE + 2)
    back = torch.zeros(groups * _MADE, _SEEN, groups)
    for group in range(groups):
        first = group * _MADE
        forth[:, group, first : first + _SEEN] = from_input
        back[first : first + _MADE, :, group] = to_output
    # The first column stands for the slice before the first, which is zero like those behind the last.
    forth, back = forth[..., 1 : slices + 1].flatten(0, 1), back[:slices].flatten(1)
    return forth.to(precision).contiguous(), back.to(precision)
