"""The segmentation network: MONAI's DynUNet on native sagittal slices, told the weighting.

The image enters at 1 mm in plane. Blocks of 2×2 in-plane pixels are folded into channels, so
that the network computes on 2 mm pixels without losing what 1 mm pixels show, and the outputs
are unfolded again. Against the same network on 1 mm pixels this is three to four times faster
to train on a CPU. Slices are never pooled: they are 3 to 5 mm apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from spinemets.errors import ModelIncompatibleError

__all__ = ["FOLD", "NetworkDefinition", "SpineUNet", "build_network"]

FOLD = 2
"""In-plane pixels along each axis that are folded into channels."""

_MINIMUM_DEPTH = 3  # DynUNet takes no fewer


@dataclass(frozen=True, slots=True)
class NetworkDefinition:
    """What it takes to build a network: stored in a bundle's metadata.

    Attributes
    ----------
    image_channels
        Channels that vary over the image (1 for the anatomy network).
    conditions
        Length of the vector that says the weighting; all zeros means unknown.
    outputs
        Output channels, logits.
    filters
        Feature channels at 2, 4, 8, ... mm in plane; their number is the depth.
    """

    image_channels: int
    conditions: int
    outputs: int
    filters: tuple[int, ...]

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> NetworkDefinition:
        """Read a definition from plain data.

        Raises
        ------
        ModelIncompatibleError
            A value is missing or is not a positive integer, or there are fewer than three filters.
        """
        try:
            sizes = {name: _integer(values[name]) for name in ("image_channels", "conditions", "outputs")}
            filters = tuple(_integer(n) for n in cast(Iterable[object], values["filters"]))
        except (KeyError, TypeError) as error:
            raise ModelIncompatibleError(
                f"the network definition {dict(values)} lacks or garbles {error}; use a bundle made for it"
            ) from error
        positive = min(sizes["image_channels"], sizes["outputs"], *filters) >= 1 and sizes["conditions"] >= 0
        if not positive or len(filters) < _MINIMUM_DEPTH:
            raise ModelIncompatibleError(
                f"the network definition {dict(values)} describes no network: sizes must be positive, "
                f"and filters at least {_MINIMUM_DEPTH}; use a bundle of this version"
            )
        return cls(**sizes, filters=filters)

    @property
    def in_plane_multiple(self) -> int:
        """In-plane sizes must be multiples of this."""
        return int(FOLD * 2 ** (len(self.filters) - 1))


class SpineUNet(nn.Module):
    """DynUNet behind a 2×2 in-plane fold, conditioned on the weighting.

    The first level's kernels are 1×3×3, the deeper ones' 3×3×3; pooling is in plane only.
    """

    def __init__(self, definition: NetworkDefinition) -> None:
        super().__init__()
        # MONAI takes seconds to import, and inference does without this class.
        from monai.networks.nets.dynunet import DynUNet

        depth = len(definition.filters)
        kernels = [(1, 3, 3)] + [(3, 3, 3)] * (depth - 1)
        strides = [(1, 1, 1)] + [(1, 2, 2)] * (depth - 1)
        self.definition = definition
        self.body = DynUNet(
            spatial_dims=3,
            in_channels=definition.image_channels * FOLD**2 + definition.conditions,
            out_channels=definition.outputs * FOLD**2,
            kernel_size=kernels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(definition.filters),
            norm_name=("INSTANCE", {"affine": True}),
            act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        )

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Logits for an image.

        Parameters
        ----------
        image
            (batch, image channels, slices, rows, columns); rows and columns are multiples of
            ``definition.in_plane_multiple``.
        condition
            (batch, conditions).

        Returns
        -------
        Tensor
            (batch, outputs, slices, rows, columns).
        """
        folded = _fold(image)
        if self.definition.conditions:
            constant = condition[:, :, None, None, None].to(folded.dtype)
            folded = torch.cat((folded, constant.expand(-1, -1, *folded.shape[2:])), dim=1)
        return _unfold(self.body(folded.contiguous(memory_format=torch.channels_last_3d)))


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r}, which is not an integer")
    return value


def _fold(image: Tensor) -> Tensor:
    batch, channels, slices, rows, columns = image.shape
    blocks = image.reshape(batch, channels, slices, rows // FOLD, FOLD, columns // FOLD, FOLD)
    return blocks.permute(0, 1, 4, 6, 2, 3, 5).reshape(
        batch, channels * FOLD**2, slices, rows // FOLD, columns // FOLD
    )


def _unfold(folded: Tensor) -> Tensor:
    batch, channels, slices, rows, columns = folded.shape
    blocks = folded.reshape(batch, channels // FOLD**2, FOLD, FOLD, slices, rows, columns)
    return blocks.permute(0, 1, 4, 5, 2, 6, 3).reshape(
        batch, channels // FOLD**2, slices, rows * FOLD, columns * FOLD
    )


def build_network(definition: NetworkDefinition) -> SpineUNet:
    """A network with fresh weights, in the memory layout that is fastest on CPU and GPU."""
    network = SpineUNet(definition)
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network
