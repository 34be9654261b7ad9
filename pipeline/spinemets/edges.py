"""How well two images of one place agree, whatever their contrasts: by the edges within their slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from spinemets.volume import Mask, Volume

__all__ = ["ShiftedAgreement", "edge_agreement", "edge_agreement_when_shifted"]

_SURROUNDINGS_MM = 12.0
_FOREGROUND_MM = 4.0
_FEWEST_VOXELS = 100


@dataclass(frozen=True, slots=True, eq=False)
class ShiftedAgreement:
    """The edge agreement of two images for every shift of one of them within its slices.

    Attributes
    ----------
    values
        (rows, columns); the images as they are first.
    voxels
        How many could be compared.
    rows_mm, columns_mm
        How far each row and each column stands for, without a sign.
    """

    values: npt.NDArray[np.float64]
    voxels: int
    rows_mm: npt.NDArray[np.float64]
    columns_mm: npt.NDArray[np.float64]

    @property
    def here(self) -> float:
        """Without a shift."""
        return float(self.values[0, 0])

    def best(self, reach_mm: float) -> tuple[float, float]:
        """The best agreement among shifts of up to ``reach_mm`` along each axis, and that shift in mm."""
        within = (self.rows_mm <= reach_mm)[:, None] & (self.columns_mm <= reach_mm)
        i, j = np.unravel_index(int(np.where(within, self.values, -np.inf).argmax()), self.values.shape)
        return float(self.values[i, j]), float(np.hypot(self.rows_mm[i], self.columns_mm[j]))


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


def edge_agreement_when_shifted(first: Volume, second: Volume, mask: Mask) -> ShiftedAgreement:
    """``edge_agreement`` for every shift of the second image within the slices, rolled around.

    Parameters
    ----------
    first, second, mask
        As there.
    """
    rows, columns = (axis for axis in range(3) if axis != first.grid.slice_axis)
    shown = mask & _foreground(first) & _foreground(second)
    values = _correlations_when_moved(_edge_strength(first), _edge_strength(second), shown, (rows, columns))
    rows_mm, columns_mm = (
        np.abs(fft.fftfreq(size, 1 / size)) * first.grid.spacing_mm[axis]
        for size, axis in zip(values.shape, (rows, columns), strict=True)
    )
    return ShiftedAgreement(values, int(shown.sum()), rows_mm, columns_mm)


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
    smooth = ndimage.gaussian_filter(volume.intensities, [_FOREGROUND_MM / s for s in volume.grid.spacing_mm])
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
    if count < _FEWEST_VOXELS or own < 1e-6:
        return np.zeros(shape)
    defined = spread >= 1e-6
    return np.where(defined, products / count / (own * np.where(defined, spread, 1.0)), 0.0)


def _correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], mask: Mask) -> float:
    """Pearson's correlation inside a mask; 0 where it is undefined."""
    a, b = first[mask], second[mask]
    if a.size < _FEWEST_VOXELS or min(a.std(), b.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
