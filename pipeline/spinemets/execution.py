"""A trained network run as fast as the device allows: ``SpineUNet`` step by step, without MONAI.

The function is that of ``SpineUNet``; what differs is how it is carried out. Weights are cast once.
Each instance normalisation is one batch normalisation of a batch of one, whose kernels know
channels-last memory, and each skip connection is copied once, or never. On a processor some
convolutions are replaced by ones with fewer products (``convolutions.py``). MONAI, which takes
seconds to import, is not needed.

A volume that does not fit a GPU is convolved there in parts while everything else stays in main
memory. Every part brings the rows around it along, and the normalisation sees the whole volume, so
that the result is that of one pass, which independent tiles, each with its own mean and spread,
cannot give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spinemets.convolutions import SliceWinograd, UpsampledConvolution, flat_convolution, rounded
from spinemets.network import FOLD, NetworkDefinition

__all__ = [
    "FusedNetwork",
    "NetworkWeights",
    "TrainedNetwork",
    "parameter_shapes",
    "part_count",
    "peak_bytes",
]

_FIRST_LAYER = "body.input_block.conv1.conv.weight"
_LAST_LAYER = "body.output_block.conv.conv"
_PAIR = {2: torch.int32, 4: torch.int64}
_SLOPE = 0.01
_EPSILON = 1e-5
# From this level on, at 8 mm and coarser, slices are convolved after Winograd: what is rounded there
# weighs a tenth of what is rounded at 2 mm, so that larger errors do no harm.
_WINOGRAD_LEVEL = 2
_LIBRARY_SHARE = 1.5  # 1.2 to 1.45 times the tensors were measured on a CPU


class TrainedNetwork(Protocol):
    """A network's shape and its weights: a ``SpineUNet``, or what a bundle holds of one."""

    @property
    def definition(self) -> NetworkDefinition:
        """What it takes to build the network."""
        ...

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Every weight once, by the name that ``SpineUNet`` gives it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class NetworkWeights:
    """A trained network as a bundle holds it.

    Attributes
    ----------
    parameters
        By the names that ``SpineUNet`` gives them.
    """

    definition: NetworkDefinition
    parameters: dict[str, Tensor]

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Every weight once, by its name."""
        return self.parameters.items()


def parameter_shapes(definition: NetworkDefinition) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of ``SpineUNet``, without building one.

    Examples
    --------
    >>> shapes = parameter_shapes(NetworkDefinition(1, 4, 3, (4, 6, 8)))
    >>> shapes["body.output_block.conv.conv.weight"]
    (12, 4, 1, 1, 1)
    """
    filters = definition.filters
    shapes: dict[str, tuple[int, ...]] = {}
    entering = definition.image_channels * FOLD**2 + definition.conditions
    for level, (block, count) in enumerate(zip(_encoder(definition), filters, strict=True)):
        shapes |= _block_shapes(block, entering, count, 1 if level == 0 else 3)
        entering = count
    for step, block in enumerate(_decoder(definition)):
        count = filters[-2 - step]
        shapes[f"{block}.transp_conv.conv.weight"] = (filters[-1 - step], count, 1, 2, 2)
        shapes |= _block_shapes(f"{block}.conv_block", 2 * count, count, 3)
    outputs = definition.outputs * FOLD**2
    shapes[f"{_LAST_LAYER}.weight"] = (outputs, filters[0], 1, 1, 1)
    shapes[f"{_LAST_LAYER}.bias"] = (outputs,)
    return shapes


def peak_bytes(definition: NetworkDefinition, voxels: int, itemsize: int) -> int:
    """Memory that one pass takes at its peak, the weights aside.

    The peak is at the full resolution on the way up. There live the upsampled features, the skip
    connection and both of them side by side, or both side by side and what the first convolution
    makes of them; then the last convolution's result, as it is, as float32 and normalised; then
    the features and the outputs in two orders. What libraries lay aside comes on top.

    Parameters
    ----------
    voxels
        Of the padded image, before 2×2 of them are folded into one.
    itemsize
        Bytes of one number of the arithmetic.
    """
    full = definition.filters[0] * voxels // FOLD**2
    logits = definition.outputs * voxels
    up, last, out = 4 * full * itemsize, full * (itemsize + 8), 4 * full + 8 * logits
    return int(_LIBRARY_SHARE * (4 * definition.image_channels * voxels + max(up, last, out)))


