"""The networks' outputs on the source's grid: interpolated where there is spine, slice by slice.

A voxel whose neighbours on the network's grid are all background is background: every
interpolated probability is a mean of theirs. So of every slice only the rectangle
around everything else is interpolated, and of ten probabilities only one name and those that tell
bodies and their regions are kept.
One slice at a time stays in a processor's cache, and memory grows with the labels, not with the
channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spinemets.channels import Channel
from spinemets.sampling import NetworkFrame
from spinemets.segmented import SourceMaps
from spinemets.voxels import Box, widened

__all__ = ["to_source"]

_BODIES = slice(Channel.C2, Channel.SACRUM)
_REGIONS = slice(Channel.C2, Channel.SACRUM + 1)
# Every structure's channels; background is what none of them is.
_STRUCTURES: tuple[tuple[Channel, ...], ...] = (
    (Channel.C2, Channel.CERVICAL_BODY, Channel.THORACIC_BODY, Channel.LUMBAR_BODY),
    (Channel.SACRUM,),
    (Channel.POSTERIOR_ELEMENTS,),
    (Channel.DISC,),
    (Channel.THECAL_SAC, Channel.CORD),
)
_NOWHERE: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """The few source samples that each sample of an axis is a mean of.

    Attributes
    ----------
    places, weights
        (taps, samples), on the device.
    known
        The places in main memory, so that nobody waits for the device to tell them.
    """

    places: Tensor
    weights: Tensor
    known: npt.NDArray[np.int64]

    @classmethod
    def of(cls, matrix: npt.NDArray[np.float32], device: torch.device) -> _Taps:
        """A resampling matrix, (samples, source samples), as taps."""
        count = int((matrix > 0).sum(axis=1).max())
        places = np.sort(np.argsort(-matrix, axis=1, kind="stable")[:, :count], axis=1)
        weights = np.take_along_axis(matrix, places, axis=1)
        known = places.T.astype(np.int64)
        return cls(torch.from_numpy(known).to(device), torch.from_numpy(weights.T.copy()).to(device), known)

    def cut(self, wanted: slice) -> tuple[_Taps, slice]:
        """The taps of the wanted samples, among the source samples that those are means of."""
        known = self.known[:, wanted]
        first, last = int(known.min()), int(known.max())
        places, weights = self.places[:, wanted] - first, self.weights[:, wanted]
        return _Taps(places, weights, known - first), slice(first, last + 1)

    def blend(self, tensor: Tensor) -> Tensor:
        """The samples along axis 1 of (channels, source samples, other)."""
        places, weights = self.places, self.weights[..., None]
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
    taps = _Taps.of(frame.up[1], device), _Taps.of(frame.up[2], device)
    spine = _likeliest(anatomy).cpu().numpy() != Channel.BACKGROUND
    rectangles, box = _rectangles(spine, frame)
    channels = torch.zeros(_sizes(box), dtype=torch.uint8, device=device)
    bodies = torch.zeros(_sizes(box), device=device)
    regions = torch.zeros((_REGIONS.stop - _REGIONS.start, *_sizes(box)), dtype=torch.float16, device=device)
    for place, rectangle in rectangles.items():
        probabilities = _plane(anatomy, frame.up[0][place], taps, rectangle)
        one = (place - box[0].start, *_within(rectangle, box[1:]))
        channels[one] = _likeliest(probabilities).T
        c2, cervical, thoracic, lumbar = probabilities[_BODIES]
        bodies[one] = (c2 + cervical + thoracic + lumbar).T
        regions[(slice(None), *one)] = probabilities[_REGIONS].to(torch.float16).transpose(1, 2)
    wide: Box = _NOWHERE
    if rectangles:
        wide = widened(box, [reach[axis] for axis in frame.order], [len(matrix) for matrix in frame.up])
    lesions = torch.zeros(_sizes(wide), device=device)
    for number, shares in enumerate(frame.up[0][wide[0]]):
        lesions[number] = _plane(lesion[None], shares, taps, (wide[1], wide[2]))[0].T
    return SourceMaps(
        box=_stored_box(box, frame),
        channels=_stored(channels, frame),
        bodies=_stored(bodies, frame),
        regions=_stored(regions, frame),
        lesion_box=_stored_box(wide, frame),
        lesion=_stored(lesions, frame),
    )


def _likeliest(probabilities: Tensor) -> Tensor:
    """The likeliest channel of the likeliest structure, the first of equals; uint8.

    Sac and cord count as one, the canal. Doubt about a body's region, or where in the canal the cord
    ends, says nothing against the body or the canal: what is background must be likelier than all
    of a structure's channels together.

    In passes over whole planes, which takes a fraction of an ``argmax``'s time.
    """
    largest = probabilities[Channel.BACKGROUND].clone()
    names = torch.zeros_like(largest, dtype=torch.uint8)
    for channels in _STRUCTURES:
        total, inner = _together(probabilities, channels)
        names = torch.where(total > largest, inner, names)
        largest = torch.maximum(largest, total)
    return names


def _together(probabilities: Tensor, channels: Sequence[Channel]) -> tuple[Tensor, Tensor]:
    """The sum of some channels, and which of them is the largest."""
    largest = total = probabilities[channels[0]]
    names = torch.full_like(total, channels[0], dtype=torch.uint8)
    for channel in channels[1:]:
        one = probabilities[channel]
        total = total + one
        names = torch.where(one > largest, int(channel), names)
        largest = torch.maximum(largest, one)
    return total, names


def _plane(
    tensor: Tensor,
    shares: npt.NDArray[np.float32],
    taps: tuple[_Taps, _Taps],
    wanted: tuple[slice, slice],
) -> Tensor:
    """The wanted columns and rows of one slice of the source, (channels, columns, rows).

    Parameters
    ----------
    tensor
        (channels, slices, rows, columns) of the network's grid.
    shares
        Of the source's slice in each of the network's.
    """
    (row_taps, rows), (column_taps, columns) = (one.cut(part) for one, part in zip(taps, wanted, strict=True))
    near = np.flatnonzero(shares).tolist()
    mixed = tensor[:, near[0], rows, columns] * float(shares[near[0]])
    for index in near[1:]:
        mixed += tensor[:, index, rows, columns] * float(shares[index])
    # Whole lines are gathered, which is fast; so each axis in turn comes before the last.
    lines = row_taps.blend(mixed).transpose(1, 2).contiguous()
    return column_taps.blend(lines)


def _rectangles(
    spine: npt.NDArray[np.bool_], frame: NetworkFrame
) -> tuple[dict[int, tuple[slice, slice]], Box]:
    """Of each slice of the source, the rows and columns that any of the spine has a share in; all their box.

    Parameters
    ----------
    spine
        Shape of the network's grid; both results are along its axes.
    """
    rows, columns = np.asarray(spine.any(axis=2)), np.asarray(spine.any(axis=1))
    rectangles = {}
    for place, shares in enumerate(frame.up[0]):
        near = np.flatnonzero(shares)
        if rows[near].any():
            rectangles[place] = _touched(frame.up[1], rows[near]), _touched(frame.up[2], columns[near])
    if not rectangles:
        return {}, _NOWHERE
    edges = zip(*rectangles.values(), strict=True)
    around = [slice(min(e.start for e in axis), max(e.stop for e in axis)) for axis in edges]
    return rectangles, (slice(min(rectangles), max(rectangles) + 1), around[0], around[1])


def _touched(matrix: npt.NDArray[np.float32], shown: npt.NDArray[np.bool_]) -> slice:
    """From the first to the last sample that has a share in one shown in any slice, (slices, samples)."""
    touched = np.flatnonzero(matrix[:, shown.any(axis=0)].any(axis=1))
    return slice(int(touched[0]), int(touched[-1]) + 1)


def _within(part: Box, box: Box) -> Box:
    """A part of an array as a part of what a box cuts out of it."""
    return tuple(
        slice(one.start - edge.start, one.stop - edge.start) for one, edge in zip(part, box, strict=True)
    )


def _sizes(box: Box) -> tuple[int, ...]:
    return tuple(edge.stop - edge.start for edge in box)


def _stored(tensor: Tensor, frame: NetworkFrame) -> npt.NDArray[Any]:
    """From the network's axes to those of the source's array; a leading axis stays."""
    lead = tensor.dim() - 3
    flips = tuple(axis + lead for axis, flip in enumerate(frame.flipped) if flip)
    back = [int(axis) + lead for axis in np.argsort(frame.order)]
    return np.flip(tensor.cpu().numpy(), flips).transpose(*range(lead), *back)


def _stored_box(box: Box, frame: NetworkFrame) -> Box:
    """The same for a box."""
    sizes = [len(matrix) for matrix in frame.up]
    edges = [
        slice(size - edge.stop, size - edge.start) if flip else edge
        for edge, size, flip in zip(box, sizes, frame.flipped, strict=True)
    ]
    return tuple(edges[axis] for axis in np.argsort(frame.order))
