"""Series of one study brought onto the grid of its reference series.

Headers are trusted first: series that share a frame of reference are resampled by their
coordinates. Otherwise a rigid registration is tried, and its result is used only where it
matches the reference's edges clearly better than the headers do. What remains doubtful is
said in a caution. Knows nothing of networks, of anatomy or of files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import fft, ndimage

from spinemets.config import SegmentationConfig
from spinemets.resampling import (
    RigidTransform,
    block_mean,
    box_mm,
    coverage,
    empty_rim,
    extent_overlap,
    itk_image,
    resample,
)
from spinemets.volume import Grid, Mask, Study, Volume

__all__ = [
    "Alignment",
    "RigidTransform",
    "align",
    "coverage",
    "edge_agreement",
    "extent_overlap",
    "resample",
    "shown_by",
]

_log = logging.getLogger(__name__)

MAXIMUM_SHIFT_MM = 40.0
MAXIMUM_ROTATION_DEGREES = 15.0
MINIMUM_OVERLAP = 0.25
GOOD_OVERLAP = 0.5
# Measured: a lumbar T1/T2 pair of one person 0.65 aligned, 0.45 shifted by 4 mm, 0.46 for axial
# slices aligned with sagittal ones; a small cervical T1/T2 pair 0.2 to 0.25; at most 0.14 after
# registration in eleven pairs of different people.
MINIMUM_AGREEMENT = 0.18
CLEAR_GAIN = 0.02
NOTABLE_SHIFT_MM = 4.0
# Less than half a cervical vertebra, which looks like its neighbour. A shift beyond it must match far
# better: measured, 0.4 to 0.9 where it is right, at most 0.3 by chance in small cervical images.
_NEAR_SHIFT_MM = 8.0
_COARSE_MM = 4.0
_FINE_MM = 2.0
_SURROUNDINGS_MM = 12.0
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


def edge_agreement(first: Volume, second: Volume, mask: Mask) -> float:
    """How well the edges in the slices of two images coincide, whatever their contrasts.

    Parameters
    ----------
    first, second
        Two volumes on one grid.
    mask
        Where both have values; shape of the grid.

    Returns
    -------
    float
        Pearson's correlation of the edge strengths relative to their surroundings, in
        [-1, 1]; 0 where there is nothing to compare.
    """
    strengths = (_edge_strength(first), _edge_strength(second))
    return _correlation(*strengths, mask & _foreground(first) & _foreground(second))


def align(study: Study, config: SegmentationConfig) -> Alignment:
    """Bring every series of a study onto the grid of its reference series.

    A series is taken by its coordinates where it shares a known frame of reference with the
    reference or lies on the very same grid, and ``config.registration`` is not "always".
    It is registered rigidly otherwise; the result is used only where it is plausible (at most
    40 mm and 15°) and agrees clearly better with the reference's edges than the coordinates
    do. A series of which less than a quarter overlaps the reference is left out.

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
        if overlap < MINIMUM_OVERLAP:
            return None, (_left_out(name, overlap),)
        said = _partial_overlap(name, overlap)
        if not shared:
            said += (
                f"{name} was taken by its coordinates though its frame of reference is not the reference's.",
            )
        return RigidTransform.identity(), said + _movement(reference, volume)
    return _register_checked(reference, volume, overlap)


def _same_coordinates(reference: Volume, volume: Volume) -> bool:
    frame = reference.series.frame_of_reference_uid
    shared = bool(frame) and frame == volume.series.frame_of_reference_uid
    return shared or volume.grid.is_close(reference.grid)


def _register_checked(
    reference: Volume, volume: Volume, overlap: float
) -> tuple[RigidTransform | None, tuple[str, ...]]:
    """Register one series, and decide between the result, the coordinates and leaving it out."""
    name = volume.series.name
    fixed, moving = block_mean(reference, _FINE_MM), block_mean(volume, _FINE_MM)
    headers_overlap = overlap >= MINIMUM_OVERLAP
    found = _register(fixed, moving, headers_overlap)
    agreement = _agreement(fixed, moving, found)
    by_headers = _agreement(fixed, moving, RigidTransform.identity()) if headers_overlap else -1.0
    shift_mm, turn_degrees = found.shift_mm(_centre_mm(fixed.grid)), found.rotation_degrees
    _log.info(
        "%s: registration moved it %.1f mm and %.1f degrees; edges agree %.2f, by coordinates %.2f",
        name, shift_mm, turn_degrees, agreement, by_headers,
    )  # fmt: skip
    plausible = turn_degrees <= MAXIMUM_ROTATION_DEGREES and (
        not headers_overlap or shift_mm <= MAXIMUM_SHIFT_MM
    )
    if plausible and agreement >= MINIMUM_AGREEMENT and agreement >= by_headers + CLEAR_GAIN:
        return found, _moved(name, shift_mm, turn_degrees, headers_overlap)
    if not headers_overlap:
        return None, (_left_out(name, overlap),)
    said = _partial_overlap(name, overlap)
    if by_headers < MINIMUM_AGREEMENT:
        said += (
            f"{name} could not be aligned with the reference series with certainty "
            f"(edge agreement {by_headers:.2f}, expected at least {MINIMUM_AGREEMENT}); it was taken by its "
            "coordinates: check its place in the images.",
        )
    return RigidTransform.identity(), said


