"""Series of one study brought onto the grid of its reference series.

Headers are trusted first: series that share a frame of reference are resampled by their
coordinates. Otherwise a rigid registration is tried, and its result is used only where it
matches the reference's edges clearly better than the headers do. What remains doubtful is
said in a caution. Knows nothing of networks, of anatomy or of files.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from spinemets.config import SegmentationConfig
from spinemets.edges import edge_agreement_when_shifted
from spinemets.resampling import RigidTransform, block_mean, coverage, empty_rim, extent_overlap, resample
from spinemets.rigid import agreement_of, centre_mm, register
from spinemets.volume import Grid, Mask, Study, Volume

__all__ = ["Alignment", "align", "shown_by"]

_log = logging.getLogger(__name__)

_MAXIMUM_SHIFT_MM = 40.0
_MAXIMUM_ROTATION_DEGREES = 15.0
_MINIMUM_OVERLAP = 0.25
_GOOD_OVERLAP = 0.5
# Measured: a lumbar T1/T2 pair of one person 0.65 aligned, 0.45 shifted by 4 mm, 0.46 for axial
# slices aligned with sagittal ones; a small cervical T1/T2 pair 0.2 to 0.25; at most 0.15 after
# registration in sixteen pairs of different people.
_MINIMUM_AGREEMENT = 0.18
_CLEAR_GAIN = 0.02
_NOTABLE_SHIFT_MM = 4.0
# Less than half a cervical vertebra, which looks like its neighbour. A shift beyond it must match far
# better: measured, 0.4 to 0.9 where it is right, at most 0.3 by chance in small cervical images.
_NEAR_SHIFT_MM = 8.0
_FINE_MM = 2.0
_BELOW_ZERO_PERCENT = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The series of a study on one grid.

    Attributes
    ----------
    volumes
        On the reference's grid; the reference itself first and untouched. A series that
        shows another part of the body is left out, with a caution.
    transforms
        One per volume: from the reference's coordinates to those of the series.
    sources
        One per volume: the grid that the series was acquired on.
    cautions
        What a reader must know, in plain sentences.
    """

    volumes: tuple[Volume, ...]
    transforms: tuple[RigidTransform, ...]
    sources: tuple[Grid, ...]
    cautions: tuple[str, ...] = ()


def shown_by(alignment: Alignment, rank: int) -> Mask:
    """Where one series has values, on the reference's grid: within its extent, and not in an empty rim."""
    volume = alignment.volumes[rank]
    shown = coverage(alignment.sources[rank], volume.grid, alignment.transforms[rank])
    return shown & ~empty_rim(volume)


def align(study: Study, config: SegmentationConfig) -> Alignment:
    """Bring every series of a study onto the grid of its reference series.

    With ``config.registration`` "auto", a series is taken by its coordinates where it shares a known
    frame of reference with the reference, or, where one of them names none, has the very same
    voxels, in whatever order they are stored; with "never" in any case, with "always" in none.
    It is registered rigidly otherwise; the result is used only where it is plausible (at most 15°,
    and 40 mm unless less than a quarter overlaps by the coordinates) and agrees clearly better with
    the reference's edges than the coordinates do. Where it is not used, a series of which less than a
    quarter overlaps the reference is left out.

    Returns
    -------
    Alignment
        The same for the same study: sampling is seeded and runs in one thread.
    """
    reference = study.reference
    volumes, transforms, cautions = [reference], [RigidTransform.identity()], list[str]()
    sources = [reference.grid]
    for volume in map(_from_zero, study.volumes[1:]):
        transform, said = _place(reference, volume, config)
        cautions.extend(said)
        if transform is not None:
            volumes.append(resample(volume, reference.grid, transform))
            transforms.append(transform)
            sources.append(volume.grid)
    return Alignment(tuple(volumes), tuple(transforms), tuple(sources), tuple(cautions))


def _from_zero(volume: Volume) -> Volume:
    """A series whose darkest value is 0: beyond its extent it will be 0, which must look like air.

    Only one that was standardised, to a mean of 0 say, is changed; a few values below 0 do no harm.
    """
    if np.percentile(volume.intensities, _BELOW_ZERO_PERCENT) >= 0:
        return volume
    return Volume(volume.intensities - volume.intensities.min(), volume.grid, volume.series)


def _place(
    reference: Volume, volume: Volume, config: SegmentationConfig
) -> tuple[RigidTransform | None, tuple[str, ...]]:
    """Where a series lies relative to the reference, or None to leave it out; with cautions."""
    name = volume.series.name
    overlap = extent_overlap(reference.grid, volume.grid)
    shared = _same_coordinates(reference, volume)
    if config.registration == "never" or (shared and config.registration == "auto"):
        if overlap < _MINIMUM_OVERLAP:
            return None, (_left_out(name, overlap),)
        said = _partial_overlap(name, overlap)
        if not shared:
            said += (
                f"{name} was taken by its coordinates though its frame of reference is not the reference's.",
            )
        return RigidTransform.identity(), said + _movement(reference, volume)
    return _register_checked(reference, volume, overlap)


