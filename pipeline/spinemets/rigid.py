"""Search for the rigid transform that brings one image of a patient onto another of any contrast.

Mutual information leads the way, from coarse to fine; edges decide between the places it leads to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from spinemets.edges import edge_agreement
from spinemets.resampling import (
    RigidTransform,
    block_mean,
    box_mm,
    coverage,
    empty_rim,
    itk_image,
    resample,
)
from spinemets.volume import Grid, Volume

__all__ = ["agreement_of", "centre_mm", "register"]

_log = logging.getLogger(__name__)

_COARSE_MM = 4.0


def agreement_of(fixed: Volume, moving: Volume, transform: RigidTransform) -> float:
    """``edge_agreement`` of the fixed image with the moving one, once this is where a transform puts it."""
    mask = coverage(moving.grid, fixed.grid, transform)
    return edge_agreement(fixed, resample(moving, fixed.grid, transform), mask)


def centre_mm(grid: Grid) -> npt.NDArray[np.float64]:
    """The middle of a grid, in its coordinates."""
    return grid.to_world((np.array(grid.shape) - 1) / 2)


def register(fixed: Volume, moving: Volume, headers_overlap: bool) -> RigidTransform:
    """A rigid transform of great mutual information, from coarse to fine.

    Among the places to refine, edges decide: mutual information alone favours those where
    little overlaps.

    Parameters
    ----------
    headers_overlap
        Whether to begin where the coordinates put the images, too, and not by their centres alone.

    Returns
    -------
    RigidTransform
        From the fixed image's coordinates to those of the moving one; the same for the same images.
    """
    coarse = block_mean(fixed, _COARSE_MM), block_mean(moving, _COARSE_MM)
    with _one_thread():
        starts = _best_starts(*coarse, _starts(fixed.grid, moving.grid, headers_overlap))
        candidates = [starts[0], *(_optimise(*coarse, start, step_mm=2.0) for start in starts)]
        best = max(candidates, key=lambda candidate: agreement_of(fixed, moving, candidate))
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
    method = _mutual_information(fixed, moving)
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
    method = _mutual_information(fixed, moving)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm, minStep=0.01, numberOfIterations=80, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = start.to_itk(centre_mm(fixed.grid))
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(_float_image(fixed), _float_image(moving))
    except RuntimeError:
        _log.debug("a registration was left where it began: no sample meets the other image")
        return start
    return RigidTransform.from_itk(transform)


def _mutual_information(fixed: Volume, moving: Volume) -> sitk.ImageRegistrationMethod:
    """Mattes mutual information on a seeded sample of what both images show, an empty rim aside."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, seed=20)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricFixedMask(_shown_image(fixed))
    method.SetMetricMovingMask(_shown_image(moving))
    # Gradients that are smoothed over a slice's distance lead away from the optimum, by centimetres.
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    return method


def _shown_image(volume: Volume) -> sitk.Image:
    """1 where an image has values, 0 in its empty rim, whose border no tissue follows."""
    shown = (~empty_rim(volume)).astype(np.float32)
    return sitk.Cast(itk_image(Volume(shown, volume.grid, volume.series)), sitk.sitkUInt8)


def _float_image(volume: Volume) -> sitk.Image:
    """An image without the extreme intensities that would leave a histogram's bins empty."""
    low, high = np.percentile(volume.intensities, (1, 99))
    return itk_image(Volume(np.clip(volume.intensities, low, high), volume.grid, volume.series))
