"""Lesions from a probability map: which voxels, how large, how sure, how bright.

Voxels at or above the threshold are joined across faces, edges and corners (26-connectivity:
in thick slices an oblique lesion often touches itself by a corner only). Where the lesion
lies in the body is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from spinemets.anatomy import Structure
from spinemets.confidence import confidence, gather_evidence
from spinemets.config import LesionConfig
from spinemets.findings import Lesion, SequenceSignal
from spinemets.segmented import SpineSegmentation
from spinemets.surroundings import labels_about
from spinemets.volume import Grid, Mask, Volume
from spinemets.voxels import Box, bounding_box, corner, in_plane_cross, islands_of, voxels_of, widened

__all__ = ["find_lesions"]

Voxels = npt.NDArray[np.int32]

_NEIGHBOURS = 2  # vertebrae above and below that give the reference: nearer means less coil fall-off
_NEAR_CANAL_MM = 60.0  # above and below, for cord and CSF
_MINIMUM_REFERENCE_VOXELS = 30
_CLEAR_Z = 2.0
_MAD_TO_SD = 1.4826
_REFERENCE_NAMES = {
    Structure.VERTEBRAL_BODY: "marrow",
    Structure.CORD: "cord",
    Structure.THECAL_SAC: "CSF",
}


def find_lesions(segmentation: SpineSegmentation, config: LesionConfig) -> tuple[Lesion, ...]:
    """Find the lesions of a segmentation, ordered from head to foot.

    Holes that a lesion encloses belong to it. Its confidence comes from the probabilities of its
    voxels, its size, the number of series that cover it and whether it lies in the cord
    (``confidence``). Its longest diameter is the longest distance between two points of its surface,
    taken through the voxels' face centres.

    Returns
    -------
    tuple of Lesion
        Those of at least the configured volume and confidence, numbered from 1.
    """
    grid = segmentation.grid
    mask = segmentation.lesion_probability >= config.threshold
    around = bounding_box(mask)
    if around is None:
        return ()
    lesions = []
    for bare, voxels in _components(mask[around]):
        bare, voxels = bare + corner(around), voxels + corner(around)
        sure = _confidence_of(bare, _series_at(voxels, segmentation), segmentation, config)
        large = len(voxels) * grid.voxel_volume_mm3 >= config.minimum_volume_mm3
        if large and sure >= config.minimum_confidence:
            lesions.append(_describe(voxels.astype(np.int32), sure, grid))
    lesions.sort(key=lambda lesion: -lesion.centroid_mm[2])
    if not lesions:
        return ()
    references = _References.gather(segmentation, mask)
    return tuple(
        replace(lesion, number=number, signals=_signals(lesion, segmentation, references))
        for number, lesion in enumerate(lesions, start=1)
    )


def _components(mask: Mask) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """The voxels (n, 3) of each component of a mask: bare, and with what lies in its holes.

    What lies in the holes is the component's own, unless it is another one or in a hole of that.
    """
    components = islands_of(mask)
    # The smaller ones first, so that the inner one of two takes its holes.
    for label, box in sorted(enumerate(ndimage.find_objects(components), start=1), key=_box_size):
        bare = components[box] == label
        filled = ndimage.binary_fill_holes(bare) & (bare | (components[box] == 0))
        components[box][filled] = label
        yield np.argwhere(bare) + corner(box), np.argwhere(filled) + corner(box)


def _confidence_of(
    voxels: npt.NDArray[np.intp], series: int, segmentation: SpineSegmentation, config: LesionConfig
) -> float:
    """Probability that a component of these voxels (n, 3), which so many series show, is a lesion."""
    place = tuple(voxels.T)
    in_cord = segmentation.anatomy[place] == Structure.CORD
    probabilities = segmentation.lesion_probability[place]
    evidence = gather_evidence(probabilities, in_cord, segmentation.grid.voxel_volume_mm3, series)
    return confidence(evidence, config)


def _series_at(voxels: npt.NDArray[np.intp], segmentation: SpineSegmentation) -> int:
    """How many series cover at least half of these voxels, (n, 3)."""
    if not segmentation.covered:
        return max(1, len(segmentation.volumes))
    place = tuple(voxels.T)
    return max(1, sum(bool(mask[place].mean() >= 0.5) for mask in segmentation.covered))


def _box_size(labelled: tuple[int, Box]) -> int:
    return math.prod(edge.stop - edge.start for edge in labelled[1])


def _describe(voxels: Voxels, sure: float, grid: Grid) -> Lesion:
    """A lesion of these voxels (n, 3), not numbered and without signals yet."""
    centre = grid.to_world(voxels).mean(axis=0)
    return Lesion(
        number=0,
        voxels=voxels,
        grid=grid,
        centroid_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        volume_mm3=len(voxels) * grid.voxel_volume_mm3,
        longest_diameter_mm=_longest_diameter_mm(voxels, grid),
        confidence=sure,
    )


def _longest_diameter_mm(voxels: Voxels, grid: Grid) -> float:
    """Longest distance on the convex hull of all voxels' six face centres."""
    ends = _line_ends(voxels)
    faces = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    points = np.unique((ends[:, None, :] + faces).reshape(-1, 3), axis=0)
    surface = grid.to_world(points)
    hull = surface[ConvexHull(surface).vertices]
    return float(pdist(hull).max())


