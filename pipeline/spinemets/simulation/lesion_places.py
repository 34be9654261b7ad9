"""Where a patient's lesions lie: drawn for any labelled scan, once for all of its sequences.

A lesion is a rough ellipsoid (or a whole vertebra) confined to what its kind can invade, with a
partial-volume edge. The anatomy beneath keeps its name: a lesion in a body leaves it a body, one in
the cord leaves it cord, a nodule in the sac leaves it sac. Only disease that grows into the canal
from outside takes the sac's place there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Compartment, Structure
from spinemets.simulation.references import BONE
from spinemets.simulation.shapes import Box, blob, log_uniform, smooth_noise
from spinemets.volume import Mask, PointMm

__all__ = ["ImplantOptions", "LesionPlan", "PlannedLesion", "plan_lesions"]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_CANAL = (Structure.THECAL_SAC, Structure.CORD)
_MINIMUM_VOXELS = 6


@dataclass(frozen=True, slots=True)
class ImplantOptions:
    """How many lesions of which kind.

    Attributes
    ----------
    mean_number
        Poisson mean of further lesions after the first.
    compartment_weights
        Odds of extradural, intradural-extramedullary and intramedullary.
    bone_weights
        Odds that an extradural lesion starts in a body, in posterior elements, in the sacrum.
    radius_mm
        Smallest and largest semi-axis; drawn log-uniformly.
    whole_vertebra
        Chance that an extradural lesion replaces its whole vertebra.
    epidural_extension
        Chance that a lesion of a body grows into the canal.
    sclerotic
        Chance that a patient's lesions of bone are dark on every weighting.
    """

    mean_number: float = 1.5
    compartment_weights: tuple[float, float, float] = (0.74, 0.13, 0.13)
    bone_weights: tuple[float, float, float] = (0.72, 0.2, 0.08)
    radius_mm: tuple[float, float] = (3.0, 16.0)
    whole_vertebra: float = 0.1
    epidural_extension: float = 0.2
    sclerotic: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class PlannedLesion:
    """One lesion's place.

    Attributes
    ----------
    box
        Where ``weight`` lies in the scan.
    weight
        float32, how much of each voxel the lesion fills, 0..1.
    """

    compartment: Compartment
    box: Box
    weight: Array


@dataclass(frozen=True, slots=True, eq=False)
class LesionPlan:
    """The lesions of one patient, before they are given a signal.

    Attributes
    ----------
    structures
        uint8, the scan's, as the lesions change them.
    masks
        uint8, 0 or the lesion's number, from 1.
    sclerotic
        Whether the patient's lesions of bone are dark on every weighting.
    """

    lesions: tuple[PlannedLesion, ...]
    structures: Labels
    masks: Labels
    sclerotic: bool


def plan_lesions(
    structures: Labels, spacing_mm: PointMm, options: ImplantOptions, rng: np.random.Generator
) -> LesionPlan:
    """Draw where a patient's lesions lie; one plan serves every sequence of a study.

    Parameters
    ----------
    structures
        uint8, shape (left-right, back-front, foot-head); values of ``Structure``. Not changed.
    """
    structures = structures.copy()
    lesions = np.zeros(structures.shape, dtype=np.uint8)
    hosts = cc3d.connected_components(structures == Structure.VERTEBRAL_BODY, connectivity=6)
    planned: list[PlannedLesion] = []
    # Lesions of one patient tend to look alike: sclerotic or not is drawn once.
    sclerotic = rng.random() < options.sclerotic
    for _ in range(1 + int(rng.poisson(options.mean_number))):
        compartment = _draw_compartment(structures, options, rng)
        shape = _draw_shape(structures, hosts, spacing_mm, compartment, options, rng)
        if shape is None:
            continue
        box, weight = shape
        weight[lesions[box] > 0] = 0
        inside = weight > 0.5
        if inside.sum() < _MINIMUM_VOXELS:
            continue
        planned.append(PlannedLesion(compartment, box, weight))
        lesions[box][inside] = len(planned)
        if compartment is Compartment.EXTRADURAL:
            structures[box][inside & np.isin(structures[box], _CANAL)] = Structure.BACKGROUND
        elif compartment is Compartment.INTRAMEDULLARY:
            structures[box][inside] = Structure.CORD
    return LesionPlan(tuple(planned), structures, lesions, sclerotic)


def _draw_compartment(structures: Labels, options: ImplantOptions, rng: np.random.Generator) -> Compartment:
    counts = np.bincount(structures.ravel(), minlength=len(Structure))
    weights = np.array(options.compartment_weights) * (
        counts[list(BONE)].sum() > 0,
        counts[Structure.THECAL_SAC] > 50,
        counts[Structure.CORD] > 50,
    )
    if not weights.any():
        return Compartment.EXTRADURAL
    return tuple(Compartment)[int(rng.choice(3, p=weights / weights.sum()))]


def _draw_shape(
    structures: Labels,
    hosts: npt.NDArray[np.generic],
    spacing_mm: PointMm,
    compartment: Compartment,
    options: ImplantOptions,
    rng: np.random.Generator,
) -> tuple[Box, Array] | None:
    """A box and, in it, how much of each voxel the lesion fills (0..1); None where none fits."""
    if compartment is not Compartment.EXTRADURAL:
        return _intradural_shape(structures, spacing_mm, compartment, options, rng)
    if rng.random() < options.whole_vertebra and hosts.max() > 0:
        return _whole_body(hosts, spacing_mm, rng)
    bone = rng.choice(BONE, p=np.array(options.bone_weights) / sum(options.bone_weights))
    centre = _random_voxel(structures == bone, rng)
    if centre is None:
        centre = _random_voxel(np.isin(structures, BONE), rng)
    if centre is None:
        return None
    radii = _draw_radii(options.radius_mm, rng)
    box, level = blob(structures.shape, spacing_mm, centre, radii, rng)
    allowed = np.isin(structures[box], BONE)
    if rng.random() < options.epidural_extension:
        depth = rng.uniform(2.0, 7.0)
        near_bone = ndimage.distance_transform_edt(~allowed, sampling=spacing_mm) < depth
        # It pushes the cord aside rather than eating it; the cord stays.
        allowed |= near_bone & np.isin(structures[box], (Structure.THECAL_SAC, Structure.BACKGROUND))
    return box, _edge(level, radii) * allowed


def _intradural_shape(
    structures: Labels,
    spacing_mm: PointMm,
    compartment: Compartment,
    options: ImplantOptions,
    rng: np.random.Generator,
) -> tuple[Box, Array] | None:
    inside_cord = compartment is Compartment.INTRAMEDULLARY
    host = Structure.CORD if inside_cord else Structure.THECAL_SAC
    centre = _random_voxel(structures == host, rng)
    if centre is None:
        return None
    smallest = options.radius_mm[0] * 0.8
    radius = log_uniform((smallest, 7.0), rng)
    # Along the canal such lesions are longer than wide.
    length = radius * rng.uniform(1.0, 3.0 if inside_cord else 2.0)
    box, level = _upright_blob(structures.shape, spacing_mm, centre, (radius, radius, length), rng)
    allowed = structures[box] == host
    if inside_cord:
        swelling = rng.uniform(0.0, 1.6)
        in_sac = structures[box] == Structure.THECAL_SAC
        allowed |= in_sac & (ndimage.distance_transform_edt(~allowed, sampling=spacing_mm) <= swelling)
    return box, _edge(level, np.full(3, radius)) * allowed


def _upright_blob(
    shape: tuple[int, ...],
    spacing_mm: PointMm,
    centre: npt.NDArray[np.intp],
    radii_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[Box, Array]:
    """A rough ellipsoid whose long axis is head-foot."""
    stretch = radii_mm[2] / radii_mm[0]
    squeezed = (spacing_mm[0], spacing_mm[1], spacing_mm[2] / stretch)
    return blob(shape, squeezed, centre, (radii_mm[0],) * 3, rng, roughness=0.2)


def _whole_body(
    hosts: npt.NDArray[np.generic], spacing_mm: PointMm, rng: np.random.Generator
) -> tuple[Box, Array] | None:
    boxes = ndimage.find_objects(hosts.astype(np.int32))
    chosen = int(rng.integers(len(boxes)))
    if boxes[chosen] is None:
        return None
    x, y, z = boxes[chosen]
    box = (x, y, z)
    body = hosts[box] == chosen + 1
    level = 0.8 + 0.25 * smooth_noise(body.shape, spacing_mm, 12.0, rng)
    return box, _edge(level, np.full(3, 12.0)) * body


def _draw_radii(limits_mm: tuple[float, float], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.asarray(log_uniform(limits_mm, rng) * rng.uniform(0.7, 1.3, size=3))


def _edge(level: Array, radii_mm: npt.NDArray[np.float64]) -> Array:
    """Fill fraction from a level function: a ramp about 1.2 mm wide over the surface."""
    return np.asarray(np.clip(0.5 + (1 - level) * float(np.mean(radii_mm)) / 1.2, 0, 1), dtype=np.float32)


def _random_voxel(mask: Mask, rng: np.random.Generator) -> npt.NDArray[np.intp] | None:
    flat = np.flatnonzero(mask)
    if not flat.size:
        return None
    return np.array(np.unravel_index(int(rng.choice(flat)), mask.shape))
