"""Images in space: a grid, a volume on it, the series it came from, and the study they form.

Everything is in RAS+ millimetres: x grows towards the patient's right, y towards the
front, z towards the head. Nothing here reads, writes, resamples or draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spinemets.errors import GeometryError

__all__ = ["FloatArray", "Grid", "Mask", "Plane", "PointMm", "Series", "Study", "Volume", "Weighting"]

FloatArray = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
PointMm = tuple[float, float, float]

# For larger products BLAS wakes its threads, which on a busy machine takes longer than the product.
_ROWS_AT_ONCE = 16_384


class Weighting(Enum):
    """The contrast of a series, as far as its header tells."""

    T1 = "T1"
    T2 = "T2"
    T2_FS = "STIR/T2FS"
    T1_GD = "T1+Gd"
    T1_FS_GD = "T1FS+Gd"
    PD = "PD"
    PD_FS = "PDFS"
    DIXON_WATER = "Dixon-water"
    DIXON_FAT = "Dixon-fat"
    DIXON_IN_PHASE = "Dixon-in-phase"
    DIXON_OUT_OF_PHASE = "Dixon-out-of-phase"
    UNKNOWN = "unknown"


class Plane(Enum):
    """The anatomical plane nearest to a series' slices."""

    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    AXIAL = "axial"


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A regular lattice of voxel centres in RAS+ millimetres.

    Parameters
    ----------
    shape
        Number of voxels along the three array axes.
    affine
        4×4; maps voxel indices (i, j, k) to RAS+ mm, as in NIfTI.

    Raises
    ------
    GeometryError
        The shape holds a non-positive number, or the affine is not finite,
        not invertible, or has a last row other than (0, 0, 0, 1).

    Examples
    --------
    >>> grid = Grid((15, 320, 320), np.diag([4.0, 1.0, 1.0, 1.0]))
    >>> grid.spacing_mm
    (4.0, 1.0, 1.0)
    >>> grid.to_world([1, 0, 0]).tolist()
    [4.0, 0.0, 0.0]
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"a grid needs three positive sizes, not {tuple(self.shape)}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError("an affine must be a finite 4x4 matrix")
        if not np.array_equal(affine[3], (0.0, 0.0, 0.0, 1.0)):
            raise GeometryError(f"an affine must end in the row (0, 0, 0, 1), not {affine[3].tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError("the affine cannot be inverted: an axis has no length or two are parallel")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each array axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def plane(self) -> Plane:
        """The anatomical plane of the slices: across the axis of the widest spacing.

        A grid of equal spacings counts as sagittal, the plane that spines are read in.
        """
        if self._has_equal_spacings:
            return Plane.SAGITTAL
        normal = np.abs(self.affine[:3, self.slice_axis])
        return (Plane.SAGITTAL, Plane.CORONAL, Plane.AXIAL)[int(normal.argmax())]

    @property
    def slice_axis(self) -> int:
        """The array axis across the slices; the one nearest to left-right where spacings are equal."""
        if self._has_equal_spacings:
            return int((np.abs(self.affine[0, :3]) / self.spacing_mm).argmax())
        return int(np.argmax(self.spacing_mm))

    @property
    def _has_equal_spacings(self) -> bool:
        return bool(max(self.spacing_mm) < 1.2 * np.median(self.spacing_mm))

    def to_world(self, indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Voxel indices, shape (..., 3), to RAS+ mm of the same shape."""
        points = np.asarray(indices, dtype=np.float64)
        if points.ndim != 2:
            return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])
        world = np.empty_like(points, order="C")
        for start in range(0, len(points), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            np.matmul(points[rows], self.affine[:3, :3].T, out=world[rows])
        world += self.affine[:3, 3]
        return world

    def to_index(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """RAS+ mm, shape (..., 3), to fractional voxel indices of the same shape."""
        points = np.asarray(points_mm, dtype=np.float64) - self.affine[:3, 3]
        return np.asarray(points @ np.linalg.inv(self.affine[:3, :3]).T)

    def is_close(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Whether every voxel centre of both grids coincides to within the tolerance."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        gap = np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1)
        return bool(gap.max() <= tolerance_mm)

    def has_same_places(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Whether both grids have the same voxel centres, in whatever order they are stored.

        Examples
        --------
        >>> backwards = Grid((2, 3, 4), np.array([[-1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
        >>> Grid((2, 3, 4), np.eye(4)).has_same_places(backwards)
        True
        """
        order = np.abs(np.linalg.inv(self.affine[:3, :3]) @ other.affine[:3, :3]).argmax(axis=0)
        if sorted(order) != [0, 1, 2] or other.shape != tuple(self.shape[axis] for axis in order):
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in other.shape])).reshape(3, -1).T
        places = other.to_world(corners)
        nearest = np.where(
            self.to_index(places) < (np.array(self.shape) - 1) / 2, 0, np.array(self.shape) - 1
        )
        return bool(np.linalg.norm(self.to_world(nearest) - places, axis=1).max() <= tolerance_mm)


@dataclass(frozen=True, slots=True)
class Series:
    """What the headers say of one series; no pixels.

    Attributes
    ----------
    study_uid, series_uid
        Identifiers; for files that carry none, a hash of the file's content.
    frame_of_reference_uid
        Series that share it share a coordinate system; empty where unknown.
    source
        The file, or the folder of files, it was read from.
    files
        DICOM: every instance in slice order (one for an enhanced multi-frame object).
    frames
        The frames used of an enhanced multi-frame object, from 0, in slice order; else empty.
    cautions
        What a reviewer must know of how it was read, in plain sentences.
    """

    study_uid: str
    series_uid: str
    description: str = ""
    number: int | None = None
    weighting: Weighting = Weighting.UNKNOWN
    plane: Plane = Plane.SAGITTAL
    frame_of_reference_uid: str = ""
    modality: str = "MR"
    source: Path = Path()
    files: tuple[Path, ...] = ()
    frames: tuple[int, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A short name for messages: number, description and weighting; no identifiers."""
        number = f"series {self.number}" if self.number is not None else "series"
        return f"{number} ({self.description or self.weighting.value})"


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Intensities on a grid.

    Attributes
    ----------
    intensities
        float32, shape ``grid.shape``; arbitrary units, finite, read-only.

    Raises
    ------
    GeometryError
        The array's shape is not the grid's.
    """

    intensities: npt.NDArray[np.float32]
    grid: Grid
    series: Series

    def __post_init__(self) -> None:
        intensities = np.asarray(self.intensities, dtype=np.float32)
        if intensities.shape != self.grid.shape:
            raise GeometryError(
                f"an array of shape {intensities.shape} does not fit a grid of {self.grid.shape}"
            )
        intensities = intensities.view()
        intensities.setflags(write=False)
        object.__setattr__(self, "intensities", intensities)


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """The usable series of one examination, best first.

    The first volume is the *reference*: results are written on its grid.

    Attributes
    ----------
    patient_id, study_date
        As the headers give them, for the report's heading only; never logged.
    rejected
        (series name, reason) of every series that was found and not used.

    Raises
    ------
    GeometryError
        There is no volume.
    """

    uid: str
    volumes: tuple[Volume, ...]
    description: str = ""
    patient_id: str = ""
    study_date: str = ""
    rejected: tuple[tuple[str, str], ...] = ()
    cautions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.volumes:
            raise GeometryError("a study needs at least one usable series")

    @property
    def reference(self) -> Volume:
        """The series whose grid carries the results."""
        return self.volumes[0]
