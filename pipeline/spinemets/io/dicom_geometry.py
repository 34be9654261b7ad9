"""From the positions of DICOM slices to a regular grid, and what stands in the way.

This is one of the two places where DICOM's LPS coordinates become RAS+. The array of a stack
has the axes (slice, row, column).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spinemets.errors import GeometryError
from spinemets.volume import Grid

__all__ = ["LARGEST_SHEAR_DEG", "SAME_POSITION_MM", "SliceHeader", "SliceStack", "build_stack"]

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
# Header rounding and table jitter are far below this; a missing slice is far above.
_JITTER_SHARE, _JITTER_MM = 0.05, 0.1
SAME_POSITION_MM = 0.01
"""Images that lie closer than this show one slice."""
LARGEST_SHEAR_DEG = 1.0
"""By which the slices of a stack may be shifted against each other."""


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """Where one image lies, and what tells it from another image at the same place.

    Attributes
    ----------
    frame
        Index of the frame within an enhanced multi-frame file; None for a classic file.
    position_mm
        LPS mm, centre of the first pixel; None where the header has none.
    orientation
        LPS direction cosines of a row, then of a column.
    pixel_spacing_mm
        Distance between rows, then between columns.
    distance_mm
        The header's own distance between slice centres; None where absent or impossible.
    stack_id
        Of the stack that an enhanced file counts the frame to; empty for a classic one.
    """

    path: Path
    frame: int | None = None
    sop_uid: str = ""
    rows: int = 0
    columns: int = 0
    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing_mm: tuple[float, ...] | None = None
    distance_mm: float | None = None
    thickness_mm: float | None = None
    instance_number: int | None = None
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    image_type: tuple[str, ...] = ()
    temporal_position: int | None = None
    acquisition_number: int | None = None
    stack_id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SliceStack:
    """Slices in spatial order on a regular grid; None stands for a missing slice."""

    slices: tuple[SliceHeader | None, ...]
    grid: Grid
    cautions: tuple[str, ...] = field(default=())

    @property
    def missing(self) -> tuple[int, ...]:
        """Places along the slice axis for which there is no image."""
        return tuple(place for place, header in enumerate(self.slices) if header is None)

    @property
    def gaps(self) -> str:
        """Which slices are missing, in words; empty where none is.

        Positions are those of the neighbouring slices along the slice axis, in RAS+ mm.
        """
        if not self.missing:
            return ""
        normal = self.grid.affine[:3, 0] / np.linalg.norm(self.grid.affine[:3, 0])
        normal = normal * np.sign(normal[np.abs(normal).argmax()])
        centre = [(n - 1) / 2 for n in self.grid.shape[1:]]
        ranges = []
        for place in self.missing:
            if self.slices[place - 1] is None:
                continue
            end = next(k for k in range(place, len(self.slices)) if self.slices[k] is not None)
            sides = sorted(float(self.grid.to_world([k, *centre]) @ normal) for k in (place - 1, end))
            ranges.append(f"between {sides[0]:.1f} mm and {sides[1]:.1f} mm")
        verb = "is" if len(self.missing) == 1 else "are"
        return f"{len(self.missing)} of {len(self.slices)} slices {verb} missing " + ", ".join(ranges)


def build_stack(slices: Sequence[SliceHeader]) -> SliceStack:
    """Order slices of one orientation along their normal and fit a regular grid.

    Missing slices become holes, for the caller to judge. Positions may deviate from the grid
    by 5 % of the spacing or 0.1 mm, whichever is more.

    Raises
    ------
    GeometryError
        Positions, orientation or pixel spacing are absent or impossible; two images lie at one
        position; slices are unequally spaced or stacked askew.
    """
    rows, columns = _directions(slices[0])
    spacing = slices[0].pixel_spacing_mm
    if spacing is None or min(spacing) <= 0:
        raise GeometryError("no usable PixelSpacing; export the series again with its geometry")
    positions = np.array([_position(header) for header in slices]) * _LPS_TO_RAS
    normal = np.cross(rows, columns)
    order = np.argsort(positions @ normal, kind="stable")
    places = _places(positions[order] @ normal)
    origin, step = _fit_line(positions[order], places, normal, slices[0].thickness_mm)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, columns * spacing[0], rows * spacing[1]
    affine[:3, 3] = origin
    shape = (int(places[-1]) + 1, slices[0].rows, slices[0].columns)
    ordered: list[SliceHeader | None] = [None] * shape[0]
    for place, index in zip(places, order, strict=True):
        ordered[int(place)] = slices[int(index)]
    return SliceStack(tuple(ordered), Grid(shape, affine), _distance_cautions(slices[0], step))


def _position(header: SliceHeader) -> tuple[float, ...]:
    if header.position_mm is None or not np.isfinite(header.position_mm).all():
        raise GeometryError(
            "an image has no usable ImagePositionPatient; export the series again with its geometry"
        )
    return header.position_mm


def _directions(header: SliceHeader) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit vectors in RAS: along a row (increasing column), along a column (increasing row)."""
    if header.orientation is None or not np.isfinite(header.orientation).all():
        raise GeometryError("no usable ImageOrientationPatient; export the series again with its geometry")
    rows = np.array(header.orientation[:3]) * _LPS_TO_RAS
    columns = np.array(header.orientation[3:]) * _LPS_TO_RAS
    lengths = np.linalg.norm(rows), np.linalg.norm(columns)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(rows @ columns) > 0.01:
        raise GeometryError(
            "ImageOrientationPatient is not two perpendicular unit vectors; its geometry is damaged"
        )
    return rows / lengths[0], columns / lengths[1]