def _line_ends(voxels: Voxels) -> npt.NDArray[np.float64]:
    """First and last voxel of every line along the third axis: the hull needs no others."""
    order = np.lexsort(voxels.T[::-1])
    rows = voxels[order]
    starts = np.ones(len(rows), dtype=np.bool_)
    starts[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1)
    stops = np.append(starts[1:], True)
    return np.asarray(rows[starts | stops], dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class _References:
    """Normal tissue to compare a lesion with, lesions left out.

    Voxel indices (n, 3) by structure, and the vertebra of each marrow voxel.
    """

    by_structure: Mapping[Structure, npt.NDArray[np.intp]]
    instances: npt.NDArray[np.intp]
    grid: Grid

    @classmethod
    def gather(cls, segmentation: SpineSegmentation, lesions: Mask) -> _References:
        structures = (Structure.VERTEBRAL_BODY, Structure.CORD, Structure.THECAL_SAC)
        by_structure = {
            structure: _inner_voxels(segmentation, structure, lesions) for structure in structures
        }
        marrow = by_structure[Structure.VERTEBRAL_BODY]
        instances = segmentation.vertebrae[tuple(marrow.T)].astype(np.intp)
        return cls(by_structure, instances, segmentation.grid)

    def near(self, lesion: Lesion, structure: Structure) -> npt.NDArray[np.intp]:
        """Voxels (n, 3) of a structure about a lesion; of the whole study where those are few."""
        voxels = self.by_structure[structure]
        if len(voxels) == 0:
            return voxels
        distance = np.abs(self.grid.to_world(voxels)[:, 2] - lesion.centroid_mm[2])
        if structure is Structure.VERTEBRAL_BODY:
            # What belongs to no vertebra has no neighbours.
            numbered = self.instances > 0
            own = self.instances[int(np.where(numbered, distance, np.inf).argmin())]
            chosen = numbered & (np.abs(self.instances - own) <= _NEIGHBOURS)
        else:
            chosen = distance < _NEAR_CANAL_MM
        return voxels[chosen] if chosen.sum() >= _MINIMUM_REFERENCE_VOXELS else voxels


def _inner_voxels(
    segmentation: SpineSegmentation, structure: Structure, lesions: Mask
) -> npt.NDArray[np.intp]:
    """Voxels (n, 3) of a structure without its rim, and not beside a lesion either."""
    mask = segmentation.anatomy == structure
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3), dtype=np.intp)
    # A lesion just outside of the box lies beside what is in it.
    box = widened(box, (1, 1, 1), mask.shape)
    inner = ndimage.binary_erosion(mask[box], in_plane_cross(segmentation.grid))
    inner &= ~ndimage.binary_dilation(lesions[box])
    return np.asarray(voxels_of(inner) + corner(box))


def _signals(
    lesion: Lesion, segmentation: SpineSegmentation, references: _References
) -> tuple[SequenceSignal, ...]:
    """One entry per series, against marrow, or cord or CSF where those surround the lesion."""
    tissue = _surroundings(lesion, segmentation)
    name, voxels = _REFERENCE_NAMES[tissue], references.near(lesion, tissue)
    return tuple(_signal(lesion, volume, name, voxels) for volume in segmentation.volumes)


def _surroundings(lesion: Lesion, segmentation: SpineSegmentation) -> Structure:
    """The tissue that a lesion is compared with: what most of its shell and itself is labelled."""
    counts = np.bincount(np.concatenate(labels_about(lesion, segmentation)), minlength=len(Structure))
    cord, sac = counts[Structure.CORD], counts[Structure.THECAL_SAC]
    if cord + sac <= 0.5 * counts.sum():
        return Structure.VERTEBRAL_BODY
    return Structure.CORD if cord > 0.4 * (cord + sac) else Structure.THECAL_SAC


def _signal(lesion: Lesion, volume: Volume, tissue: str, voxels: npt.NDArray[np.intp]) -> SequenceSignal:
    """Robust z of the lesion's median against a tissue's voxels (n, 3).

    Voxels of exactly 0 lie outside a resampled series.
    """
    name, weighting = volume.series.name, volume.series.weighting.value
    own = volume.intensities[tuple(lesion.voxels.T)]
    usual = volume.intensities[tuple(voxels.T)]
    own, usual = own[own != 0], usual[usual != 0]
    if len(own) < 0.5 * len(lesion.voxels) or len(usual) < _MINIMUM_REFERENCE_VOXELS:
        return SequenceSignal(name, weighting, None, "unknown", tissue)
    middle = float(np.median(usual))
    spread = _MAD_TO_SD * float(np.median(np.abs(usual - middle)))
    if spread <= 0:
        return SequenceSignal(name, weighting, None, "unknown", tissue)
    z_score = (float(np.median(own)) - middle) / spread
    appearance = "bright" if z_score > _CLEAR_Z else "dark" if z_score < -_CLEAR_Z else "similar"
    return SequenceSignal(name, weighting, z_score, appearance, tissue)
