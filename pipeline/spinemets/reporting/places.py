"""Where a reader finds a lesion in the source images: its slices, and its side of the midline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spinemets.findings import Lesion, StudyReport
from spinemets.reporting.schema import Side
from spinemets.spinal_axis import SpinalAxis, fit_spinal_axis
from spinemets.volume import Grid, Plane, Series

__all__ = ["LesionPlace", "lesion_places"]

_MIDLINE_MM = 3.0  # less than a sagittal slice is thick
_BESIDE_MM = 5.0  # half a canal's width: a lesion of the cord alone is on neither side
_SHARE_OF_EITHER = 0.2


@dataclass(frozen=True, slots=True)
class LesionPlace:
    """Where to look for a lesion in the reference series.

    Attributes
    ----------
    slice_first, slice_last, slice_count
        From 1, in the order of the file or, in DICOM, of position; the count is the series'.
    instance_number
        DICOM: the InstanceNumber of the slice that holds most of the lesion, or that slice's frame,
        from 1, in a multi-frame object; None for image files and where the file is gone.
    side
        Of the spinal canal's midline, as the patient has it; None where no spine was recognised.
    """

    slice_first: int
    slice_last: int
    slice_count: int
    instance_number: int | None
    side: Side | None


def lesion_places(report: StudyReport) -> Mapping[int, LesionPlace]:
    """The place of every lesion of a report, by its number."""
    if not report.findings:
        return {}
    segmentation, series = report.segmentation, report.study.reference.series
    axis = fit_spinal_axis(segmentation.anatomy, segmentation.grid)
    return {
        finding.lesion.number: _place(finding.lesion, segmentation.grid, series, axis)
        for finding in report.findings
    }


def _place(lesion: Lesion, grid: Grid, series: Series, axis: SpinalAxis | None) -> LesionPlace:
    along = _slice_axis(series, grid)
    slices = lesion.voxels[:, along]
    fullest = int(np.bincount(slices).argmax())
    return LesionPlace(
        int(slices.min()) + 1,
        int(slices.max()) + 1,
        grid.shape[along],
        _instance_number(series, fullest, grid.shape[along]),
        None if axis is None else _side(axis.project(grid.to_world(lesion.voxels))[:, 2]),
    )


def _slice_axis(series: Series, grid: Grid) -> int:
    """The array axis that counts the slices: the first in DICOM, else the one across the grid's plane."""
    if len(series.files) > 1 or series.frames:
        return 0
    normal = (Plane.SAGITTAL, Plane.CORONAL, Plane.AXIAL).index(grid.plane)
    return int((np.abs(grid.affine[normal, :3]) / grid.spacing_mm).argmax())


def _side(rightward_mm: np.ndarray) -> Side:
    """The side of a lesion whose voxels lie so far to the right of the midline."""
    if min((rightward_mm > _BESIDE_MM).mean(), (rightward_mm < -_BESIDE_MM).mean()) >= _SHARE_OF_EITHER:
        return "both"
    middle = float(np.median(rightward_mm))
    if abs(middle) <= _MIDLINE_MM:
        return "midline"
    return "right" if middle > 0 else "left"


def _instance_number(series: Series, place: int, count: int) -> int | None:
    """What an archive calls a slice; None where slices were interpolated, so that files do not tell."""
    if len(series.frames) == count:
        return series.frames[place] + 1
    if len(series.files) != count or count == 1:
        return None
    return _written_number(series.files[place])


def _written_number(path: Path) -> int | None:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["InstanceNumber"])
        return int(header.InstanceNumber)
    except (OSError, InvalidDicomError, EOFError, AttributeError, TypeError, ValueError):
        return None
