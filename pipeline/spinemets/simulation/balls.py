"""Lesions of the plainest kind: balls of one signal and whole bodies, to measure detection with.

A network that learnt from ``lesions`` may have learnt that module's habits. What is drawn here shares
nothing with it but where bone and canal are: no rough outline, no texture, and a signal that is a
multiple of what it replaces, as disease most often shows it. Nothing is trained on it.
"""

from __future__ import annotations

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Compartment, Structure
from spinemets.simulation.lesion_places import LesionPlan, PlannedLesion
from spinemets.simulation.lesions import Implanted
from spinemets.simulation.shapes import Box, squared_distance
from spinemets.volume import Mask, PointMm, Weighting

__all__ = ["plan_balls", "render_balls"]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_BALLS = 2  # a study
_APART_MM = 30.0
_EDGE_MM = 1.0
_WHOLE_BODY_CHANCE = 0.15
# The structure that a ball lies in: how often, and its smallest and largest radius in mm.
_PLACES: dict[Structure, tuple[float, tuple[float, float]]] = {
    Structure.VERTEBRAL_BODY: (0.5, (6.0, 11.0)),
    Structure.POSTERIOR_ELEMENTS: (0.2, (5.0, 9.0)),
    Structure.SACRUM: (0.1, (6.0, 11.0)),
    Structure.THECAL_SAC: (0.1, (3.5, 6.0)),
    Structure.CORD: (0.1, (2.5, 5.0)),
}
_COMPARTMENTS = {
    Structure.THECAL_SAC: Compartment.INTRADURAL_EXTRAMEDULLARY,
    Structure.CORD: Compartment.INTRAMEDULLARY,
}
_DARKER, _BRIGHTER = (0.35, 0.65), (1.5, 2.5)  # times the signal of what is replaced
_KEPT_DETAIL = 0.5  # of what is finer than 2 mm


def plan_balls(structures: Labels, spacing_mm: PointMm, rng: np.random.Generator) -> LesionPlan:
    """Draw where two balls, or a ball and a whole body, lie.

    Parameters
    ----------
    structures
        uint8, shape (left-right, back-front, foot-head); values of ``Structure``. Not changed.
    """
    masks = np.zeros(structures.shape, dtype=np.uint8)
    planned: list[PlannedLesion] = []
    for _ in range(_BALLS):
        far = _far_from(masks, spacing_mm)
        if rng.random() < _WHOLE_BODY_CHANCE:
            drawn = _whole_body(structures, far, rng)
        else:
            drawn = _ball(structures, far, spacing_mm, rng)
        if drawn is not None:
            planned.append(drawn)
            masks[drawn.box][drawn.weight > 0.5] = len(planned)
    return LesionPlan(tuple(planned), structures, masks, sclerotic=False)


def render_balls(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    weighting: Weighting,
    plan: LesionPlan,
    rng: np.random.Generator,
) -> Implanted:
    """Give balls a signal: a multiple of their host's.

    Parameters
    ----------
    image, structures
        The scan without lesions, on the grid that the plan was drawn on. Not changed.
    weighting
        T1 shows them darker in bone and brighter in the canal, STIR the other way round. On T2 they are
        darker in the sac, brighter in the cord, and either in bone.
    """
    image = image.copy()
    smooth = ndimage.gaussian_filter(image, 2.0 / np.asarray(spacing_mm))
    for lesion in plan.lesions:
        inside = lesion.weight > 0.5
        host = float(np.median(image[lesion.box][inside]))
        limits = _BRIGHTER if _is_brighter(lesion.compartment, weighting, rng) else _DARKER
        detail = image[lesion.box] - smooth[lesion.box]
        signal = host * rng.uniform(*limits) + _KEPT_DETAIL * detail
        image[lesion.box] += lesion.weight * (signal - image[lesion.box])
    compartments = tuple(lesion.compartment for lesion in plan.lesions)
    return Implanted(image, structures, plan.masks, compartments)


def _is_brighter(compartment: Compartment, weighting: Weighting, rng: np.random.Generator) -> bool:
    t1 = weighting is Weighting.T1
    if compartment is Compartment.INTRADURAL_EXTRAMEDULLARY:
        return t1
    if compartment is Compartment.INTRAMEDULLARY:
        return not t1
    return not t1 and (weighting is not Weighting.T2 or bool(rng.random() < 0.5))


def _ball(
    structures: Labels, far: Mask, spacing_mm: PointMm, rng: np.random.Generator
) -> PlannedLesion | None:
    """A ball around a voxel that lies deep in its structure, cut off where that ends."""
    there = [structure for structure in _PLACES if (structures == structure).any()]
    if not there:
        return None
    odds = np.array([_PLACES[structure][0] for structure in there])
    structure = there[int(rng.choice(len(there), p=odds / odds.sum()))]
    host = structures == structure
    depth = ndimage.distance_transform_edt(host, sampling=spacing_mm)
    radius = float(rng.uniform(*_PLACES[structure][1]))
    places = np.argwhere(far & host & (depth >= min(radius / 2, 0.8 * float(depth.max()))))
    if not len(places):
        return None
    centre = places[rng.integers(len(places))]
    reach = np.ceil((radius + _EDGE_MM) / np.asarray(spacing_mm)).astype(int)
    low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, structures.shape)
    box: Box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    distance_mm = np.sqrt(squared_distance(box, centre, (1.0, 1.0, 1.0), spacing_mm))
    weight = np.clip((radius - distance_mm) / _EDGE_MM + 0.5, 0, 1) * host[box]
    compartment = _COMPARTMENTS.get(structure, Compartment.EXTRADURAL)
    return PlannedLesion(compartment, box, weight.astype(np.float32))


def _whole_body(structures: Labels, far: Mask, rng: np.random.Generator) -> PlannedLesion | None:
    bodies = cc3d.connected_components(structures == Structure.VERTEBRAL_BODY, connectivity=6)
    boxes = ndimage.find_objects(bodies.astype(np.int32))
    free = [
        number
        for number, box in enumerate(boxes, start=1)
        if box is not None and far[box][bodies[box] == number].all()
    ]
    if not free:
        return None
    number = free[int(rng.integers(len(free)))]
    x, y, z = boxes[number - 1]
    body = (bodies[x, y, z] == number).astype(np.float32)
    return PlannedLesion(Compartment.EXTRADURAL, (x, y, z), body)


def _far_from(masks: Labels, spacing_mm: PointMm) -> Mask:
    if not masks.any():
        return np.ones(masks.shape, dtype=np.bool_)
    return np.asarray(ndimage.distance_transform_edt(masks == 0, sampling=spacing_mm) > _APART_MM)
