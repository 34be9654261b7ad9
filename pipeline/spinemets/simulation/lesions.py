"""Lesions of all three compartments, implanted into any labelled scan.

A lesion that ``lesion_places`` has drawn is blended in at a signal that its weighting calls for:
marrow-replacing disease is dark on T1 and bright on STIR and fat-suppressed T2, variable on T2,
enhances with gadolinium, and is dark everywhere when sclerotic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spinemets.anatomy import Compartment, Structure
from spinemets.simulation.lesion_places import ImplantOptions, LesionPlan, PlannedLesion, plan_lesions
from spinemets.simulation.references import BONE, References, measure_references, spreads_of_bone
from spinemets.simulation.shapes import log_uniform, smooth_noise
from spinemets.volume import PointMm, Weighting

__all__ = ["Implanted", "Look", "implant_lesions", "render_lesions"]

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

# What a lesion of each compartment replaces, and which of References stands in for it.
_HOSTS = {
    Compartment.EXTRADURAL: (BONE, "marrow"),
    Compartment.INTRADURAL_EXTRAMEDULLARY: ((Structure.THECAL_SAC,), "csf"),
    Compartment.INTRAMEDULLARY: ((Structure.CORD,), "cord"),
}
_HALO_CHANCE = 0.7
_CLEAR_IN_CSF = 0.3  # of the contrast of CSF and marrow
_FAINT_IN_CORD = 0.5  # of what disease of marrow stands out by
_CLEAR = 2.5  # spreads of its host that a lesion stands out by
# What enhances is as bright as fat, and at least so many times as bright as marrow: fat that is suppressed
# is nothing to measure it by.
_ENHANCING: Mapping[Weighting, float] = {Weighting.T1_GD: 1.0, Weighting.T1_FS_GD: 2.5}
_MODERATE = (0.3, 1.0)  # of the host's signal
_CLEAR_ON_T2 = 1.8  # and where disease may be hardly brighter or darker than marrow: of its local means


@dataclass(frozen=True, slots=True)
class Look:
    """How plain lesions are to see.

    Attributes
    ----------
    faintest
        The least contrast of a lesion is drawn between this share of the usual one and all of it.
    untextured
        Chance that a lesion adds no texture to that of its host. A network that sees none of these
        learns the texture and overlooks lesions that are smooth.
    moderate
        Chance that disease of bone on T2 is only 0.3 to 1 of its host's signal brighter or darker.
    darker
        Chance that disease of bone which may be brighter or darker is darker.
    """

    faintest: float = 1.0
    untextured: float = 0.0
    moderate: float = 0.0
    darker: float = 0.5


_CLEAR_LOOK = Look()


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


def implant_lesions(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    weighting: Weighting,
    options: ImplantOptions,
    rng: np.random.Generator,
    look: Look = _CLEAR_LOOK,
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
    return render_lesions(image, structures, spacing_mm, weighting, plan, rng, look)


def render_lesions(
    image: Array,
    structures: Labels,
    spacing_mm: PointMm,
    weighting: Weighting,
    plan: LesionPlan,
    rng: np.random.Generator,
    look: Look = _CLEAR_LOOK,
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
    references, spreads = measure_references(image, structures), spreads_of_bone(image, structures)
    for lesion in plan.lesions:
        host = _host_of(image[lesion.box], structures[lesion.box], lesion, references, spreads)
        # Nothing is drawn where there is no choice: what a seed gave before, it gives still.
        least = rng.uniform(look.faintest, 1.0) if look.faintest < 1 else 1.0
        smooth = look.untextured > 0 and rng.random() < look.untextured
        darker = _chance_of_darker(weighting, plan.sclerotic, look)
        target = _target_signal(references, host, weighting, lesion.compartment, darker, least, rng)
        on_t2 = weighting is Weighting.T2 and lesion.compartment is Compartment.EXTRADURAL
        if look.moderate > 0 and rng.random() < look.moderate and on_t2:
            target = _nearer(target, host, least, rng)
        texture = 0.0 if smooth else rng.uniform(0.2, 1.2) * references.spread
        image[lesion.box] = _blend(
            image[lesion.box], lesion.weight, target, texture, references, spacing_mm, rng
        )
        if plan.sclerotic and lesion.compartment is Compartment.EXTRADURAL and _shows_fluid(weighting):
            _add_halo(image[lesion.box], structures[lesion.box], lesion.weight, references, spacing_mm, rng)
    compartments = tuple(lesion.compartment for lesion in plan.lesions)
    return Implanted(image, plan.structures, plan.masks, compartments)


@dataclass(frozen=True, slots=True)
class _Host:
    """The tissue that a lesion replaces: its median signal there, and how it varies elsewhere.

    ``spread`` is that of its voxels, or of their local means if those differ more; ``from_place_to_place``
    is the spread of local means alone.
    """

    signal: float
    spread: float
    from_place_to_place: float


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
        return _Host(float(getattr(references, usual)), references.spread, references.spread)
    counts = np.bincount(structures[inside], minlength=len(Structure))
    tissue = Structure(int(counts.argmax()))
    local = spreads.get(tissue) or references.spread
    return _Host(float(np.median(patch[inside])), max(references.spread, local), local)


def _target_signal(
    references: References,
    host: _Host,
    weighting: Weighting,
    compartment: Compartment,
    chance_of_darker: float,
    least: float,
    rng: np.random.Generator,
) -> float:
    """The lesion's mean signal, at least 2.5 spreads of its host away from it, times ``least``.

    Without fat suppression T2 shows disease of bone as little or much brighter or darker than marrow;
    there 1.8 spreads of what an eye takes in at once are enough.

    A nodule in the sac stands out from CSF as clearly as other tissue does. Disease of the cord
    may be fainter: by its relaxation times it lies a third of the way from cord to CSF.
    """
    r, usual = references, host.signal
    times = _ENHANCING.get(weighting)
    enhancing = None if times is None else max(r.fat, times * r.marrow)
    t1 = _is_dark(weighting)
    fluid = max(r.csf, usual + 4 * r.spread) if not t1 else r.csf
    floor = _CLEAR * host.spread
    if compartment is Compartment.EXTRADURAL:
        dark = min(r.soft_tissue, r.cord, usual - 4 * r.spread)
        bright = max(fluid, fluid if enhancing is None else enhancing, usual + 4 * r.spread)
        either = not t1 and not _is_bright(weighting)
        # Nothing is drawn where there is no choice.
        darker = chance_of_darker == 1 or (chance_of_darker > 0 and rng.random() < chance_of_darker)
        end = dark if darker else bright
        if either:
            floor = _CLEAR_ON_T2 * host.from_place_to_place
        # Brighter by little far more often than as bright as fluid.
        share = (
            rng.uniform(least * (0.3 if either else 0.45), 1.05) if darker else log_uniform((0.1, 0.95), rng)
        )
    elif compartment is Compartment.INTRADURAL_EXTRAMEDULLARY:
        end = r.cord if enhancing is None else enhancing
        share = rng.uniform(0.4, 1.1)
    else:
        end = r.csf if enhancing is None else enhancing
        share = rng.uniform(0.25, 1.0)
    shift = share * (end - usual)
    if compartment is Compartment.INTRADURAL_EXTRAMEDULLARY:
        floor = max(floor, _CLEAR_IN_CSF * abs(r.csf - r.marrow))
    elif compartment is Compartment.INTRAMEDULLARY:
        floor *= _FAINT_IN_CORD
    floor *= least
    if abs(shift) < floor:
        shift = float(np.copysign(floor, shift))
    return usual + shift


def _nearer(target: float, host: _Host, least: float, rng: np.random.Generator) -> float:
    """A signal on the same side of the host as ``target``, at most as far off, and at least what is clear."""
    farthest = target - host.signal
    clear = least * _CLEAR_ON_T2 * host.from_place_to_place
    shift = max(clear, log_uniform(_MODERATE, rng) * host.signal)
    return host.signal + float(np.copysign(min(shift, abs(farthest)), farthest))


def _chance_of_darker(weighting: Weighting, sclerotic: bool, look: Look) -> float:
    """That disease of bone is darker than its host, where its weighting and kind do not decide it."""
    if sclerotic or _is_dark(weighting):
        return 1.0
    return 0.0 if _is_bright(weighting) else look.darker


def _is_dark(weighting: Weighting) -> bool:
    return weighting in (Weighting.T1, Weighting.DIXON_FAT)


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
        np.clip(1 - np.abs(distance - thickness / 2) / thickness, 0, 1) * np.isin(structures, BONE) * ~inside
    )
    rise = rng.uniform(0.3, 0.8) * max(references.csf - references.marrow, 4 * references.spread)
    patch += (rim * rise).astype(np.float32)


def _blend(
    patch: Array,
    weight: Array,
    target: float,
    texture: float,
    references: References,
    spacing_mm: PointMm,
    rng: np.random.Generator,
) -> Array:
    """The patch with the lesion's signal, its texture, and the noise that was there before."""
    inside = weight > 0.5
    host = float(np.median(patch[inside]))
    signal = target + texture * smooth_noise(patch.shape, spacing_mm, rng.uniform(2.0, 7.0), rng)
    if rng.random() < 0.2:
        depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
        # A rim in the lesion's own signal around a centre nearer to what was there before.
        signal += rng.uniform(0.2, 0.6) * (host - target) * (depth > 0.5 * max(depth.max(), 1e-3))
    signal += rng.uniform(0.3, 1.0) * (patch - host) * (np.abs(patch - host) < 3 * references.spread)
    return np.maximum(patch * (1 - weight) + signal * weight, min(0.0, float(patch.min()))).astype(np.float32)
