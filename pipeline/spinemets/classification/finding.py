"""Joins compartment, levels and doubts into a finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spinemets.anatomy import Compartment, Structure, VertebralLevel
from spinemets.classification.compartment import BASE_RATES, CompartmentOpinion, judge_compartment
from spinemets.classification.envelopes import Envelope, model_envelope
from spinemets.classification.place import LevelsTouched, find_levels
from spinemets.config import ClassificationConfig
from spinemets.findings import Lesion, LesionFinding, ReviewTopic, Vertebra
from spinemets.segmented import SpineSegmentation
from spinemets.spinal_axis import SpinalAxis, fit_spinal_axis
from spinemets.surroundings import labels_about
from spinemets.volume import Grid, Mask, Weighting
from spinemets.voxels import SAMPLED_VOXELS, voxels_of

__all__ = ["classify"]

Array = npt.NDArray[np.float64]
_Doubt: TypeAlias = tuple[ReviewTopic, str]

_WINDOW_MM = 70.0  # of the column above and below a lesion that it is judged by
_LESION_PROBABILITY = 0.5  # voxels of other lesions, which no outline may be fitted to
_NEAR_CANAL_MM = 25.0
_BEYOND_CANAL_MM = 10.0  # a tapering end may be labelled short by less
_WITH_DENS_MM = 24.0  # C2 without its dens is lower
_DENS_FRONT_MM, _DENS_SIDE_MM = (7.0, 24.0), 9.0  # of the canal's middle: where the dens is, with a rim
_OUTSIDE = 0.8  # of a lesion's voxels and of those around it, in no structure
_EMPTY = 0.5  # of a lesion's voxels, where every series is exactly 0


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """A lesion and the stretch of spine about it.

    Attributes
    ----------
    segmentation
        Of the stretch alone, without series.
    voxels
        Shape (n, 3): the lesion's voxels on the stretch's grid.
    axis
        The canal's curve there.
    lesion_mm
        Shape (n, 3): the lesion's voxels along and across that curve.
    """

    segmentation: SpineSegmentation
    voxels: npt.NDArray[np.int32]
    axis: SpinalAxis
    lesion_mm: Array


def classify(
    lesion: Lesion,
    segmentation: SpineSegmentation,
    vertebrae: tuple[Vertebra, ...],
    config: ClassificationConfig,
) -> LesionFinding:
    """Find a lesion's compartment, levels and region, and say what a reader must check.

    Returns
    -------
    LesionFinding
        ``needs_review`` where the compartment is a near tie, the level's name or the lesion
        itself is unsure, it may be of a vertebra whose body is not seen, no vertebra or no canal is
        near, the image's border cuts the lesion, it seems to lie outside the spine or in an empty
        part of the images, or is bright on T1.
    """
    scene = _look(lesion, segmentation)
    opinion, levels = BASE_RATES, LevelsTouched((), None)
    if scene is not None:
        sac, cord = _envelopes(scene)
        if sac is not None or not _is_near_canal(scene):
            opinion = judge_compartment(scene.lesion_mm, sac, cord, segmentation.grid, config)
        if opinion.best is not Compartment.EXTRADURAL and _is_beyond_canal(scene):
            opinion = BASE_RATES
        levels = find_levels(scene.voxels, scene.lesion_mm, scene.segmentation, scene.axis, vertebrae, config)
    doubts = _doubts(lesion, opinion, levels, config) + _cut_off(lesion, segmentation)
    if scene is not None:
        doubts += _unseen_level(scene, levels)
    doubts += _unlike_metastases(lesion, segmentation)
    if opinion is BASE_RATES:
        guess = (
            "The thecal sac was not found beside this lesion, so its compartment is a guess: "
            "most metastases are extradural."
        )
        doubts.append((ReviewTopic.COMPARTMENT, guess))
    main = levels.main
    return LesionFinding(
        lesion=lesion,
        levels=tuple(vertebra.level for vertebra in levels.vertebrae),
        main_level=main.level if main else None,
        level_confidence=main.confidence if main else 0.0,
        region=main.level.region if main else None,
        compartment=opinion.best,
        compartment_probabilities=opinion.probabilities,
        compartment_shares=opinion.shares,
        needs_review=bool(doubts),
        review_reasons=tuple(reason for _, reason in doubts),
        review_topics=tuple(dict.fromkeys(topic for topic, _ in doubts)),
    )


def _look(lesion: Lesion, segmentation: SpineSegmentation) -> _Scene | None:
    """Cut the column about a lesion out of the segmentation and fit the canal's curve to it.

    The canal beside the lesion is left out of the fit: a displaced sac must not bend the curve
    that its displacement is measured by.
    """
    part, corner = _crop(lesion, segmentation)
    voxels = (lesion.voxels - corner).astype(np.int32)
    heights = part.grid.to_world(voxels)[:, 2]
    beside = _canal_voxels(part)
    z = part.grid.to_world(beside)[:, 2]
    hidden = beside[(z > heights.min() - 3.0) & (z < heights.max() + 3.0)]
    anatomy = part.anatomy.copy()
    anatomy[tuple(hidden.T)] = Structure.BACKGROUND
    axis = fit_spinal_axis(anatomy, part.grid) or fit_spinal_axis(part.anatomy, part.grid)
    if axis is None:
        return None
    return _Scene(part, voxels, axis, axis.project(part.grid.to_world(voxels)))


def _crop(lesion: Lesion, segmentation: SpineSegmentation) -> tuple[SpineSegmentation, npt.NDArray[np.intp]]:
    """The segmentation within ``_WINDOW_MM`` along the head-foot array axis; its first index."""
    grid = segmentation.grid
    along = int(np.abs(grid.affine[2, :3] / np.array(grid.spacing_mm)).argmax())
    reach = int(np.ceil(_WINDOW_MM / grid.spacing_mm[along]))
    low = max(0, int(lesion.voxels[:, along].min()) - reach)
    high = min(grid.shape[along], int(lesion.voxels[:, along].max()) + reach + 1)
    box: list[slice] = [slice(None)] * 3
    box[along] = slice(low, high)
    corner = np.zeros(3, dtype=np.intp)
    corner[along] = low
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(corner)
    anatomy = segmentation.anatomy[tuple(box)]
    part = replace(
        segmentation,
        grid=Grid((anatomy.shape[0], anatomy.shape[1], anatomy.shape[2]), affine),
        anatomy=anatomy,
        vertebrae=segmentation.vertebrae[tuple(box)],
        lesion_probability=segmentation.lesion_probability[tuple(box)],
        volumes=(),
        covered=(),
    )
    return part, corner


def _envelopes(scene: _Scene) -> tuple[Envelope | None, Envelope | None]:
    """The outlines of sac and cord about the lesion; None where the canal was not seen."""
    part, grid = scene.segmentation, scene.segmentation.grid
    lesions = part.lesion_probability >= _LESION_PROBABILITY
    own = np.zeros(grid.shape, dtype=np.bool_)
    own[tuple(scene.voxels.T)] = True
    others = scene.axis.project(grid.to_world(voxels_of(lesions & ~own)))
    free = ~(lesions | own)
    labelled = _canal_voxels(part)
    labelled_mm = scene.axis.project(grid.to_world(labelled))
    of_cord, seen = part.anatomy[tuple(labelled.T)] == Structure.CORD, free[tuple(labelled.T)]
    if not seen.any():
        return None, None

    def model(structure: Mask) -> Envelope:
        shown, hidden = labelled_mm[structure & seen], labelled_mm[structure & ~seen]
        return model_envelope(shown, hidden, scene.lesion_mm, others, labelled_mm[seen], grid)

    sac_envelope = model(np.ones_like(seen))
    if not sac_envelope.is_present:
        return None, None
    return sac_envelope, model(of_cord) if of_cord.any() else None


def _canal_voxels(part: SpineSegmentation) -> npt.NDArray[np.intp]:
    """Indices (n, 3) of sac and cord."""
    return voxels_of((part.anatomy == Structure.THECAL_SAC) | (part.anatomy == Structure.CORD))


def _is_near_canal(scene: _Scene) -> bool:
    across = np.hypot(scene.lesion_mm[:, 1], scene.lesion_mm[:, 2])
    return bool(across.min() < _NEAR_CANAL_MM)


def _is_beyond_canal(scene: _Scene) -> bool:
    """Whether it lies above or below all that is labelled canal, and some way off: as below the sac's end."""
    part = scene.segmentation
    canal_mm = scene.axis.project(part.grid.to_world(_canal_voxels(part)))
    heights, own = canal_mm[:, 0], scene.lesion_mm[:, 0]
    return bool(max(own.min() - heights.max(), heights.min() - own.max()) > _BEYOND_CANAL_MM)


