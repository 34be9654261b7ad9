"""Implicit shapes in millimetres: negative inside, about the distance to the surface.

All functions are vectorised; coordinates are three float arrays of one shape in the
shape's own frame (x right, y front, z up).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinemets.volume import Grid

__all__ = [
    "BodyShape",
    "Capsule",
    "Coordinates",
    "Waves",
    "body_distance",
    "capsule_distance",
    "draw_waves",
    "smooth_waves",
    "world_points",
]

Array = npt.NDArray[np.float32]
Coordinates = tuple[Array, Array, Array]
Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Capsule:
    """A straight rod with rounded ends and an elliptical section.

    Attributes
    ----------
    start, end
        Ends of its axis in mm, in the frame of its vertebra.
    semi_axes_mm
        Half-thickness along x, y and z.
    """

    start: Vector
    end: Vector
    semi_axes_mm: Vector

    def bounds(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Lower and upper corner of a box that holds it, each of shape (3,), in mm."""
        ends = np.array((self.start, self.end))
        return ends.min(axis=0) - self.semi_axes_mm, ends.max(axis=0) + self.semi_axes_mm


@dataclass(frozen=True, slots=True)
class BodyShape:
    """A vertebral body: a superelliptic prism with a waist and concave endplates.

    Attributes
    ----------
    waist
        Share by which the middle is narrower than the endplates.
    concavity_mm
        Depth of the upper and lower endplate's middle.
    squareness
        Exponent of the superellipse, 2 for an ellipse.
    front_loss_mm, middle_loss_mm
        Height lost at the front and in the middle of the upper endplate by a fracture.
    osteophyte_mm
        How far the rims overhang.
    """

    width_mm: float
    depth_mm: float
    height_mm: float
    waist: float = 0.1
    concavity_mm: tuple[float, float] = (1.2, 1.2)
    squareness: float = 2.7
    front_loss_mm: float = 0.0
    middle_loss_mm: float = 0.0
    osteophyte_mm: float = 0.0


def capsule_distance(points: Coordinates, capsule: Capsule) -> Array:
    """Distance to a capsule, exact for round sections and first-order for elliptical ones."""
    axes = np.asarray(capsule.semi_axes_mm, dtype=np.float32)
    start = np.asarray(capsule.start, dtype=np.float32)
    rod = (np.asarray(capsule.end, dtype=np.float32) - start) / axes
    scaled = [(axis - origin) / scale for axis, origin, scale in zip(points, start, axes, strict=True)]
    length_squared = float(rod @ rod)
    if length_squared > 0:
        along = scaled[0] * rod[0] + scaled[1] * rod[1] + scaled[2] * rod[2]
        along = np.clip(along / length_squared, 0.0, 1.0)
        scaled = [axis - along * direction for axis, direction in zip(scaled, rod, strict=True)]
    radius = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    slope = np.sqrt(sum((axis / scale) ** 2 for axis, scale in zip(scaled, axes, strict=True)))
    # Below the centre both vanish; the deepest point is a semi-axis away from the surface.
    return np.asarray(np.where(slope > 1e-6, radius * (radius - 1.0) / np.maximum(slope, 1e-6), -axes.min()))


def body_distance(points: Coordinates, shape: BodyShape) -> tuple[Array, Array]:
    """Distance to a vertebral body, and the normalised radius (1 on its side wall)."""
    x, y, z = points
    height = np.clip(np.abs(z) * (2.0 / shape.height_mm), 0.0, 1.0)
    narrowing = shape.waist * (1.0 - height * height)
    rim = shape.osteophyte_mm * np.clip((height - 0.7) / 0.3, 0.0, 1.0) ** 2
    half_width = shape.width_mm / 2 * (1.0 - narrowing) + 0.6 * rim
    # The rear wall is straighter than the front and the sides.
    front = shape.depth_mm / 2 * (1.0 - narrowing) + rim
    rear = shape.depth_mm / 2 * (1.0 - 0.5 * narrowing) + 0.2 * rim
    half_depth = np.where(y > 0, front, rear)
    power = np.where(y > 0, shape.squareness, shape.squareness + 1.0).astype(np.float32)
    radius = ((np.abs(x) / half_width) ** power + (np.abs(y) / half_depth) ** power) ** (1.0 / power)
    side = (radius - 1.0) * np.minimum(half_width, half_depth)
    bowl = np.clip(1.0 - radius * radius, 0.0, 1.0)
    frontness = np.clip(0.5 + y / shape.depth_mm, 0.0, 1.0)
    top = shape.height_mm / 2 - shape.concavity_mm[0] * bowl
    top = top - shape.front_loss_mm * frontness - shape.middle_loss_mm * bowl
    bottom = -shape.height_mm / 2 + (shape.concavity_mm[1] + 0.4 * shape.middle_loss_mm) * bowl
    distance = np.maximum(side, np.maximum(z - top, bottom - z))
    return np.asarray(distance, dtype=np.float32), np.asarray(radius, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """A smooth random function of space: a sum of plane waves.

    Attributes
    ----------
    wave_vectors
        Shape (n, 3), radians per mm.
    phases
        Shape (n,).
    amplitude
        Of every wave; the function's standard deviation is ``amplitude * sqrt(n / 2)``.
    """

    wave_vectors: Array
    phases: Array
    amplitude: float


def draw_waves(
    rng: np.random.Generator, wavelengths_mm: tuple[float, float], deviation: float, count: int = 6
) -> Waves:
    """Draw a random smooth function with the given range of wavelengths and standard deviation."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.exp(rng.uniform(np.log(wavelengths_mm[0]), np.log(wavelengths_mm[1]), size=(count, 1)))
    vectors = (2 * np.pi * directions / lengths).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    return Waves(vectors, phases, deviation / np.sqrt(count / 2))


def smooth_waves(points: Coordinates, waves: Waves) -> Array:
    """Evaluate a random smooth function at points in mm."""
    total = np.zeros(np.broadcast_shapes(*(axis.shape for axis in points)), dtype=np.float32)
    for (kx, ky, kz), phase in zip(waves.wave_vectors, waves.phases, strict=True):
        total += np.sin(points[0] * kx + points[1] * ky + points[2] * kz + phase)
    return np.asarray(total * np.float32(waves.amplitude))


def world_points(grid: Grid) -> Coordinates:
    """RAS+ mm of every voxel's centre; of an unturned grid as three arrays that broadcast."""
    axes = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    affine = grid.affine
    x, y, z = (
        np.asarray(
            sum(affine[row, i] * axes[i] for i in range(3) if affine[row, i]) + affine[row, 3], np.float32
        )
        for row in range(3)
    )
    return x, y, z
