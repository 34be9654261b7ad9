"""Which images of a DICOM series belong to one volume: by size, direction, place, echo and time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from spinemets.io.dicom_geometry import LARGEST_SHEAR_DEG, SAME_POSITION_MM, SliceHeader

__all__ = ["contrast_of", "split_slices"]

_SAME_DIRECTION = 1e-3
# Table movement and motion correction stay below this; stations of a spine are centimetres apart.
_SAME_STACK_MM = 2.0
# From one stack to the next, as shares of the spacing: one slice may be missing between them.
_CONTINUED_STEP = (0.75, 2.5)


def split_slices(slices: Sequence[SliceHeader]) -> list[tuple[str, list[SliceHeader]]]:
    """Divide the images of one series into stacks that can each be a volume.

    First by size, pixel spacing and direction; then by place, as the stations of a spine lie beside
    each other in the plane of their images, and by the stacks that an enhanced file names where
    these do not continue each other. Stacks are numbered from head to foot. Where several images of
    such a group lie at one position, by echo time, image type, inversion time, temporal position or
    acquisition number, alone or together, if that leaves one image per position in every stack.

    Returns
    -------
    list of (str, list of SliceHeader)
        What sets a stack apart, in words ("stack 2, TE 12 ms"; empty where nothing does), and its
        images. Images at one position that nothing tells apart stay together.
    """
    parted = []
    for group in _same_plane(slices):
        stacks = [stack for part in _side_by_side(group) for stack in _named_stacks(part)]
        for number, stack in enumerate(sorted(stacks, key=_mean_height, reverse=True), start=1):
            keys = _separating_keys(stack)
            place = [f"stack {number}"] if len(stacks) > 1 else []
            for values, part in _parts(stack, keys).items():
                words = [text.format(_in_words(value)) for (text, _), value in zip(keys, values, strict=True)]
                parted.append((", ".join(place + words), part))
    return parted


def _named_stacks(group: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """By StackID; whole where the stacks are single slices, or continue each other on one grid."""
    stacks = list(_parts(group, (("{}", lambda header: header.stack_id),)).values())
    distances = _distances(group)
    if distances is None or len(stacks) == 1 or _are_mostly_single(stacks):
        return [list(group)]
    order = np.argsort(distances, kind="stable")
    steps = np.diff(distances[order])
    names = [group[index].stack_id for index in order]
    between = steps[[one != other for one, other in pairwise(names)]]
    low, high = np.multiply(_CONTINUED_STEP, np.median(steps[steps >= SAME_POSITION_MM]))
    return [list(group)] if low <= between.min() and between.max() <= high else stacks


def _are_mostly_single(stacks: Sequence[Sequence[SliceHeader]]) -> bool:
    """Whether most stacks hold the images of a single position, and so are no stacks."""
    single = 0
    for stack in stacks:
        distances = _distances(stack)
        single += distances is None or bool(np.ptp(distances) < SAME_POSITION_MM)
    return 2 * single > len(stacks)


def _distances(group: Sequence[SliceHeader]) -> npt.NDArray[np.float64] | None:
    """Where the images lie along the normal of the first, mm; None where that is unknown."""
    placed = _placed(group)
    return None if placed is None else placed[0] @ placed[1]


def _placed(
    group: Sequence[SliceHeader],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Positions (n, 3) of the images and the normal of the first; None where one of them is unknown."""
    if any(header.position_mm is None or header.orientation is None for header in group):
        return None
    normal = np.cross(group[0].orientation[:3], group[0].orientation[3:])  # type: ignore[index]
    return np.array([header.position_mm for header in group], dtype=np.float64), normal


def _side_by_side(group: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Stacks of one direction that lie beside each other; each keeps the order of its images.

    Along the normal, the next image of a stack lies straight behind the last one: within 2 mm, and
    what a shear of 1 degree adds. Whole where most stacks are single slices: they are one stack askew.
    """
    placed = _placed(group)
    if placed is None:
        return [list(group)]
    positions, normal = placed
    stacks: list[list[int]] = []
    for index in np.argsort(positions @ normal, kind="stable"):
        steps = positions[index] - positions[[stack[-1] for stack in stacks]]
        along = steps @ normal
        aside = np.linalg.norm(steps - np.outer(along, normal), axis=1)
        excess = aside - np.tan(np.radians(LARGEST_SHEAR_DEG)) * along
        if len(stacks) and excess.min() <= _SAME_STACK_MM:
            stacks[int(excess.argmin())].append(int(index))
        else:
            stacks.append([int(index)])
    found = [[group[index] for index in sorted(stack)] for stack in stacks]
    return [list(group)] if _are_mostly_single(found) else found


def _mean_height(stack: Sequence[SliceHeader]) -> float:
    heights = [header.position_mm[2] for header in stack if header.position_mm is not None]
    return float(np.mean(heights)) if heights else 0.0


_SplitKey = tuple[str, Callable[[SliceHeader], Hashable]]
_SPLIT_KEYS: tuple[_SplitKey, ...] = (
    ("TE {} ms", lambda header: header.echo_time_ms),
    ("{}", lambda header: header.image_type),
    ("TI {} ms", lambda header: header.inversion_time_ms),
    ("time point {}", lambda header: header.temporal_position),
    ("acquisition {}", lambda header: header.acquisition_number),
)


def contrast_of(header: SliceHeader) -> tuple[Hashable, ...]:
    """What tells an image from others at its place: echo, kind of image, time, ..."""
    return tuple(key(header) for _, key in _SPLIT_KEYS)


def _parts(
    group: Sequence[SliceHeader], keys: Sequence[_SplitKey]
) -> dict[tuple[Hashable, ...], list[SliceHeader]]:
    """The images by what the keys say of them."""
    parts: dict[tuple[Hashable, ...], list[SliceHeader]] = {}
    for header in group:
        parts.setdefault(tuple(key(header) for _, key in keys), []).append(header)
    return parts


def _in_words(value: Hashable) -> str:
    if isinstance(value, tuple):
        return "/".join(str(part) for part in value[2:]) or "/".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, (int, float)) else "unknown"


def _separating_keys(group: Sequence[SliceHeader]) -> tuple[_SplitKey, ...]:
    """The fewest keys that leave one image per position; none where none is needed or helps."""
    if not _has_shared_positions(group):
        return ()
    varying = [entry for entry in _SPLIT_KEYS if len({entry[1](header) for header in group}) > 1]
    for count in range(1, len(varying) + 1):
        for keys in combinations(varying, count):
            if not any(map(_has_shared_positions, _parts(group, keys).values())):
                return keys
    return ()


def _has_shared_positions(group: Sequence[SliceHeader]) -> bool:
    distances = _distances(group)
    if distances is None or len(distances) == 1:
        return False
    return bool(np.diff(np.sort(distances)).min() < SAME_POSITION_MM)


def _same_plane(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Groups of equal size, pixel spacing and direction; directions agree to 0.06 degrees."""
    groups: list[list[SliceHeader]] = []
    for header in slices:
        for group in groups:
            if _is_alike(group[0], header):
                group.append(header)
                break
        else:
            groups.append([header])
    return groups


def _is_alike(one: SliceHeader, other: SliceHeader) -> bool:
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    for first, second, tolerance in (
        (one.orientation, other.orientation, _SAME_DIRECTION),
        (one.pixel_spacing_mm, other.pixel_spacing_mm, 1e-4),
    ):
        if (first is None) != (second is None):
            return False
        if (
            first is not None
            and second is not None
            and not np.allclose(first, second, rtol=0, atol=tolerance)
        ):
            return False
    return True
