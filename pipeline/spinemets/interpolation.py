"""The networks' outputs on the source's grid: interpolated where there is spine, slice by slice.

A voxel whose neighbours on the network's grid are all background is background: every
interpolated probability is a mean of theirs. So only the box around everything else is
interpolated, and of ten probabilities only the name of the largest is kept. One slice at a time
stays in a processor's cache, and memory grows with the labels, not with the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spinemets.channels import Channel
from spinemets.sampling import NetworkFrame

__all__ = ["SourceMaps", "to_source"]

_BODIES = slice(Channel.C2, Channel.SACRUM)
_REGIONS = slice(Channel.C2, Channel.SACRUM + 1)
_Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class SourceMaps:
    """What the networks say of each voxel of a series' own grid.

    Attributes
    ----------
    channels
        uint8, shape of the grid: the likeliest ``Channel``.
    bodies
        float32, same shape: probability of vertebral body, of whatever region; 0 far from the spine.
    regions
        float16, (5, ...): probabilities of C2, cervical, thoracic and lumbar body, and sacrum; likewise.
    lesion
        float32, same shape: probability of lesion, 0 where that is farther from the spine than asked for.
    """

    channels: npt.NDArray[np.uint8]
    bodies: npt.NDArray[np.float32]
    regions: npt.NDArray[np.float16]
    lesion: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """The few source samples that each sample of an axis is a mean of: (taps, samples) both."""

    places: Tensor
    weights: Tensor

    @classmethod
    def of(cls, matrix: npt.NDArray[np.float32], device: torch.device) -> _Taps:
        """A resampling matrix, (samples, source samples), as taps."""
        count = int((matrix > 0).sum(axis=1).max())
        places = np.sort(np.argsort(-matrix, axis=1, kind="stable")[:, :count], axis=1)
        weights = np.take_along_axis(matrix, places, axis=1)
        return cls(
            torch.from_numpy(places.T.copy()).to(device), torch.from_numpy(weights.T.copy()).to(device)
        )

    def blend(self, tensor: Tensor, wanted: slice) -> Tensor:
        """The wanted samples along axis 1 of (channels, source samples, other)."""
        places, weights = self.places[:, wanted], self.weights[:, wanted, None]
        blended = tensor.index_select(1, places[0])
        if len(places) == 2:
            return torch.lerp(blended, tensor.index_select(1, places[1]), weights[1])
        if len(places) > 2:
            blended = blended * weights[0]
            for place, weight in zip(places[1:], weights[1:], strict=True):
                blended = blended.addcmul_(tensor.index_select(1, place), weight)
        return blended


def to_source(anatomy: Tensor, lesion: Tensor, frame: NetworkFrame, reach: Sequence[int]) -> SourceMaps:
    """Interpolate the networks' probabilities onto the grid that a frame was planned for.

    Parameters
    ----------
    anatomy, lesion
        Probabilities on the network's grid, (channels, slices, rows, columns) and (slices, rows, columns).
    reach
        How far from what is labelled the lesion probability is wanted, in voxels along each
        axis of the source.
    """
    device = anatomy.device
    shape = tuple(len(matrix) for matrix in frame.up)
    channels = torch.zeros(shape, dtype=torch.uint8, device=device)
    bodies = torch.zeros(shape, device=device)
    regions = torch.zeros((_REGIONS.stop - _REGIONS.start, *shape), dtype=torch.float16, device=device)
    lesions = torch.zeros(shape, device=device)
    box = _source_box(anatomy.max(dim=0).indices != Channel.BACKGROUND, frame)
    if box is not None:
        taps = _Taps.of(frame.up[1], device), _Taps.of(frame.up[2], device)
        for place in range(box[0].start, box[0].stop):
            one = (place, box[1], box[2])
            probabilities = _plane(_slice(anatomy, frame.up[0][place]), taps, box[1:])
            channels[one] = probabilities.max(dim=0).indices.to(torch.uint8)
            bodies[one] = probabilities[_BODIES].sum(dim=0)
            regions[(slice(None), *one)] = probabilities[_REGIONS].to(torch.float16)
        wide = _widened(box, shape, [reach[axis] for axis in frame.order])
        for place in range(wide[0].start, wide[0].stop):
            plane = _plane(_slice(lesion[None], frame.up[0][place]), taps, wide[1:])
            lesions[place, wide[1], wide[2]] = plane[0]
    return SourceMaps(
        channels=np.asarray(_stored(channels, frame), dtype=np.uint8),
        bodies=np.asarray(_stored(bodies, frame), dtype=np.float32),
        regions=np.asarray(_stored(regions, frame), dtype=np.float16),
        lesion=np.asarray(_stored(lesions, frame), dtype=np.float32),
    )


def _slice(tensor: Tensor, shares: npt.NDArray[np.float32]) -> Tensor:
    """One slice of the source, (channels, rows, columns), from its share in each of the network's."""
    near = np.flatnonzero(shares).tolist()
    mixed = tensor[:, near[0]] * float(shares[near[0]])
    for index in near[1:]:
        mixed += tensor[:, index] * float(shares[index])
    return mixed


def _plane(tensor: Tensor, taps: tuple[_Taps, _Taps], wanted: tuple[slice, slice]) -> Tensor:
    """(channels, rows, columns) of the network's grid to the wanted ones of the source's."""
    # Whole lines are gathered, which is fast; so each axis in turn comes before the last.
    lines = taps[0].blend(tensor, wanted[0]).transpose(1, 2).contiguous()
    return taps[1].blend(lines, wanted[1]).transpose(1, 2)


def _source_box(spine: Tensor, frame: NetworkFrame) -> _Box | None:
    """The samples of the source, along the network's axes, that any of the spine has a share in."""
    edges = []
    for axis, matrix in enumerate(frame.up):
        others = tuple(other for other in range(3) if other != axis)
        shown = spine.any(dim=others[1]).any(dim=others[0]).cpu().numpy()
        touched = np.flatnonzero(matrix[:, shown].any(axis=1))
        if len(touched) == 0:
            return None
        edges.append(slice(int(touched[0]), int(touched[-1]) + 1))
    return edges[0], edges[1], edges[2]


def _widened(box: _Box, shape: Sequence[int], reach: Sequence[int]) -> _Box:
    i, j, k = (
        slice(max(0, part.start - more), min(size, part.stop + more))
        for part, size, more in zip(box, shape, reach, strict=True)
    )
    return i, j, k


def _stored(tensor: Tensor, frame: NetworkFrame) -> npt.NDArray[np.generic]:
    """From the network's axes to those of the source's array; a leading axis stays."""
    lead = tensor.dim() - 3
    array: npt.NDArray[np.generic] = tensor.cpu().numpy()
    flips = [axis + lead for axis, flip in enumerate(frame.flipped) if flip]
    back = [int(axis) + lead for axis in np.argsort(frame.order)]
    return np.ascontiguousarray(np.flip(array, tuple(flips)).transpose(*range(lead), *back))
