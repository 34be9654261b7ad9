"""Lesions of all three compartments, implanted into any labelled scan.

An implanted lesion is a rough ellipsoid (or a whole vertebra) confined to what its kind can
invade, blended in with a partial-volume edge, at a signal that its weighting calls for:
marrow-replacing disease is dark on T1 and bright on STIR and fat-suppressed T2, variable on T2,
enhances with gadolinium, and is dark everywhere when sclerotic.

The anatomy beneath keeps its name: a lesion in a body leaves it a body, one in the cord leaves
it cord, a nodule in the sac leaves it sac. Only disease that grows into the canal from outside
takes the sac's place there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Compartment, Structure
from spinemets.findings import PointMm
from spinemets.simulation.shapes import Box, blob, smooth_noise
from spinemets.volume import Mask, Weighting

__all__ = [
    "ImplantOptions",
    "Implanted",
    "LesionPlan",
    "PlannedLesion",
    "References",
    "implant_lesions",
    "measure_references",
    "plan_lesions",
    "render_lesions",
]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_BONE = (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS, Structure.SACRUM)
_CANAL = (Structure.THECAL_SAC, Structure.CORD)
# What a lesion of each compartment replaces, and which of References stands in for it.
_HOSTS = {
    Compartment.EXTRADURAL: (_BONE, "marrow"),
    Compartment.INTRADURAL_EXTRAMEDULLARY: ((Structure.THECAL_SAC,), "csf"),
    Compartment.INTRAMEDULLARY: ((Structure.CORD,), "cord"),
}
_MINIMUM_VOXELS = 6
_HALO_CHANCE = 0.7
_CLEAR_IN_CSF = 0.3  # of the contrast of CSF and marrow
_FAINT_IN_CORD = 0.5  # of what disease of marrow stands out by
_LOCAL = (1, 5, 5)  # voxels: no lesion is smaller, and an eye sees no less at once
_LOCAL_SHARE = 0.6  # of which have to be bone


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


@dataclass(frozen=True, slots=True)
class References:
    """The signal of normal tissue in one scan, in the scan's own units.

    ``spread`` is the robust standard deviation of the marrow of bodies.
    """

    marrow: float
    spread: float
    csf: float
    cord: float
    soft_tissue: float
    fat: float


@dataclass(frozen=True, slots=True, eq=False)
class Implanted:
    """A scan with lesions put in.

    Attributes
    ----------
    image, structures
        As given, with the lesions' changes.
    lesions
        uint8, 0 or the lesion's number.
    compartments
        Of lesion 1, 2, ...
    """

    image: Array
    structures: Labels
    lesions: Labels
    compartments: tuple[Compartment, ...]


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


def measure_references(image: Array, structures: Labels) -> References:
    """Median signals of normal tissue; where a tissue is absent, the nearest stand-in."""

    def quantile(mask: Mask, q: float, default: float) -> float:
        values = image[mask]
        return float(np.quantile(values, q)) if values.size > 20 else default

    overall = float(np.median(image))
    body = structures == Structure.VERTEBRAL_BODY
    marrow = quantile(body, 0.5, overall)
    spread = _half_width(image[body])
    disc = quantile(structures == Structure.DISC, 0.4, overall)
    # Where no cord is labelled, a disc is the soft tissue that resembles it.
    cord = quantile(structures == Structure.CORD, 0.5, disc)
    sac = structures == Structure.THECAL_SAC
    # CSF is the end of the sac's range that is farther from the cord: bright on T2, dark on T1.
    low, high = quantile(sac, 0.15, overall), quantile(sac, 0.85, overall)
    csf = high if abs(high - cord) >= abs(low - cord) else low
    background = image[structures == Structure.BACKGROUND]
    fat = float(np.quantile(background, 0.9)) if background.size else overall
    return References(marrow, max(spread, 1e-3), csf, cord, disc, fat)


def _spreads_of_bone(image: Array, structures: Labels) -> dict[Structure, float]:
    """How bone differs from place to place, arches far more than bodies; 0 where it is hardly in view."""
    return {bone: _half_width(_local_means(image, structures == bone)) for bone in _BONE}


def _half_width(values: Array) -> float:
    """Half of what the middle 68 % of the values span; 0 for a handful of values."""
    if values.size <= 20:
        return 0.0
    low, high = np.quantile(values, (0.16, 0.84))
    return float(high - low) / 2


def _local_means(image: Array, tissue: Mask) -> Array:
    """In-plane means of a tissue (n,), about each of its voxels that has enough of it around."""
    share = ndimage.uniform_filter(tissue.astype(np.float32), _LOCAL)
    enough = tissue & (share > _LOCAL_SHARE)
    within = ndimage.uniform_filter(image * tissue, _LOCAL)
    return np.asarray(within[enough] / share[enough], dtype=np.float32)


def implant_lesions(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    weighting: Weighting,
    options: ImplantOptions,
    rng: np.random.Generator,
) -> Implanted:
    """Put lesions into a labelled scan, where its anatomy allows them.

    At least one is tried; one that would keep fewer than six voxels is left out.

    Parameters
    ----------
    image
        float32, shape (left-right, back-front, foot-head).
    structures
        uint8 of the same shape; values of ``Structure``.
    weighting
        Decides the lesions' signal; ``UNKNOWN`` lets it be brighter or darker.

    Returns
    -------
    Implanted
        New arrays; the ones given are not changed.
    """
    plan = plan_lesions(structures, spacing_mm, options, rng)
    return render_lesions(image, structures, spacing_mm, weighting, plan, rng)


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


def render_lesions(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    weighting: Weighting,
    plan: LesionPlan,
    rng: np.random.Generator,
) -> Implanted:
    """Give planned lesions the signal that one weighting shows of them.

    Parameters
    ----------
    image, structures
        The scan without lesions, on the grid that the plan was drawn on. Not changed.

    Returns
    -------
    Implanted
        The image with lesions; structures and masks are the plan's.
    """
    image = image.copy()
    references, spreads = measure_references(image, structures), _spreads_of_bone(image, structures)
    for lesion in plan.lesions:
        host = _host_of(image[lesion.box], structures[lesion.box], lesion, references, spreads)
        target = _target_signal(references, host, weighting, lesion.compartment, plan.sclerotic, rng)
        image[lesion.box] = _blend(image[lesion.box], lesion.weight, target, references, spacing_mm, rng)
        if plan.sclerotic and lesion.compartment is Compartment.EXTRADURAL and _shows_fluid(weighting):
            _add_halo(image[lesion.box], structures[lesion.box], lesion.weight, references, spacing_mm, rng)
    compartments = tuple(lesion.compartment for lesion in plan.lesions)
    return Implanted(image, plan.structures, plan.masks, compartments)


def _draw_compartment(structures: Labels, options: ImplantOptions, rng: np.random.Generator) -> Compartment:
    counts = np.bincount(structures.ravel(), minlength=len(Structure))
    weights = np.array(options.compartment_weights) * (
        counts[list(_BONE)].sum() > 0,
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
    bone = rng.choice(_BONE, p=np.array(options.bone_weights) / sum(options.bone_weights))
    centre = _random_voxel(structures == bone, rng)
    if centre is None:
        centre = _random_voxel(np.isin(structures, _BONE), rng)
    if centre is None:
        return None
    radii = _draw_radii(options.radius_mm, rng)
    box, level = blob(structures.shape, spacing_mm, centre, radii, rng)
    allowed = np.isin(structures[box], _BONE)
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
    radius = np.exp(rng.uniform(np.log(smallest), np.log(7.0)))
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
    radius = np.exp(rng.uniform(*np.log(limits_mm)))
    return np.asarray(radius * rng.uniform(0.7, 1.3, size=3))


def _edge(level: Array, radii_mm: npt.NDArray[np.float64]) -> Array:
    """Fill fraction from a level function: a ramp about 1.2 mm wide over the surface."""
    return np.asarray(np.clip(0.5 + (1 - level) * float(np.mean(radii_mm)) / 1.2, 0, 1), dtype=np.float32)


def _random_voxel(mask: Mask, rng: np.random.Generator) -> npt.NDArray[np.intp] | None:
    flat = np.flatnonzero(mask)
    if not flat.size:
        return None
    return np.array(np.unravel_index(int(rng.choice(flat)), mask.shape))


@dataclass(frozen=True, slots=True)
class _Host:
    """The tissue that a lesion replaces: its median signal there, and how it varies elsewhere."""

    signal: float
    spread: float


def _host_of(
    patch: Array,
    structures: Labels,
    lesion: PlannedLesion,
    references: References,
    spreads: Mapping[Structure, float],
) -> _Host:
    """The host of a lesion.

    Marrow of arches and of the sacrum may look unlike that of bodies, and differ more from place
    to place; disease there has to stand out from what is around it.
    """
    hosts, usual = _HOSTS[lesion.compartment]
    inside = (lesion.weight > 0.5) & np.isin(structures, hosts)
    if not inside.any():
        return _Host(float(getattr(references, usual)), references.spread)
    counts = np.bincount(structures[inside], minlength=len(Structure))
    tissue = Structure(int(counts.argmax()))
    spread = max(references.spread, spreads.get(tissue, 0.0))
    return _Host(float(np.median(patch[inside])), spread)


def _target_signal(
    references: References,
    host: _Host,
    weighting: Weighting,
    compartment: Compartment,
    sclerotic: bool,
    rng: np.random.Generator,
) -> float:
    """The lesion's mean signal, at least 2.5 spreads of its host away from it.

    A nodule in the sac stands out from CSF as clearly as other tissue does. Disease of the cord
    may be fainter: by its relaxation times it lies a third of the way from cord to CSF.
    """
    r, usual = references, host.signal
    enhanced = weighting in (Weighting.T1_GD, Weighting.T1_FS_GD)
    t1 = weighting in (Weighting.T1, Weighting.DIXON_FAT)
    fluid = max(r.csf, usual + 4 * r.spread) if not t1 else r.csf
    if compartment is Compartment.EXTRADURAL:
        dark = min(r.soft_tissue, r.cord, usual - 4 * r.spread)
        bright = max(fluid, r.fat if enhanced else fluid, usual + 4 * r.spread)
        darker = sclerotic or t1 or (not _is_bright(weighting) and rng.random() < 0.5)
        end = dark if darker else bright
        share = rng.uniform(0.45, 1.05) if darker else rng.uniform(0.3, 0.95)
    elif compartment is Compartment.INTRADURAL_EXTRAMEDULLARY:
        end = max(r.fat, r.marrow) if enhanced else r.cord
        share = rng.uniform(0.6, 1.1)
    else:
        end = max(r.fat, r.marrow) if enhanced else r.csf
        share = rng.uniform(0.25, 1.0)
    shift = share * (end - usual)
    floor = 2.5 * host.spread
    if compartment is Compartment.INTRADURAL_EXTRAMEDULLARY:
        floor = max(floor, _CLEAR_IN_CSF * abs(r.csf - r.marrow))
    elif compartment is Compartment.INTRAMEDULLARY:
        floor *= _FAINT_IN_CORD
    if abs(shift) < floor:
        shift = float(np.copysign(floor, shift))
    return usual + shift


def _is_bright(weighting: Weighting) -> bool:
    return weighting in (
        Weighting.T2_FS,
        Weighting.T1_GD,
        Weighting.T1_FS_GD,
        Weighting.PD_FS,
        Weighting.DIXON_WATER,
    )


def _shows_fluid(weighting: Weighting) -> bool:
    return weighting in (Weighting.T2, Weighting.T2_FS, Weighting.PD_FS, Weighting.DIXON_WATER)


def _add_halo(
    patch: Array,
    structures: Labels,
    weight: Array,
    references: References,
    spacing_mm: PointMm,
    rng: np.random.Generator,
) -> None:
    """A bright rim in place, in the bone around most sclerotic metastases.

    Notes
    -----
    The halo sign: Schweitzer et al. 1993, "Bull's-eyes and halos", Radiology 188:249-252.
    """
    if rng.random() > _HALO_CHANCE:
        return
    thickness = rng.uniform(1.0, 3.0)
    inside = weight > 0.5
    distance = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    rim = (
        np.clip(1 - np.abs(distance - thickness / 2) / thickness, 0, 1) * np.isin(structures, _BONE) * ~inside
    )
    rise = rng.uniform(0.3, 0.8) * max(references.csf - references.marrow, 4 * references.spread)
    patch += (rim * rise).astype(np.float32)


def _blend(
    patch: Array,
    weight: Array,
    target: float,
    references: References,
    spacing_mm: PointMm,
    rng: np.random.Generator,
) -> Array:
    """The patch with the lesion's signal, its texture, and the noise that was there before."""
    inside = weight > 0.5
    host = float(np.median(patch[inside]))
    texture = rng.uniform(0.2, 1.2) * references.spread
    signal = target + texture * smooth_noise(patch.shape, spacing_mm, rng.uniform(2.0, 7.0), rng)
    if rng.random() < 0.2:
        depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
        # A rim in the lesion's own signal around a centre nearer to what was there before.
        signal += rng.uniform(0.2, 0.6) * (host - target) * (depth > 0.5 * max(depth.max(), 1e-3))
    signal += rng.uniform(0.3, 1.0) * (patch - host) * (np.abs(patch - host) < 3 * references.spread)
    return np.maximum(patch * (1 - weight) + signal * weight, min(0.0, float(patch.min()))).astype(np.float32)