def _same_coordinates(reference: Volume, volume: Volume) -> bool:
    """Whether coordinates mean the same: by the frame of reference where both name one, else by the grid.

    A patient who was taken off the table and put back may be imaged with the same settings.
    """
    frames = {reference.series.frame_of_reference_uid, volume.series.frame_of_reference_uid}
    if "" not in frames:
        return len(frames) == 1
    return volume.grid.has_same_places(reference.grid)


def _register_checked(
    reference: Volume, volume: Volume, overlap: float
) -> tuple[RigidTransform | None, tuple[str, ...]]:
    """Register one series, and decide between the result, the coordinates and leaving it out."""
    name = volume.series.name
    fixed, moving = block_mean(reference, _FINE_MM), block_mean(volume, _FINE_MM)
    headers_overlap = overlap >= _MINIMUM_OVERLAP
    found = register(fixed, moving, headers_overlap)
    agreement = agreement_of(fixed, moving, found)
    by_headers = agreement_of(fixed, moving, RigidTransform.identity()) if headers_overlap else -1.0
    shift_mm, turn_degrees = found.shift_mm(centre_mm(fixed.grid)), found.rotation_degrees
    _log.info(
        "%s: registration moved it %.1f mm and %.1f degrees; edges agree %.2f, by coordinates %.2f",
        name, shift_mm, turn_degrees, agreement, by_headers,
    )  # fmt: skip
    plausible = turn_degrees <= _MAXIMUM_ROTATION_DEGREES and (
        not headers_overlap or shift_mm <= _MAXIMUM_SHIFT_MM
    )
    if plausible and agreement >= _MINIMUM_AGREEMENT and agreement >= by_headers + _CLEAR_GAIN:
        return found, _moved(name, shift_mm, turn_degrees, headers_overlap)
    if not headers_overlap:
        return None, (_left_out(name, overlap),)
    said = _partial_overlap(name, overlap)
    if by_headers < _MINIMUM_AGREEMENT:
        said += (
            f"{name} could not be aligned with the reference series with certainty "
            f"(edge agreement {by_headers:.2f}, expected at least {_MINIMUM_AGREEMENT}); it was taken by its "
            "coordinates: check its place in the images.",
        )
    return RigidTransform.identity(), said


def _left_out(name: str, overlap: float) -> str:
    return (
        f"{name} was left out: it shares {overlap:.0%} of its extent with the reference series, "
        f"expected at least {_MINIMUM_OVERLAP:.0%}; analyse it as a study of its own."
    )


def _partial_overlap(name: str, overlap: float) -> tuple[str, ...]:
    if overlap >= _GOOD_OVERLAP:
        return ()
    return (
        f"{name} shares only {overlap:.0%} of its extent with the reference series; the rest was not used.",
    )


def _moved(name: str, shift_mm: float, turn_degrees: float, headers_overlap: bool) -> tuple[str, ...]:
    if not headers_overlap:
        return (
            f"{name} and the reference series lie apart by their coordinates; {name} was aligned by its "
            "content alone: check its place in the images.",
        )
    if shift_mm < _NOTABLE_SHIFT_MM:
        return ()
    return (
        f"{name} was moved by {shift_mm:.0f} mm and turned by {turn_degrees:.0f}° "
        "to match the reference series.",
    )


def _movement(reference: Volume, volume: Volume) -> tuple[str, ...]:
    """A caution where a shift within the slices matches the edges clearly better, or they hardly match."""
    fixed = block_mean(reference, _FINE_MM)
    other = resample(block_mean(volume, _FINE_MM), fixed.grid)
    shifts = edge_agreement_when_shifted(fixed, other, coverage(volume.grid, fixed.grid))
    near, near_mm = shifts.best(_NEAR_SHIFT_MM)
    far, far_mm = shifts.best(_MAXIMUM_SHIFT_MM)
    if far >= max(near + 5 * _CLEAR_GAIN, 2 * _MINIMUM_AGREEMENT):
        return (_better_when_shifted(volume.series.name, far_mm),)
    if near_mm >= _NOTABLE_SHIFT_MM and near >= max(shifts.here + 5 * _CLEAR_GAIN, _MINIMUM_AGREEMENT):
        return (_better_when_shifted(volume.series.name, near_mm),)
    if shifts.voxels and shifts.here < _MINIMUM_AGREEMENT:
        return (
            f"{volume.series.name} hardly matches the reference series where its coordinates put it "
            f"(edge agreement {shifts.here:.2f}, expected at least {_MINIMUM_AGREEMENT}): check its place in "
            "the images.",
        )
    return ()


def _better_when_shifted(name: str, shift_mm: float) -> str:
    return (
        f"{name} matches the reference series better when shifted by {shift_mm:.0f} mm: "
        'the patient may have moved; set segmentation.registration to "always" to correct for it.'
    )
