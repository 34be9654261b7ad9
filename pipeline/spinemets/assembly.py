"""From what the networks say of each voxel to a segmentation: labels cleaned, vertebrae told apart.

Needs no PyTorch, so that in a batch another process does it while the networks see the next study.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spinemets.channels import STRUCTURE_OF_CHANNEL
from spinemets.comparison import raise_where_unlike
from spinemets.divided_axis import join_divided_axis
from spinemets.instances import split_vertebrae
from spinemets.islands import clean_anatomy
from spinemets.registration import Alignment, shown_by
from spinemets.segmented import InstanceEvidence, NetworkMaps, SourceMaps, SpineSegmentation
from spinemets.volume import Grid, Mask, Study
from spinemets.voxels import grown, unseen_part

__all__ = ["NetworkSegmenter", "Segmenter", "assemble", "lesion_reach"]

# A lesion farther than this from every labelled structure is not a spinal one.
_LESION_REACH_MM = 12.0


class Segmenter(Protocol):
    """Whatever turns a study into its segmentation."""

    def segment(self, study: Study) -> SpineSegmentation:
        """Label maps and lesion probabilities on the grid of the study's reference series."""
        ...


@runtime_checkable
class NetworkSegmenter(Segmenter, Protocol):
    """One whose work on the device can be parted from what any process can do before and after it."""

    def run_networks(self, alignment: Alignment) -> NetworkMaps:
        """The part of ``segment`` that needs the device; ``assemble`` is what comes after."""
        ...


def assemble(alignment: Alignment, seen: NetworkMaps) -> SpineSegmentation:
    """Name the structures, drop stray labels, part the vertebrae, and keep lesions near the spine.

    In studies of T2 alone, bodies are compared with their neighbours too
    (``comparison``). Nothing is where no series has values.
    """
    maps, grid = seen.maps, alignment.volumes[0].grid
    covered = _covered(alignment)
    anatomy = np.zeros(grid.shape, dtype=np.uint8)
    anatomy[maps.box] = np.take(STRUCTURE_OF_CHANNEL, maps.channels)
    bodies, lesion = (np.zeros(grid.shape, dtype=np.float32) for _ in range(2))
    bodies[maps.box] = maps.bodies
    lesion[maps.lesion_box] = maps.lesion
    unseen = unseen_part(covered)
    if unseen is not None:
        anatomy[unseen] = 0
        lesion[unseen] = 0.0
    anatomy = clean_anatomy(anatomy, grid)
    vertebrae = split_vertebrae(anatomy, bodies, grid)
    evidence = _level_evidence(vertebrae, maps)
    joined = join_divided_axis(vertebrae, anatomy, grid, evidence[0].c2 if evidence else 0.0)
    if joined is not vertebrae:
        vertebrae, evidence = joined, _level_evidence(joined, maps)
    return SpineSegmentation(
        grid=grid,
        anatomy=anatomy,
        vertebrae=vertebrae,
        lesion_probability=raise_where_unlike(
            _near_spine(lesion, anatomy, grid), alignment.volumes, covered, anatomy, vertebrae
        ),
        evidence=evidence,
        volumes=alignment.volumes,
        cautions=(*alignment.cautions, *seen.execution.fallbacks),
        execution=seen.execution,
        covered=covered,
    )


def _covered(alignment: Alignment) -> tuple[Mask, ...]:
    """Where each series has values; empty where all have them everywhere."""
    masks = tuple(shown_by(alignment, rank) for rank in range(len(alignment.volumes)))
    return () if all(mask.all() for mask in masks) else masks


def lesion_reach(grid: Grid) -> list[int]:
    """How far from the spine a lesion can be, in voxels along each axis."""
    return [int(np.ceil(_LESION_REACH_MM / spacing)) for spacing in grid.spacing_mm]


def _near_spine(
    lesion: npt.NDArray[np.float32], anatomy: npt.NDArray[np.uint8], grid: Grid
) -> npt.NDArray[np.float32]:
    """The lesion probability where a spinal lesion can be: within a short way of what was labelled."""
    # A box is close enough and far cheaper than a ball.
    return lesion * grown(anatomy > 0, lesion_reach(grid))


def _level_evidence(vertebrae: npt.NDArray[np.uint8], maps: SourceMaps) -> tuple[InstanceEvidence, ...]:
    """Each region's share of the body probabilities, summed over each instance."""
    count = int(vertebrae.max())
    part = vertebrae[maps.box].ravel()
    where = np.flatnonzero(part)
    labels = part[where]
    sums = np.stack(
        [np.bincount(labels, np.take(region.reshape(-1), where), count + 1)[1:] for region in maps.regions]
    )
    shares = (sums + 1e-6) / (sums + 1e-6).sum(axis=0)
    return tuple(
        InstanceEvidence(instance, *(float(share) for share in column))
        for instance, column in enumerate(shares.T, start=1)
    )
