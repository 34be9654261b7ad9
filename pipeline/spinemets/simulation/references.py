"""The signal of normal tissue in one scan, which lesions and what resembles them are set against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.volume import Mask

__all__ = ["BONE", "References", "measure_references", "spread_about_trend", "spreads_of_bone"]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

BONE = (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS, Structure.SACRUM)
_LOCAL = (1, 5, 5)  # voxels: no lesion is smaller, and an eye sees no less at once
_LOCAL_SHARE = 0.6  # of which have to be bone


@dataclass(frozen=True, slots=True)
class References:
    """The signal of normal tissue in one scan, in the scan's own units.

    ``spread`` is the robust standard deviation of the marrow of bodies.
    """

    marrow: float
    spread: float
    csf: float
    cord: float
    soft_tissue: float
    fat: float


def measure_references(image: Array, structures: Labels) -> References:
    """Median signals of normal tissue; where a tissue is absent, the nearest stand-in."""

    def quantile(mask: Mask, q: float, default: float) -> float:
        values = image[mask]
        return float(np.quantile(values, q)) if values.size > 20 else default

    overall = float(np.median(image))
    body = structures == Structure.VERTEBRAL_BODY
    marrow = quantile(body, 0.5, overall)
    spread = _half_width(image[body])
    disc = quantile(structures == Structure.DISC, 0.4, overall)
    # Where no cord is labelled, a disc is the soft tissue that resembles it.
    cord = quantile(structures == Structure.CORD, 0.5, disc)
    sac = structures == Structure.THECAL_SAC
    # CSF is the end of the sac's range that is farther from the cord: bright on T2, dark on T1.
    low, high = quantile(sac, 0.15, overall), quantile(sac, 0.85, overall)
    csf = high if abs(high - cord) >= abs(low - cord) else low
    background = image[structures == Structure.BACKGROUND]
    fat = float(np.quantile(background, 0.9)) if background.size else overall
    return References(marrow, max(spread, 1e-3), csf, cord, disc, fat)


def spreads_of_bone(image: Array, structures: Labels) -> dict[Structure, float]:
    """How bone differs from place to place, arches far more than bodies; 0 where it is hardly in view."""
    return {bone: _half_width(_local_means(image, structures == bone)[0]) for bone in BONE}


def spread_about_trend(image: Array, tissue: Mask) -> float:
    """How a tissue differs from place to place but for coil fall-off; 0 where it is hardly in view.

    In the bodies of eight T2 scans of SPIDER it was 0.12 to 0.17 of the marrow's signal, half of what
    their voxels differ by.
    """
    means, places = _local_means(image, tissue)
    if means.size <= 20:
        return 0.0
    scaled = (places - places.mean(axis=0)) / np.maximum(places.std(axis=0), 1.0)
    terms = np.column_stack((np.ones(len(scaled)), scaled, scaled**2))
    trend = terms @ np.linalg.lstsq(terms, means, rcond=None)[0]
    return _half_width((means - trend).astype(np.float32))


def _half_width(values: Array) -> float:
    """Half of what the middle 68 % of the values span; 0 for a handful of values."""
    if values.size <= 20:
        return 0.0
    low, high = np.quantile(values, (0.16, 0.84))
    return float(high - low) / 2


def _local_means(image: Array, tissue: Mask) -> tuple[Array, npt.NDArray[np.int64]]:
    """In-plane means of a tissue (n,) about each of its voxels that has enough of it around; those (n, 3)."""
    share = ndimage.uniform_filter(tissue.astype(np.float32), _LOCAL)
    enough = tissue & (share > _LOCAL_SHARE)
    within = ndimage.uniform_filter(image * tissue, _LOCAL)
    return np.asarray(within[enough] / share[enough], dtype=np.float32), np.argwhere(enough)
