"""What the page's interactive viewer shows: images and label maps as NIfTI inside the page.

Makes bytes and plain values; the page's script hands them to NiiVue.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from pydantic import JsonValue
from scipy import ndimage

from spinemets.anatomy import Structure
from spinemets.findings import StudyReport, Vertebra
from spinemets.reporting.drawing import display_window
from spinemets.reporting.palette import COMPARTMENT_COLOURS, hex_colour
from spinemets.reporting.planes import body_axes
from spinemets.reporting.schema import ReportDocument
from spinemets.reporting.words import level_name, uncertain_levels
from spinemets.volume import Grid, Volume

__all__ = ["LARGEST_VOXEL_COUNT", "encode_nifti", "reduction", "viewer_data"]

# About 10 MB of page for all series together; more voxels than this are thinned out.
LARGEST_VOXEL_COUNT = 9_000_000

Labels = npt.NDArray[np.uint8]


def viewer_data(report: StudyReport, document: ReportDocument) -> dict[str, JsonValue]:
    """The viewer's images, maps and names, ready to be written as JSON."""
    segmentation = report.segmentation
    factors = reduction(segmentation.grid, len(segmentation.volumes))
    uncertain = uncertain_levels(document.levels)
    lesions = np.zeros(segmentation.grid.shape, dtype=np.uint8)
    for finding in report.findings:
        # More than 255 lesions share the last value: the viewer tells them apart no more.
        lesions[tuple(finding.lesion.voxels.T)] = min(finding.lesion.number, 255)
    return {
        "images": [
            {"name": record.name, **_encode_image(volume, factors)}
            for record, volume in zip(document.study.series, segmentation.volumes, strict=True)
        ],
        "vertebrae": _encode_labels(segmentation.vertebrae, segmentation.grid, factors),
        "lesions": _encode_labels(lesions, segmentation.grid, factors),
        "levels": [
            {
                "instance": vertebra.instance,
                "name": level_name(record.level, uncertain),
                "centre": list(record.centroid_mm),
                "front": _front(report, vertebra),
            }
            for vertebra, record in zip(report.vertebrae, document.levels, strict=True)
        ],
        "findings": [
            {
                "number": finding.lesion,
                "name": f"Lesion {finding.lesion}, {finding.compartment.value}",
                "centre": _centre_inside(report, rank),
                "colour": hex_colour(COMPARTMENT_COLOURS[finding.compartment]),
            }
            for rank, finding in enumerate(document.findings)
        ],
        "reduced": max(factors) > 1,
    }


def reduction(grid: Grid, volumes: int) -> tuple[int, int, int]:
    """By how much each axis is thinned so that all volumes together stay small.

    >>> reduction(Grid((15, 320, 320), np.diag([4.0, 1.0, 1.0, 1.0])), 3)
    (1, 1, 1)
    >>> reduction(Grid((60, 512, 512), np.diag([1.0, 0.5, 0.5, 1.0])), 1)
    (1, 2, 1)
    """
    factors = [1, 1, 1]
    while (
        volumes * np.prod([-(-n // f) for n, f in zip(grid.shape, factors, strict=True)])
        > LARGEST_VOXEL_COUNT
    ):
        factors[int(np.argmin(np.array(grid.spacing_mm) * factors))] += 1
    return factors[0], factors[1], factors[2]


def encode_nifti(array: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64]) -> str:
    """A gzipped NIfTI of 8-bit values, RAS+ mm, as base64."""
    image = nib.nifti1.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    packed = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _encode_image(volume: Volume, factors: tuple[int, int, int]) -> dict[str, JsonValue]:
    """The image on 0-255, and the window it is first shown with on that scale."""
    values = volume.intensities
    window = display_window(values)
    if max(factors) > 1:
        values = ndimage.uniform_filter(values, size=[2 * (f // 2) + 1 for f in factors], mode="nearest")
    values = _thin(values, factors)
    low, high = (float(bound) for bound in np.percentile(values, (0.1, 99.9)))
    scale = 255 / max(high - low, 1e-6)
    scaled = np.rint(np.clip((values - low) * scale, 0, 255)).astype(np.uint8)
    return {
        "nifti": encode_nifti(scaled, _thin_affine(volume.grid, factors)),
        "window": [round((bound - low) * scale, 2) for bound in window],
    }


def _encode_labels(labels: Labels, grid: Grid, factors: tuple[int, int, int]) -> str:
    return encode_nifti(_thin(labels, factors), _thin_affine(grid, factors))


def _thin(array: npt.NDArray[Any], factors: tuple[int, int, int]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(
        array[tuple(slice(_first(n, f), None, f) for n, f in zip(array.shape, factors, strict=True))]
    )


def _thin_affine(grid: Grid, factors: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    affine = np.array(grid.affine)
    first = [_first(n, f) for n, f in zip(grid.shape, factors, strict=True)]
    affine[:3, 3] = grid.to_world(first)
    affine[:3, :3] *= np.array(factors)
    return affine


def _first(size: int, factor: int) -> int:
    """The first kept index: the middle of its block, where the axis is long enough."""
    return min(factor // 2, size - 1)


def _front(report: StudyReport, vertebra: Vertebra) -> list[JsonValue]:
    """A place in RAS+ mm just in front of a vertebra's body, for its name."""
    segmentation = report.segmentation
    forward = body_axes(segmentation.grid).directions[1]
    mask = segmentation.vertebrae == vertebra.instance
    bodies = mask & np.isin(segmentation.anatomy, (Structure.VERTEBRAL_BODY, Structure.SACRUM))
    chosen = bodies if bodies.any() else mask
    centre = np.array(vertebra.centroid_mm)
    if chosen.any():
        along = segmentation.grid.to_world(np.argwhere(chosen)) @ forward
        centre = centre + (np.percentile(along, 98) - centre @ forward + 3) * forward
    return [round(float(value), 3) for value in centre]


def _centre_inside(report: StudyReport, rank: int) -> list[JsonValue]:
    """The place in RAS+ mm of a lesion's voxel nearest to its centre, which always lies in it."""
    lesion = report.findings[rank].lesion
    points = lesion.grid.to_world(lesion.voxels)
    nearest = points[np.linalg.norm(points - np.array(lesion.centroid_mm), axis=1).argmin()]
    return [round(float(value), 3) for value in nearest]
