"""The compartment of a lesion: its voxels against the envelopes of the sac and the cord."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment
from spinemets.classification.envelopes import Envelope, voxel_extent_mm
from spinemets.config import ClassificationConfig
from spinemets.volume import Grid

__all__ = ["BASE_RATES", "CompartmentOpinion", "judge_compartment"]

Array = npt.NDArray[np.float64]

_SITES = tuple(Compartment)


@dataclass(frozen=True, slots=True)
class CompartmentOpinion:
    """Probabilities of the whole lesion's site, and the shares of its volume; each sums to 1.

    ``shifted`` holds the sites that it would have if dura and cord lay a little further out or in.
    """

    probabilities: Mapping[Compartment, float]
    shares: Mapping[Compartment, float]
    shifted: tuple[Compartment, ...] = ()

    @property
    def best(self) -> Compartment:
        return max(self.probabilities, key=lambda site: self.probabilities[site])

    @property
    def margin(self) -> float:
        """Difference of the two highest probabilities."""
        first, second = sorted(self.probabilities.values(), reverse=True)[:2]
        return first - second


BASE_RATES = CompartmentOpinion(
    probabilities={
        Compartment.EXTRADURAL: 0.95,
        Compartment.INTRADURAL_EXTRAMEDULLARY: 0.04,
        Compartment.INTRAMEDULLARY: 0.01,
    },
    shares={
        Compartment.EXTRADURAL: 1.0,
        Compartment.INTRADURAL_EXTRAMEDULLARY: 0.0,
        Compartment.INTRAMEDULLARY: 0.0,
    },
)
"""What is known of a lesion where no canal is seen: that about 95 % of spinal metastases are extradural,
and of 15 intradural ones 12 were extramedullary (Acta Neurochir 2012, doi:10.1007/s00701-012-1313-5)."""


def judge_compartment(
    lesion_mm: Array, sac: Envelope | None, cord: Envelope | None, grid: Grid, config: ClassificationConfig
) -> CompartmentOpinion:
    """Turn a lesion's place into probabilities.

    Each voxel's signed distance to an envelope, under a Gaussian of ``boundary_sd_mm`` widened by
    the voxel's own size, gives its probability to lie inside. A voxel is intramedullary inside
    the cord, intradural-extramedullary inside the sac alone, extradural outside. The mean over
    the voxels says how much of the lesion lies where; as a lesion is one thing with one origin,
    its probabilities are these means raised to ``bulk_exponent``, so that the bulk decides and
    an even split stays even.

    Parameters
    ----------
    lesion_mm
        Shape (n, 3): coordinates along and across the canal.
    sac, cord
        None where the canal was not seen about the lesion.
    """
    envelopes = (sac, cord)
    sd = _boundary_sd_mm(lesion_mm, grid, config.boundary_sd_mm)
    chances = _site_chances(lesion_mm, envelopes, sd, 0.0)
    bulk = chances.mean(axis=0) ** config.bulk_exponent
    hard = np.bincount(chances.argmax(axis=1), minlength=len(_SITES)) / len(lesion_mm)
    reach = config.review_shift_sd * config.boundary_sd_mm
    moved = [_site_chances(lesion_mm, envelopes, sd, shift).mean(axis=0) for shift in (-reach, reach)]
    return CompartmentOpinion(
        probabilities={site: float(value) for site, value in zip(_SITES, bulk / bulk.sum(), strict=True)},
        shares={site: float(value) for site, value in zip(_SITES, hard, strict=True)},
        shifted=tuple(_SITES[int(mean.argmax())] for mean in moved),
    )


def _site_chances(
    lesion_mm: Array, envelopes: tuple[Envelope | None, Envelope | None], sd_mm: Array, shift_mm: float
) -> Array:
    """Probability of each site for each voxel, shape (n, 3), with both outlines widened by a shift."""
    sac, cord = envelopes
    in_cord = np.zeros(len(lesion_mm))
    in_sac = np.zeros(len(lesion_mm))
    if cord is not None:
        in_cord = cord.inside(lesion_mm, sd_mm, shift_mm, expands=True)
    if sac is not None:
        in_sac = np.maximum(sac.inside(lesion_mm, sd_mm, shift_mm, expands=False), in_cord)
    in_cord = np.minimum(in_cord, in_sac)
    return np.stack([1.0 - in_sac, in_sac - in_cord, in_cord], axis=1)


def _boundary_sd_mm(lesion_mm: Array, grid: Grid, boundary_sd_mm: float) -> Array:
    """Uncertainty of the border as seen from each voxel, shape (n,): thick slices blur it sideways."""
    side_voxel, front_voxel = voxel_extent_mm(grid)
    reach = np.maximum(np.hypot(lesion_mm[:, 1], lesion_mm[:, 2]), 1e-3)
    sideways, forward = lesion_mm[:, 2] / reach, lesion_mm[:, 1] / reach
    voxel = np.hypot(sideways * side_voxel, forward * front_voxel)
    return np.asarray(np.sqrt(boundary_sd_mm**2 + voxel**2 / 12.0))
