"""A volume on another grid: rigid transforms, interpolation, coverage and overlap.

SimpleITK's LPS coordinates are entered and left here and in ``rigid`` only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from spinemets.errors import GeometryError
from spinemets.volume import Grid, Mask, Volume

__all__ = [
    "RigidTransform",
    "block_mean",
    "box_mm",
    "coverage",
    "empty_rim",
    "extent_overlap",
    "itk_image",
    "resample",
]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class RigidTransform:
    """A rotation and a shift that take points of the reference to points of another series.

    Parameters
    ----------
    matrix
        4×4; RAS+ mm of the reference to RAS+ mm of the other series.

    Raises
    ------
    GeometryError
        The matrix is not 4×4, or its upper left 3×3 block is no rotation, as one that mirrors.
    """

    matrix: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not _is_rotation(matrix[:3, :3]):
            raise GeometryError("a rigid transform needs a 4x4 matrix with a rotation in it")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def identity(cls) -> RigidTransform:
        """The transform between series whose coordinates agree."""
        return cls(np.eye(4))

    @property
    def is_identity(self) -> bool:
        """Whether it moves nothing."""
        return bool(np.array_equal(self.matrix, np.eye(4)))

    @property
    def rotation_degrees(self) -> float:
        """The angle of the rotation, in degrees.

        >>> RigidTransform.identity().rotation_degrees
        0.0
        """
        cosine = (np.trace(self.matrix[:3, :3]) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    def apply(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Points of the reference, shape (..., 3) in RAS+ mm, to points of the other series."""
        points = np.asarray(points_mm, dtype=np.float64)
        return np.asarray(points @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def to_itk(self, centre_mm: npt.ArrayLike = (0.0, 0.0, 0.0)) -> sitk.Euler3DTransform:
        """The same in SimpleITK's LPS coordinates, turning about a point given in RAS+ mm."""
        lps = _LPS @ self.matrix @ _LPS
        centre = _LPS[:3, :3] @ np.asarray(centre_mm, dtype=np.float64)
        transform = sitk.Euler3DTransform()
        transform.SetCenter(centre.tolist())
        transform.SetMatrix(lps[:3, :3].ravel().tolist(), 1e-6)
        transform.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
        return transform

    @classmethod
    def from_itk(cls, transform: sitk.Euler3DTransform) -> RigidTransform:
        """A SimpleITK transform of LPS coordinates in RAS+ mm."""
        rotation = np.array(transform.GetMatrix()).reshape(3, 3)
        centre = np.array(transform.GetCenter())
        lps = np.eye(4)
        lps[:3, :3] = rotation
        lps[:3, 3] = np.array(transform.GetTranslation()) + centre - rotation @ centre
        return cls(_LPS @ lps @ _LPS)

    def shift_mm(self, at_mm: npt.ArrayLike) -> float:
        """How far one point of the reference is moved, in mm."""
        return float(np.linalg.norm(self.apply(at_mm) - np.asarray(at_mm)))


def _is_rotation(matrix: npt.NDArray[np.float64]) -> bool:
    return bool(np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6) and np.linalg.det(matrix) > 0)


def resample(volume: Volume, grid: Grid, transform: RigidTransform | None = None) -> Volume:
    """Interpolate a volume linearly onto another grid; 0 outside its own extent.

    Parameters
    ----------
    transform
        From coordinates of ``grid`` to coordinates of ``volume``; None where they agree.

    Returns
    -------
    Volume
        With the series of ``volume``. The very same intensities, not interpolated, where
        the grids coincide and nothing is moved.
    """
    moves = transform is not None and not transform.is_identity
    if not moves and volume.grid.is_close(grid):
        return Volume(volume.intensities, grid, volume.series)
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(0.0)
    resampler.SetTransform((transform or RigidTransform.identity()).to_itk())
    resampler.SetSize(grid.shape)
    spacing, origin, direction = _lps_geometry(grid)
    resampler.SetOutputSpacing(spacing)
    resampler.SetOutputOrigin(origin)
    resampler.SetOutputDirection(direction)
    image = resampler.Execute(itk_image(volume))
    intensities = np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    return Volume(intensities, grid, volume.series)