def _left_out(name: str, overlap: float) -> str:
    return (
        f"{name} was left out: it shares {overlap:.0%} of its extent with the reference series, "
        f"expected at least {MINIMUM_OVERLAP:.0%}; analyse it as a study of its own."
    )


def _partial_overlap(name: str, overlap: float) -> tuple[str, ...]:
    if overlap >= GOOD_OVERLAP:
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
    if shift_mm < NOTABLE_SHIFT_MM:
        return ()
    return (
        f"{name} was moved by {shift_mm:.0f} mm and turned by {turn_degrees:.0f}° "
        "to match the reference series.",
    )


def _movement(reference: Volume, volume: Volume) -> tuple[str, ...]:
    """A caution where a shift within the slices matches the edges clearly better, or nothing does."""
    fixed = block_mean(reference, _FINE_MM)
    other = resample(block_mean(volume, _FINE_MM), fixed.grid)
    mask = coverage(volume.grid, fixed.grid) & _foreground(fixed) & _foreground(other)
    first, second = _edge_strength(fixed), _edge_strength(other)
    across = fixed.grid.slice_axis
    rows, columns = (axis for axis in range(3) if axis != across)
    spacing_mm = (fixed.grid.spacing_mm[rows], fixed.grid.spacing_mm[columns])
    agreements = _correlations_when_moved(first, second, mask, (rows, columns))
    here = float(agreements[0, 0])
    near, near_mm = _best_shift(agreements, spacing_mm, _NEAR_SHIFT_MM)
    far, far_mm = _best_shift(agreements, spacing_mm, MAXIMUM_SHIFT_MM)
    if far >= max(near + 5 * CLEAR_GAIN, 2 * MINIMUM_AGREEMENT):
        return (_better_when_shifted(volume.series.name, far_mm),)
    if mask.any() and near < MINIMUM_AGREEMENT:
        return (
            f"{volume.series.name} hardly matches the reference series where its coordinates put it (edge "
            f"agreement {here:.2f}, expected at least {MINIMUM_AGREEMENT}): check its place in the images.",
        )
    if near_mm < NOTABLE_SHIFT_MM or near < max(here + 5 * CLEAR_GAIN, MINIMUM_AGREEMENT):
        return ()
    return (_better_when_shifted(volume.series.name, near_mm),)


def _best_shift(
    agreements: npt.NDArray[np.float64], spacing_mm: tuple[float, float], reach_mm: float
) -> tuple[float, float]:
    """The best agreement among shifts of up to ``reach_mm`` along each axis, and that shift in mm."""
    rows_mm, columns_mm = (
        np.abs(fft.fftfreq(size, 1 / size)) * spacing
        for size, spacing in zip(agreements.shape, spacing_mm, strict=True)
    )
    within = (rows_mm <= reach_mm)[:, None] & (columns_mm <= reach_mm)
    i, j = np.unravel_index(int(np.where(within, agreements, -np.inf).argmax()), agreements.shape)
    return float(agreements[i, j]), float(np.hypot(rows_mm[i], columns_mm[j]))


def _better_when_shifted(name: str, shift_mm: float) -> str:
    return (
        f"{name} matches the reference series better when shifted by {shift_mm:.0f} mm: "
        'the patient may have moved; set segmentation.registration to "always" to correct for it.'
    )


def _agreement(fixed: Volume, moving: Volume, transform: RigidTransform) -> float:
    mask = coverage(moving.grid, fixed.grid, transform)
    return edge_agreement(fixed, resample(moving, fixed.grid, transform), mask)


def _register(fixed: Volume, moving: Volume, headers_overlap: bool) -> RigidTransform:
    """A rigid transform of great mutual information, from coarse to fine.

    Among the places to refine, edges decide: mutual information alone favours those where
    little overlaps.
    """
    coarse = block_mean(fixed, _COARSE_MM), block_mean(moving, _COARSE_MM)
    with _one_thread():
        starts = _best_starts(*coarse, _starts(fixed.grid, moving.grid, headers_overlap))
        candidates = [starts[0], *(_optimise(*coarse, start, step_mm=2.0) for start in starts)]
        best = max(candidates, key=lambda candidate: _agreement(fixed, moving, candidate))
        return _optimise(fixed, moving, best, step_mm=0.5)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep ITK to one thread: sums over several differ from run to run in their last digits.

    The metric heeds the global setting only, not that of the registration it belongs to.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _starts(fixed: Grid, moving: Grid, headers_overlap: bool) -> list[RigidTransform]:
    """Shifts to begin from: by coordinates and by centres, each also up and down and forth and back.

    Neighbouring vertebrae look alike, so that a search from one place may end one vertebra off.
    """
    low_fixed, high_fixed = box_mm(fixed)
    low_moving, high_moving = box_mm(moving)
    by_centres = (low_moving + high_moving - low_fixed - high_fixed) / 2
    bases = [np.zeros(3), by_centres] if headers_overlap else [by_centres]
    shifts = [
        base + np.array([0.0, forth, up])
        for base in bases
        for up in (0, -10, 10, -20, 20, -30, 30)
        for forth in (0, -10, 10)
    ]
    return [_shift(shift) for shift in shifts]


