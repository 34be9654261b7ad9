"""Labelled scans for training, each read from its data set's own layout.

A voxel's truth is the *set* of channels it may belong to, one bit each: a data set that labels
a spinal canal says "sac or cord", one that labels only the cord says nothing of bones. Partial
labels of different data sets thus train one network together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import UnsupportedInputError
from spinemets.instances import split_vertebrae
from spinemets.sampling import resampling_matrix
from spinemets.training.images import load_pair
from spinemets.volume import Grid, PointMm, Weighting

__all__ = [
    "ANY",
    "UNKNOWN_LESION",
    "LabelledScan",
    "bit",
    "channels_of",
    "finer_affine",
    "mark_sacrum",
    "read_sct",
    "read_spider",
    "spider_structures",
    "to_1_mm",
    "to_bytes",
]

Labels = npt.NDArray[np.uint8]
Allowed = npt.NDArray[np.uint16]

ANY = (1 << len(Channel)) - 1
# Of a map of lesions: it is not known whether there is one.
UNKNOWN_LESION = 255


def bit(*channels: Channel) -> int:
    """The set of these channels as bits."""
    return sum(1 << channel for channel in channels)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledScan:
    """One scan with what is known of it.

    Attributes
    ----------
    subject
        "<data set>/<subject>"; splits go by it.
    image
        uint8 or float32, shape (left-right, back-front, foot-head) in RAS+ order.
    allowed
        uint16: the channels each voxel may belong to, as bits.
    structures
        uint8: the likeliest ``Structure``; where lesions are implanted.
    spacing_mm
        Of the three axes; 1 mm in plane.
    lesions
        uint8, shape of the image: a lesion's number from 1, 0 none, 255 unknown. None where the
        person is taken to have none.
    affine
        float64, (4, 4): voxel indices to the file's RAS+ mm. None where the scan has no place.
    """

    subject: str
    image: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    allowed: Allowed
    structures: Labels
    spacing_mm: PointMm
    weighting: Weighting
    lesions: Labels | None = None
    affine: npt.NDArray[np.float64] | None = None


def read_spider(image_path: Path, labels_path: Path, subject: str) -> LabelledScan:
    """Read a SPIDER T2 scan whose labels are 1 vertebra, 2 disc, 3 spinal canal.

    Bodies are parted from arches at the front of the canal and numbered upwards from L5. S1 is
    not labelled there; the block below the last disc stands in for it, and what surrounds that
    block stays unknown, as does everything above the highest labelled vertebra.

    Raises
    ------
    GeometryError, UnreadableFileError, UnsupportedInputError
        The files do not fit together, cannot be read, or lack a label.

    Notes
    -----
    Source: van der Graaf et al., Sci Data 2024, doi:10.1038/s41597-024-03090-w.
    """
    source, drawn = load_pair(image_path, labels_path)
    image, labels, grid = source.voxels, drawn.astype(np.float32), source.grid
    spacing, affine = grid.spacing_mm, finer_affine(grid, 1)
    for value, name in ((1, "vertebra"), (3, "spinal canal")):
        if not (labels == value).any():
            raise UnsupportedInputError(f"{labels_path}: no voxel is labelled {value} ({name}), as in SPIDER")
    image, spacing_mm = to_1_mm(image, spacing)
    labels, _ = to_1_mm(labels, spacing, nearest=True)
    structures = spider_structures(labels, spacing_mm)
    allowed = (1 << channels_of(structures)).astype(np.uint16)
    allowed[np.isin(structures, (Structure.THECAL_SAC, Structure.CORD))] = bit(
        Channel.THECAL_SAC, Channel.CORD
    )
    _number_bodies(structures, allowed, Grid(structures.shape, affine))
    mark_sacrum(labels, structures, allowed, spacing_mm)
    tops = np.nonzero((labels == 1).any(axis=(0, 1)))[0]
    allowed[:, :, tops.max() + 1 :] = ANY
    # Signals that fill a byte are kept as they are.
    fills = image.min() >= 0 and 128 <= image.max() < 256
    stored = image.astype(np.uint8) if fills else to_bytes(image)
    return LabelledScan(subject, stored, allowed, structures, spacing_mm, Weighting.T2, affine=affine)


def read_sct(image_path: Path, cord_path: Path, subject: str) -> LabelledScan:
    """Read a T2 scan of which only the cord is labelled.

    Bright voxels touching the cord are its CSF. Nothing is known of the bones.

    Raises
    ------
    GeometryError, UnreadableFileError, UnsupportedInputError
        The files do not fit together, cannot be read, hold no cord, or are not of 1 mm.

    Notes
    -----
    Source: Spinal Cord Toolbox, https://spinalcordtoolbox.com.
    """
    source, cord = load_pair(image_path, cord_path)
    image, spacing = source.voxels, source.grid.spacing_mm
    inside = cord > 0
    if not inside.any():
        raise UnsupportedInputError(f"{cord_path}: no voxel is labelled cord")
    if max(abs(s - 1.0) for s in spacing) > 0.05:
        # The reach of the sac around the cord is counted in voxels.
        raise UnsupportedInputError(f"{image_path}: spacing {spacing} mm; this reader takes 1 mm scans")
    scale = 255 / max(float(np.percentile(image, 99.8)), 1e-3)
    image = np.clip(image * scale, 0, 255)
    structures = np.zeros(image.shape, dtype=np.uint8)
    sac = ndimage.binary_dilation(inside, iterations=6) & ~ndimage.binary_dilation(inside)
    csf_level = np.percentile(image[sac], 75)
    csf = sac & (image > 0.6 * csf_level)
    allowed = np.full(image.shape, ANY & ~bit(Channel.CORD), dtype=np.uint16)
    labelled = np.nonzero(inside.any(axis=(0, 1)))[0]
    allowed[:, :, : labelled.min()] = ANY
    allowed[:, :, labelled.max() + 1 :] = ANY
    far = ndimage.distance_transform_edt(~inside) > 75
    allowed[far & (allowed != ANY)] = bit(Channel.BACKGROUND)
    allowed[csf] = bit(Channel.THECAL_SAC)
    allowed[inside] = bit(Channel.CORD)
    structures[csf] = Structure.THECAL_SAC
    structures[inside] = Structure.CORD
    return LabelledScan(subject, image.astype(np.uint8), allowed, structures, spacing, Weighting.T2)


def to_bytes(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """An image in 0..255, its brightest 0.2 % cut off."""
    low = min(0.0, float(image.min()))
    scale = 255 / max(float(np.percentile(image, 99.8)) - low, 1e-3)
    return np.asarray(np.clip((image - low) * scale, 0, 255), dtype=np.uint8)


def to_1_mm(
    array: npt.NDArray[np.float32], spacing: PointMm, nearest: bool = False
) -> tuple[npt.NDArray[np.float32], PointMm]:
    """Both in-plane axes at 1 mm; slices as they are.

    Parameters
    ----------
    array
        Shape (left-right, back-front, foot-head).
    nearest
        For labels.
    """
    for axis in (1, 2):
        count, offset = _millimetres(array.shape[axis], spacing[axis])
        if nearest:
            places = np.rint((offset + np.arange(count)) / spacing[axis]).astype(int)
            array = np.take(array, places.clip(0, array.shape[axis] - 1), axis=axis)
        else:
            matrix = resampling_matrix((array.shape[axis], spacing[axis]), (count, 1.0), offset)
            array = np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(array), (spacing[0], 1.0, 1.0)


def finer_affine(
    grid: Grid, joined: int, corner: tuple[int, int, int] = (0, 0, 0)
) -> npt.NDArray[np.float64]:
    """Voxel indices to mm of a scan of this grid, once it is at 1 mm in plane.

    Parameters
    ----------
    joined
        How many slices were made one.
    corner
        The first voxel that was kept of the scan at 1 mm.
    """
    (_, step_1, step_2), (_, count_1, count_2) = grid.spacing_mm, grid.shape
    steps = np.array((joined, 1 / step_1, 1 / step_2))
    starts = (
        (joined - 1) / 2,
        _millimetres(count_1, step_1)[1] / step_1,
        _millimetres(count_2, step_2)[1] / step_2,
    )
    affine = grid.affine.copy()
    affine[:3, :3] *= steps
    affine[:3, 3] = grid.to_world(starts + steps * corner)
    return affine


def _millimetres(count: int, step_mm: float) -> tuple[int, float]:
    """How many voxels of 1 mm stand for a line of voxels, and where the first lies, in mm from theirs."""
    fine = round(count * step_mm)
    return fine, ((count - 1) * step_mm - (fine - 1)) / 2


def spider_structures(labels: npt.NDArray[np.float32], spacing_mm: PointMm) -> Labels:
    """``Structure`` of labels 1 vertebra, 2 disc, 3 canal: bodies lie in front of the canal."""
    structures = np.zeros(labels.shape, dtype=np.uint8)
    structures[labels == 2] = Structure.DISC
    structures[labels == 3] = Structure.THECAL_SAC
    canal = labels == 3
    rows = np.arange(labels.shape[1])[None, :, None]
    front = np.where(canal, rows, -1).max(axis=(0, 1)).astype(float)
    known = front >= 0
    heights = np.arange(labels.shape[2])
    front = np.interp(heights, heights[known], ndimage.median_filter(front[known], 9))
    body = (labels == 1) & (rows > front[None, None, :] - 1.5)
    structures[labels == 1] = Structure.POSTERIOR_ELEMENTS
    structures[body] = Structure.VERTEBRAL_BODY
    # Specks in front of the canal are facets, not bodies.
    sizes, _ = _components(structures == Structure.VERTEBRAL_BODY)
    small = np.isin(sizes, np.flatnonzero(np.bincount(sizes.ravel()) * spacing_mm[0] < 1500))
    structures[small & (structures == Structure.VERTEBRAL_BODY)] = Structure.POSTERIOR_ELEMENTS
    return structures


def _components(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], int]:
    labelled, count = cc3d.connected_components(mask, connectivity=6, return_N=True)
    return labelled.astype(np.int64), int(count)


def channels_of(structures: Labels) -> npt.NDArray[np.uint16]:
    """The channel of every structure; bodies count as lumbar."""
    table = np.zeros(len(Structure), dtype=np.uint16)
    table[Structure.VERTEBRAL_BODY] = Channel.LUMBAR_BODY
    table[Structure.POSTERIOR_ELEMENTS] = Channel.POSTERIOR_ELEMENTS
    table[Structure.DISC] = Channel.DISC
    table[Structure.THECAL_SAC] = Channel.THECAL_SAC
    table[Structure.CORD] = Channel.CORD
    table[Structure.SACRUM] = Channel.SACRUM
    return table[structures]


def _number_bodies(structures: Labels, allowed: Allowed, grid: Grid) -> None:
    """The five lowest bodies are lumbar, those above thoracic; labels of two may touch.

    What is too little for a body, as where the image cuts one, is lumbar below the top of L1.
    """
    instances = split_vertebrae(structures, None, grid)
    instances[structures != Structure.VERTEBRAL_BODY] = 0
    uppermost = int(instances.max()) - 4
    if uppermost < 1:
        return
    top = int(np.nonzero(instances == uppermost)[2].max())
    thoracic = (instances > 0) & (instances < uppermost)
    thoracic[:, :, top:] |= instances[:, :, top:] == 0
    allowed[thoracic & (structures == Structure.VERTEBRAL_BODY)] = bit(Channel.THORACIC_BODY)


def mark_sacrum(
    labels: npt.NDArray[np.float32], structures: Labels, allowed: Allowed, spacing_mm: PointMm
) -> None:
    """S1 as the block below the last disc: 26 mm along the disc's normal, tapering forwards.

    Height and taper after the S1 body's usual proportions; a stand-in, not a label. The canal is
    labelled down to its end, so that around the block only bone and disc stay unknown.
    """
    discs, count = _components(labels == 2)
    if not count:
        return
    sizes = np.bincount(discs.ravel())[1:]
    centres = np.array(ndimage.center_of_mass(discs > 0, discs, range(1, count + 1)))
    large = np.flatnonzero(sizes > 0.3 * np.median(sizes))
    lowest = large[np.argmin(centres[large, 2])] + 1
    bodies = structures == Structure.VERTEBRAL_BODY
    lowest_body = np.nonzero(bodies.any(axis=(0, 1)))[0].min()
    if centres[lowest - 1, 2] > lowest_body + 15:
        # The last labelled disc lies above the last body: S1 cannot be placed.
        allowed[:, :, :lowest_body] = ANY
        return
    points = np.argwhere(discs == lowest) * spacing_mm
    centre = points.mean(axis=0)
    # The disc's shape in the sagittal plane: its long axis runs back to front.
    values, vectors = np.linalg.eigh(np.cov((points - centre)[:, 1:].T))
    forward = vectors[:, 1] * np.sign(vectors[0, 1])
    down = np.array([forward[1], -forward[0]])
    half_depth, half_height = 1.75 * np.sqrt(values[1]), 1.75 * np.sqrt(values[0])
    y, z = np.meshgrid(*[np.arange(n) for n in labels.shape[1:]], indexing="ij")
    along = (y - centre[1]) * down[0] + (z - centre[2]) * down[1] - half_height
    across = (y - centre[1]) * forward[0] + (z - centre[2]) * forward[1]
    unknown = (along > -6) & (np.abs(across) < half_depth + 45)
    block = (along > 0.5) & (along < 26) & (np.abs(across) < (half_depth - 1) * (1 - 0.011 * along))
    free = labels == 0
    allowed[free & unknown[None]] = bit(
        Channel.BACKGROUND, Channel.SACRUM, Channel.POSTERIOR_ELEMENTS, Channel.DISC
    )
    allowed[free & block[None]] = bit(Channel.SACRUM)
    structures[free & block[None]] = Structure.SACRUM