def part_count(definition: NetworkDefinition, shape: Sequence[int], itemsize: int, part_bytes: int) -> int:
    """Into how many parts ``FusedNetwork.run`` cuts the layer that takes most room.

    Parameters
    ----------
    shape
        Of the padded image: (1, image channels, slices, rows, columns).
    """
    rows = shape[3] // FOLD
    folded = shape[2] * rows * (shape[4] // FOLD)
    joined = 3 * definition.filters[0] * itemsize
    last = 4 * definition.filters[0] + 4 * FOLD**2 * definition.outputs
    return _part_count(rows, folded * max(joined, last), part_bytes)


class FusedNetwork:
    """One trained network on one device in one precision, for inference.

    Parameters
    ----------
    network
        Its weights are copied, not shared.
    device, precision
        Where, and in what arithmetic. Means, variances and outputs are float32 in any case.
    """

    def __init__(self, network: TrainedNetwork, device: torch.device, precision: torch.dtype) -> None:
        self.definition = network.definition
        self.device = device
        self.precision = precision
        # A network may come from where it is trained; what is prepared here is prepared in main memory.
        parameters = {name: parameter.detach().cpu() for name, parameter in network.named_parameters()}
        self._weights = {
            # The last layer decides between names that are nearly as likely: it and what it sees
            # are float32, which costs little.
            name: _stored(parameter, device, torch.float32 if name.startswith(_LAST_LAYER) else precision)
            for name, parameter in parameters.items()
        }
        # What rounding takes from a single image, no other channel has: it enters as a second image,
        # with the same weights.
        self._with_remainder = precision != torch.float32 and self.definition.image_channels == 1
        if self._with_remainder:
            first = self._weights[_FIRST_LAYER]
            self._weights[_FIRST_LAYER] = torch.cat((first[:, : FOLD**2], first), dim=1).contiguous(
                memory_format=torch.channels_last_3d
            )
        self._winograd: dict[str, SliceWinograd] = {}
        self._upsampling: dict[str, UpsampledConvolution] = {}
        if device.type == "cpu":
            self._prepare_replacements(parameters)

    def run(self, image: Tensor, condition: Tensor, part_bytes: int | None = None) -> Tensor:
        """Logits of one image.

        Parameters
        ----------
        image
            (1, image channels, slices, rows, columns); rows and columns are multiples of
            ``definition.in_plane_multiple``.
        condition
            (1, conditions).
        part_bytes
            Convolve in parts of about this many bytes, and keep the rest where the image is;
            None: in one piece, on the device.

        Returns
        -------
        Tensor
            float32, (1, outputs, slices, rows, columns), on the device, or where the image is.
        """
        if part_bytes is None:
            image = image.to(self.device)
        features = self._features(image, condition, part_bytes)
        last_norm = f"{_decoder(self.definition)[-1]}.conv_block.norm2"
        if part_bytes is None and self.device.type == "cpu":
            return self._outputs_by_slice(features, last_norm)
        return self._outputs(self._normalised(features.float(), last_norm), part_bytes)

    def _prepare_replacements(self, parameters: Mapping[str, Tensor]) -> None:
        """Winograd where the image is coarse; elsewhere upsampling merged with what follows."""
        names = [f"{block}.conv2" for block in _encoder(self.definition)[_WINOGRAD_LEVEL:]]
        decoder = _decoder(self.definition)
        coarse = decoder[: len(decoder) - _WINOGRAD_LEVEL]
        names += [f"{block}.conv_block.conv{place}" for block in coarse for place in (1, 2)]
        for name in (f"{name}.conv.weight" for name in names):
            self._winograd[name] = SliceWinograd(parameters[name].float(), self.precision)
        for block in decoder[len(coarse) :]:
            upsampling = parameters[f"{block}.transp_conv.conv.weight"].float()
            kernel = parameters[f"{block}.conv_block.conv1.conv.weight"].float()
            self._upsampling[block] = UpsampledConvolution(upsampling, kernel, self.precision)

    def _features(self, image: Tensor, condition: Tensor, part_bytes: int | None) -> Tensor:
        """What the last convolution but one gives, not yet normalised."""
        features = self._fold(image, condition)
        skips: list[Tensor] = []
        for level, block in enumerate(_encoder(self.definition)):
            if level:
                skips.append(features)
            stride, first = 2 if level else 1, f"{block}.conv1.conv.weight"
            # No name keeps what the first convolution made alive while the second computes.
            features = self._second_half(
                block, self._convolved(first, features, stride, part_bytes), part_bytes
            )
            features = self._normalised(features, f"{block}.norm2")
        for block in _decoder(self.definition):
            features = self._second_half(
                f"{block}.conv_block", self._raised(block, features, skips.pop(), part_bytes), part_bytes
            )
            if block != _decoder(self.definition)[-1]:
                features = self._normalised(features, f"{block}.conv_block.norm2")
        return features

    def _fold(self, image: Tensor, condition: Tensor) -> Tensor:
        """2×2 in-plane blocks as channels, then the condition as constant channels."""
        if self._with_remainder:
            image = torch.cat((image, image - image.to(self.precision)), dim=1)
        _, channels, slices, rows, columns = image.shape
        rows, columns = rows // FOLD, columns // FOLD
        count = channels * FOLD**2
        total = count + self.definition.conditions
        # An even number of channels, so that two neighbours move as one larger number.
        shape = (slices, rows * columns, total + total % 2)
        folded = torch.empty(shape, dtype=self.precision, device=image.device)
        folded[..., count:] = 0
        folded[..., count:total] = condition[0].to(folded.device, folded.dtype)
        for place, target in enumerate(folded):
            near = image[0, :, place].to(self.precision).contiguous()
            pairs = near.view(_PAIR[self.precision.itemsize])
            blocks = pairs.view(channels, rows, FOLD, columns).transpose(1, 2).reshape(count // 2, -1)
            target.view(pairs.dtype)[:, : count // 2] = blocks.T
        folded = folded.view(1, slices, rows, columns, -1)[..., :total]
        return folded.permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)

    def _raised(self, block: str, features: Tensor, skip: Tensor, part_bytes: int | None) -> Tensor:
        """Upsampled, joined with the skip connection, and convolved once."""
        merged = self._upsampling.get(block)
        if merged is not None and part_bytes is None:
            return merged(features, skip)
        weight = self._weights[f"{block}.transp_conv.conv.weight"]
        joined = _joined(self._upsampled(features, weight, part_bytes), skip)
        del skip  # its memory is wanted while the block computes
        return self._convolved(f"{block}.conv_block.conv1.conv.weight", joined, 1, part_bytes)

    def _second_half(self, name: str, features: Tensor, part_bytes: int | None) -> Tensor:
        """Of a block: its first normalisation and its second convolution."""
        features = self._normalised(features, f"{name}.norm1")
        return self._convolved(f"{name}.conv2.conv.weight", features, 1, part_bytes)

    def _normalised(self, convolved: Tensor, norm: str) -> Tensor:
        gain, shift = (self._weights[f"{norm}.{kind}"].to(convolved.device) for kind in ("weight", "bias"))
        # Over a batch of one, the statistics of a batch are those of the instance.
        normalised = torch.batch_norm(convolved, gain, shift, None, None, True, 0.0, _EPSILON, False)
        return F.leaky_relu_(normalised, _SLOPE)

    def _convolved(self, name: str, features: Tensor, stride: int, part_bytes: int | None) -> Tensor:
        winograd = self._winograd.get(name)
        if winograd is not None and part_bytes is None and winograd.pays(features.shape[2]):
            return winograd(features)
        weight = self._weights[name]
        strides = (1, stride, stride)
        padding = tuple(size // 2 for size in weight.shape[2:])
        if part_bytes is None:
            if weight.shape[2] == 1 and self.device.type == "cpu" and self.precision == torch.float32:
                return flat_convolution(features, weight, stride)
            return F.conv3d(features, weight, None, strides, padding)
        rows = features.shape[3]
        made = _empty(features, weight.shape[0], rows // stride, features.shape[4] // stride)
        for start, stop in _parts(features, made, part_bytes):
            first, last = start * stride - 1, (stop - 1) * stride + 2
            part = features[:, :, :, max(0, first) : last].to(self.device)
            part = F.pad(part, (0, 0, max(0, -first), max(0, last - rows)))
            part = part.contiguous(memory_format=torch.channels_last_3d)
            made[:, :, :, start:stop] = F.conv3d(part, weight, None, strides, (padding[0], 0, padding[2]))
        return made

    def _upsampled(self, features: Tensor, weight: Tensor, part_bytes: int | None) -> Tensor:
        if part_bytes is None:
            return F.conv_transpose3d(features, weight, stride=(1, 2, 2))
        made = _empty(features, weight.shape[1], 2 * features.shape[3], 2 * features.shape[4])
        for start, stop in _parts(made, features, part_bytes):
            part = features[:, :, :, start:stop].to(self.device)
            made[:, :, :, 2 * start : 2 * stop] = F.conv_transpose3d(part, weight, stride=(1, 2, 2))
        return made

    def _outputs(self, features: Tensor, part_bytes: int | None) -> Tensor:
        """The last layer, unfolded to pixels, as float32."""
        weight = self._weights[f"{_LAST_LAYER}.weight"].flatten(1)
        bias = self._weights[f"{_LAST_LAYER}.bias"]
        _, _, slices, rows, columns = features.shape
        outputs = self.definition.outputs
        logits = torch.empty((1, outputs, slices, rows * FOLD, columns * FOLD), device=features.device)
        pixels = logits.view(1, outputs, slices, rows, FOLD, columns, FOLD)
        whole = [(0, rows)] if part_bytes is None else _parts(features, logits, part_bytes)
        for start, stop in whole:
            part = features[:, :, :, start:stop].to(self.device, torch.float32).permute(0, 2, 3, 4, 1)
            folded = F.linear(part, weight, bias).view(1, slices, -1, columns, outputs, FOLD, FOLD)
            pixels[:, :, :, start:stop] = folded.permute(0, 4, 1, 2, 5, 3, 6)
        return logits

    def _outputs_by_slice(self, features: Tensor, norm: str) -> Tensor:
        """As ``_outputs`` of what is normalised in float32; one slice at a time stays in the cache."""
        gain, shift = (self._weights[f"{norm}.{kind}"] for kind in ("weight", "bias"))
        weight = self._weights[f"{_LAST_LAYER}.weight"].flatten(1)
        bias = self._weights[f"{_LAST_LAYER}.bias"][:, None]
        # With float32 beside the features, their statistics are float32 too.
        statistics = (torch.zeros_like(gain), torch.ones_like(gain))
        mean, variance = torch.batch_norm_update_stats(features, *statistics, 0.0)
        _, channels, slices, rows, columns = features.shape
        outputs = self.definition.outputs
        logits = torch.empty((1, outputs, slices, rows * FOLD, columns * FOLD))
        for place in range(slices):
            part = features[:, :, place].float()
            part = torch.batch_norm(part, gain, shift, mean, variance, False, 0.0, _EPSILON, False)
            pixels = F.leaky_relu_(part, _SLOPE).permute(0, 2, 3, 1).reshape(-1, channels)
            folded = torch.addmm(bias, weight, pixels.T).view(outputs, FOLD, FOLD, rows, columns)
            target = logits[0, :, place].view(outputs, rows, FOLD, columns, FOLD)
            target.copy_(folded.permute(0, 3, 1, 4, 2))
        return logits


def _empty(like: Tensor, channels: int, rows: int, columns: int) -> Tensor:
    shape = (1, channels, like.shape[2], rows, columns)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def _parts(larger: Tensor, smaller: Tensor, part_bytes: int) -> Iterator[tuple[int, int]]:
    """The fewest even ranges of the rows of ``smaller`` whose share of both is small enough."""
    rows = min(larger.shape[3], smaller.shape[3])
    count = _part_count(rows, larger.nbytes + smaller.nbytes, part_bytes)
    edges = [rows * place // count for place in range(count + 1)]
    yield from pairwise(edges)


def _part_count(rows: int, held_bytes: int, part_bytes: int) -> int:
    # Twice: a library may lay the numbers out anew to compute on them.
    return min(rows, -(-2 * held_bytes // part_bytes))


def _encoder(definition: NetworkDefinition) -> list[str]:
    between = [f"body.downsamples.{level}" for level in range(len(definition.filters) - 2)]
    return ["body.input_block", *between, "body.bottleneck"]


def _decoder(definition: NetworkDefinition) -> list[str]:
    return [f"body.upsamples.{step}" for step in range(len(definition.filters) - 1)]


def _block_shapes(name: str, entering: int, count: int, slices: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for place, channels in ((1, entering), (2, count)):
        shapes[f"{name}.conv{place}.conv.weight"] = (count, channels, slices, 3, 3)
        shapes[f"{name}.norm{place}.weight"] = shapes[f"{name}.norm{place}.bias"] = (count,)
    return shapes


def _stored(parameter: Tensor, device: torch.device, precision: torch.dtype) -> Tensor:
    """Kernels in the arithmetic's precision and channels-last; gains and shifts stay float32."""
    if parameter.dim() != 5:
        return parameter.to(device, torch.float32, copy=True)
    kernels = rounded(parameter.float(), precision)
    return kernels.to(device, copy=True, memory_format=torch.channels_last_3d)


def _joined(upsampled: Tensor, skip: Tensor) -> Tensor:
    """Both along the channels; a copy into place, which is faster than ``torch.cat`` channels-last."""
    count = upsampled.shape[1]
    joined = torch.empty(
        (1, 2 * count, *skip.shape[2:]),
        dtype=skip.dtype,
        device=skip.device,
        memory_format=torch.channels_last_3d,
    )
    joined[:, :count].copy_(upsampled)
    joined[:, count:].copy_(skip)
    return joined