def _doubts(
    lesion: Lesion, opinion: CompartmentOpinion, levels: LevelsTouched, config: ClassificationConfig
) -> list[_Doubt]:
    """Plain sentences on what a reader must decide, and what each is about."""
    doubts: list[_Doubt] = []
    compartment, level = ReviewTopic.COMPARTMENT, ReviewTopic.LEVEL
    if opinion.margin < config.review_margin:
        ranked = sorted(opinion.probabilities.items(), key=lambda item: -item[1])
        (first, most), (second, less) = ranked[:2]
        sites = f"{first.value} ({most:.2f}) or {second.value} ({less:.2f})"
        doubts.append((compartment, f"The compartment is close to call: {sites}."))
    else:
        others = [site.value for site in opinion.shifted if site is not opinion.best]
        if others:
            off_mm = config.review_shift_sd * config.boundary_sd_mm
            sites = f"{opinion.best.value}, but {others[0]} if the border is off by {off_mm:.1f} mm"
            doubts.append((compartment, f"The lesion lies on a border: {sites}."))
    if levels.main is None:
        doubts.append((level, "No vertebra was found near this lesion, so it has no level."))
    elif levels.main.confidence < config.review_level_confidence:
        others = [alternative.level.value for alternative in levels.main.alternatives[:1]]
        instead = f"; it may be {others[0]}" if others else ""
        name = f"{levels.main.level.value} is uncertain (confidence {levels.main.confidence:.2f}){instead}"
        doubts.append((level, f"The level's name {name}."))
    if lesion.confidence < config.review_lesion_confidence:
        weak = f"The evidence that this is a lesion is weak (confidence {lesion.confidence:.2f})."
        doubts.append((ReviewTopic.EVIDENCE, weak))
    return doubts