def coverage(source: Grid, grid: Grid, transform: RigidTransform | None = None) -> Mask:
    """Which voxels of a grid lie inside the extent of another one.

    Parameters
    ----------
    source
        The grid that a volume comes from.
    transform
        From coordinates of ``grid`` to coordinates of ``source``; None where they agree.

    Returns
    -------
    Mask
        Shape ``grid.shape``; True within half a voxel of the outermost centres of ``source``.

    Examples
    --------
    >>> half = Grid((1, 1, 2), np.eye(4))
    >>> coverage(half, Grid((1, 1, 4), np.eye(4)))[0, 0].tolist()
    [True, True, False, False]
    """
    matrix = (transform or RigidTransform.identity()).matrix
    to_source = np.linalg.inv(source.affine) @ matrix @ grid.affine
    inside = np.ones(grid.shape, dtype=np.bool_)
    axes = np.ogrid[tuple(slice(n) for n in grid.shape)]
    for row, size in zip(to_source[:3], source.shape, strict=True):
        # Axes along which the index hardly changes are left out: most grids are parallel.
        steps = [
            step * axis for step, axis in zip(row[:3], axes, strict=True) if abs(step) * axis.size > 1e-9
        ]
        index = np.asarray(row[3] + sum(steps))
        inside &= (index >= -0.5 - 1e-6) & (index <= size - 0.5 + 1e-6)
    return inside


def empty_rim(volume: Volume) -> Mask:
    """Where a line within a slice, from the image's border on, has met nothing but 0.

    Distortion correction, composing and resampling fill with 0 what was not measured. Air that is
    exactly 0 counts too; dark tissue within the body does not, as skin lies before it.

    Returns
    -------
    Mask
        Shape of the volume's grid.

    Examples
    --------
    >>> from spinemets.volume import Series
    >>> one = np.array([[[0, 0, 0, 0], [0, 5, 5, 5], [0, 5, 0, 5], [0, 5, 5, 5]]])
    >>> rim = empty_rim(Volume(one, Grid((1, 4, 4), np.diag([4.0, 1.0, 1.0, 1.0])), Series("s", "v")))
    >>> rim.astype(int)[0].tolist()
    [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    """
    values = volume.intensities != 0
    rim = np.zeros(values.shape, dtype=np.bool_)
    for axis in range(3):
        if axis == volume.grid.slice_axis:
            continue
        held = values.any(axis=axis)
        if not held.all():
            rim |= np.expand_dims(~held, axis)
        for towards, away in ((values, rim), (np.flip(values, axis), np.flip(rim, axis))):
            # In a line without values the first is at 0.
            first = towards.argmax(axis=axis)
            thickest = int(first.max())
            if thickest > 0:
                place = np.expand_dims(np.arange(thickest), [other for other in range(3) if other != axis])
                part: list[slice] = [slice(None)] * 3
                part[axis] = slice(thickest)
                away[tuple(part)] |= place < np.expand_dims(first, axis)
    return rim


def extent_overlap(first: Grid, second: Grid) -> float:
    """How much two grids share of the smaller one's extent, along the worst of x, y and z.

    Measured on the boxes around the grids, so that an axial stack across a sagittal slab
    counts as fully overlapping though each covers a small part of the other.

    Examples
    --------
    >>> lower = np.eye(4); lower[2, 3] = 5
    >>> extent_overlap(Grid((10, 10, 10), np.eye(4)), Grid((10, 10, 10), lower))
    0.5
    """
    low_first, high_first = box_mm(first)
    low_second, high_second = box_mm(second)
    shared = np.minimum(high_first, high_second) - np.maximum(low_first, low_second)
    smaller = np.minimum(high_first - low_first, high_second - low_second)
    return float(np.clip(shared / smaller, 0, 1).min())


def block_mean(volume: Volume, spacing_mm: float) -> Volume:
    """Average whole blocks of voxels so that no spacing is much below ``spacing_mm``.

    Axes that are coarser already stay; voxels that fill no whole block are cut off.
    """
    wanted = np.round(spacing_mm / np.array(volume.grid.spacing_mm)).astype(int)
    blocks = np.clip(wanted, 1, volume.grid.shape)
    i, j, k = (int(size // block) for size, block in zip(volume.grid.shape, blocks, strict=True))
    a, b, c = (int(block) for block in blocks)
    whole = volume.intensities[: i * a, : j * b, : k * c]
    affine = np.array(volume.grid.affine)
    affine[:3, 3] = volume.grid.to_world((blocks - 1) / 2)
    affine[:3, :3] *= blocks
    means = whole.reshape(i, a, j, b, k, c).mean(axis=(1, 3, 5))
    return Volume(means, Grid((i, j, k), affine), volume.series)


def itk_image(volume: Volume) -> sitk.Image:
    """A volume as a SimpleITK image in LPS coordinates."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.intensities.transpose(2, 1, 0)))
    spacing, origin, direction = _lps_geometry(volume.grid)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def _lps_geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """Spacing, origin and row-major direction as SimpleITK takes them."""
    lps = _LPS @ grid.affine
    spacing = np.array(grid.spacing_mm)
    return spacing.tolist(), lps[:3, 3].tolist(), (lps[:3, :3] / spacing).ravel().tolist()


def box_mm(grid: Grid) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest and highest RAS+ mm of a grid, its outer voxels' faces included."""
    ends = [(-0.5, n - 0.5) for n in grid.shape]
    corners = grid.to_world(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))
    return corners.min(axis=0), corners.max(axis=0)