def _shift(shift_mm: npt.NDArray[np.float64]) -> RigidTransform:
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    return RigidTransform(matrix)


def _best_starts(fixed: Volume, moving: Volume, starts: list[RigidTransform]) -> list[RigidTransform]:
    """The first start, and the two of the others that promise most."""
    method = _mutual_information()
    images = _float_image(fixed), _float_image(moving)

    def cost(start: RigidTransform) -> float:
        method.SetInitialTransform(start.to_itk())
        try:
            return float(method.MetricEvaluate(*images))
        except RuntimeError:  # no sample meets the other image
            return float("inf")

    reachable = [start for start in starts[1:] if coverage(moving.grid, fixed.grid, start).mean() >= 0.1]
    return [starts[0], *sorted(reachable, key=cost)[:2]]


def _optimise(fixed: Volume, moving: Volume, start: RigidTransform, step_mm: float) -> RigidTransform:
    """The nearest optimum of mutual information; the start where too little overlaps to look for one."""
    method = _mutual_information()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm, minStep=0.01, numberOfIterations=80, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = start.to_itk(_centre_mm(fixed.grid))
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(_float_image(fixed), _float_image(moving))
    except RuntimeError:
        _log.debug("a registration was left where it began: no sample meets the other image")
        return start
    return RigidTransform.from_itk(transform)


def _mutual_information() -> sitk.ImageRegistrationMethod:
    """Mattes mutual information on a seeded sample."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, seed=20)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _float_image(volume: Volume) -> sitk.Image:
    """An image without the extreme intensities that would leave a histogram's bins empty."""
    low, high = np.percentile(volume.intensities, (1, 99))
    return itk_image(Volume(np.clip(volume.intensities, low, high), volume.grid, volume.series))


def _centre_mm(grid: Grid) -> npt.NDArray[np.float64]:
    return grid.to_world((np.array(grid.shape) - 1) / 2)


def _edge_strength(volume: Volume) -> npt.NDArray[np.float64]:
    """Logarithm of the gradient magnitude within the slices, relative to its surroundings.

    Across the slices an anisotropic stack has no edges to speak of. The surroundings are
    subtracted because a surface coil makes edges near the skin stronger than those far off.
    """
    spacing = volume.grid.spacing_mm
    low, high = np.percentile(volume.intensities, (1, 99))
    clipped = np.clip(volume.intensities.astype(np.float64), low, high)
    axes = [k for k in range(3) if k != volume.grid.slice_axis and clipped.shape[k] > 1]
    magnitude = np.sqrt(sum(np.square(np.gradient(clipped, spacing[k], axis=k)) for k in axes))
    logarithm = np.log(magnitude + 0.1 * float(magnitude.mean()) + 1e-12)
    sigma = [_SURROUNDINGS_MM / s for s in spacing]
    return np.asarray(logarithm - ndimage.gaussian_filter(logarithm, sigma))


def _foreground(volume: Volume) -> Mask:
    """Where there is tissue and not air: smoothed intensities above a quarter of their mean."""
    smooth = ndimage.gaussian_filter(volume.intensities, [4.0 / s for s in volume.grid.spacing_mm])
    return np.asarray(smooth > 0.25 * smooth.mean())


def _correlations_when_moved(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], mask: Mask, axes: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """``_correlation`` of the first with the second rolled along two axes, by how far; (rows, columns).

    The sums that Pearson's correlation needs are themselves correlations with the mask, so that
    Fourier transforms give them for all shifts at once.
    """
    count = int(mask.sum())
    # About their means, so that little is lost when squares are subtracted from squares.
    a = np.where(mask, first - first[mask].mean(), 0.0) if count else np.zeros(first.shape)
    b = second - second.mean()
    fixed = [fft.rfft2(image, axes=axes) for image in (a, mask.astype(np.float64))]
    moved = [fft.rfft2(image, axes=axes) for image in (b, b**2)]
    across = 3 - sum(axes)
    shape = (first.shape[axes[0]], first.shape[axes[1]])

    def sums(one: npt.NDArray[np.complex128], other: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
        return np.asarray(fft.irfft2((one * np.conj(other)).sum(axis=across), s=shape))

    products, totals, squares = sums(fixed[0], moved[0]), sums(fixed[1], moved[0]), sums(fixed[1], moved[1])
    spread = np.sqrt(np.maximum(squares / max(count, 1) - (totals / max(count, 1)) ** 2, 0.0))
    own = float(np.sqrt((a**2).sum() / max(count, 1)))
    if count < 100 or own < 1e-6:
        return np.zeros(shape)
    defined = spread >= 1e-6
    return np.where(defined, products / count / (own * np.where(defined, spread, 1.0)), 0.0)


def _correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], mask: Mask) -> float:
    """Pearson's correlation inside a mask; 0 where it is undefined."""
    a, b = first[mask], second[mask]
    if a.size < 100 or min(a.std(), b.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