def _unseen_level(scene: _Scene, levels: LevelsTouched) -> list[_Doubt]:
    """That it may be of a vertebra of which no body is seen."""
    doubts: list[_Doubt] = []
    if _is_beside_dens(scene, levels.main):
        atlas = "It lies beside the dens, where C1 is, which has no body to be told by; it may be C1."
        doubts.append((ReviewTopic.LEVEL, atlas))
    if levels.hangs_from_above:
        above = "It lies where the arch of a vertebra above the uppermost body hangs down; it may be of that."
        doubts.append((ReviewTopic.LEVEL, above))
    return doubts


def _is_beside_dens(scene: _Scene, main: Vertebra | None) -> bool:
    """Whether most of a lesion called C2 lies at the height of the dens but not in it: there C1 is."""
    if main is None or main.level is not VertebralLevel.C2:
        return False
    part = scene.segmentation
    axis_body = (part.anatomy == Structure.VERTEBRAL_BODY) & (part.vertebrae == main.instance)
    voxels = voxels_of(axis_body, SAMPLED_VOXELS)
    if not len(voxels):
        return False
    top, bottom = np.percentile(scene.axis.project(part.grid.to_world(voxels))[:, 0], (4, 96))
    if bottom - top < _WITH_DENS_MM:
        return False
    along, front, side = scene.lesion_mm.T
    in_dens = (front > _DENS_FRONT_MM[0]) & (front < _DENS_FRONT_MM[1]) & (np.abs(side) < _DENS_SIDE_MM)
    return bool(((along < 0.5 * (top + bottom)) & ~in_dens).mean() > 0.5)


def _cut_off(lesion: Lesion, segmentation: SpineSegmentation) -> list[_Doubt]:
    """That its size is a lower limit, where the image's border cuts it."""
    if not _is_cut(lesion, segmentation.covered):
        return []
    return [(ReviewTopic.EXTENT, "The lesion reaches the image's border, so its size is a lower limit.")]


def _unlike_metastases(lesion: Lesion, segmentation: SpineSegmentation) -> list[_Doubt]:
    """Where it lies and how bright it is, if metastases seldom lie there or are so bright."""
    doubts: list[_Doubt] = []
    if _is_outside(lesion, segmentation):
        outside = "Hardly any vertebra, disc or canal is in or around it; it may lie outside the spine."
        doubts.append((ReviewTopic.EVIDENCE, outside))
    if _is_empty(lesion, segmentation):
        empty = "Most of it lies where the images hold nothing but 0, as in an empty rim; it may be made up."
        doubts.append((ReviewTopic.EVIDENCE, empty))
    t1 = [signal for signal in lesion.signals if signal.weighting == Weighting.T1.value]
    if any(signal.appearance == "bright" and signal.reference == "marrow" for signal in t1):
        bright = (
            "It is brighter than marrow on T1, as fat, a haemangioma or blood is and metastases seldom are."
        )
        doubts.append((ReviewTopic.EVIDENCE, bright))
    return doubts


def _is_outside(lesion: Lesion, segmentation: SpineSegmentation) -> bool:
    """Whether neither the lesion nor what surrounds it is labelled as any structure."""
    parts = labels_about(lesion, segmentation)
    return all((part == Structure.BACKGROUND).mean() > _OUTSIDE for part in parts if len(part))


def _is_empty(lesion: Lesion, segmentation: SpineSegmentation) -> bool:
    """Whether no series has values there: distortion correction and composing fill rims with 0."""
    shown = [volume.intensities[tuple(lesion.voxels.T)] != 0 for volume in segmentation.volumes]
    return bool(shown) and bool((~np.any(shown, axis=0)).mean() > _EMPTY)


def _is_cut(lesion: Lesion, covered: Sequence[Mask]) -> bool:
    """Whether it touches the image's border, or a part without values, at the head, foot, front or back.

    Sagittal series often end within the vertebrae, so that sideways most large lesions do.
    """
    grid = lesion.grid
    at_border = (lesion.voxels == 0) | (lesion.voxels == np.array(grid.shape) - 1)
    directions = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    sideways = int(np.argmax(np.abs(directions[0])))
    at_border[:, sideways] = False
    if at_border.any() or not covered:
        return bool(at_border.any())
    steps = np.delete(np.concatenate([np.eye(3), -np.eye(3)]), (sideways, sideways + 3), axis=0)
    beside = (lesion.voxels[:, None] + steps.astype(np.int32)).reshape(-1, 3)
    return not np.any([mask[tuple(beside.T)] for mask in covered], axis=0).all()