def _places(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Index of each sorted slice on the regular grid, counting missing slices."""
    if len(distances) == 1:
        return np.zeros(1, dtype=np.int64)
    gaps = np.diff(distances)
    if gaps.min() < SAME_POSITION_MM:
        raise GeometryError(
            f"{int((gaps < SAME_POSITION_MM).sum())} images lie at the position of another one and "
            "nothing in the header tells them apart; remove one set"
        )
    unit = float(np.mean(gaps[gaps < 1.5 * gaps.min()]))
    steps = np.maximum(np.rint(gaps / unit), 1.0)
    tolerance = 2 * max(_JITTER_SHARE * unit, _JITTER_MM)
    places = np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
    mostly_absent = 2 * len(distances) < places[-1] + 1
    if np.abs(gaps - steps * unit).max() > tolerance or mostly_absent:
        raise GeometryError(
            f"slices are unequally spaced, {gaps.min():.2f} to {gaps.max():.2f} mm apart; "
            "an equally spaced series is needed"
        )
    return places


def _fit_line(
    positions: npt.NDArray[np.float64],
    places: npt.NDArray[np.int64],
    normal: npt.NDArray[np.float64],
    thickness_mm: float | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Origin and step of the line of slice positions, RAS+ mm."""
    if len(positions) == 1:
        return positions[0], normal * (thickness_mm or 1.0)
    design = np.stack([np.ones(len(places)), places.astype(np.float64)], axis=1)
    origin, step = np.linalg.lstsq(design, positions, rcond=None)[0]
    spacing = float(np.linalg.norm(step))
    residual = float(np.linalg.norm(positions - design @ np.stack([origin, step]), axis=1).max())
    if residual > max(_JITTER_SHARE * spacing, _JITTER_MM):
        raise GeometryError(
            f"slices lie up to {residual:.2f} mm off a regular stack of {spacing:.2f} mm; "
            "an equally spaced series is needed"
        )
    shear = float(np.degrees(np.arccos(np.clip(step @ normal / spacing, -1.0, 1.0))))
    if shear > LARGEST_SHEAR_DEG:
        raise GeometryError(f"slices are stacked askew by {shear:.1f} degrees; an upright stack is needed")
    return origin, step


def _distance_cautions(header: SliceHeader, step: npt.NDArray[np.float64]) -> tuple[str, ...]:
    spacing = float(np.linalg.norm(step))
    if header.distance_mm is None or spacing < 1.9 * header.distance_mm:
        return ()
    return (
        f"slices lie {spacing:.1f} mm apart where the header says {header.distance_mm:.1f} mm: "
        "every other one may be missing",
    )
