"""Joins measurement and numbering, honours the user's anchors, and words the doubts."""

from __future__ import annotations

import logging
from itertools import groupby, pairwise

import numpy as np

from spinemets.anatomy import VertebralLevel
from spinemets.config import Anchor, LevelConfig
from spinemets.errors import ConfigError
from spinemets.findings import LevelAlternative, Vertebra
from spinemets.levels.measures import BodyMeasures, measure_spine
from spinemets.levels.numbering import LEVELS, Numbering
from spinemets.levels.spurious import number_vertebrae
from spinemets.segmented import SpineSegmentation

__all__ = ["label_levels", "level_cautions"]

_log = logging.getLogger(__name__)

_LEAST_ALTERNATIVE = 0.01
_ANCHOR_REACH_MM = 50.0
_MISSED_GAP = 1.6  # centroid distance against the usual one
_L = VertebralLevel


def label_levels(segmentation: SpineSegmentation, config: LevelConfig) -> tuple[Vertebra, ...]:
    """Name every vertebra instance, with the probability of the name.

    The numbering of the whole column is the likeliest admissible one: a Viterbi path through
    C1..S5 in which T13, L6, an absent T12 or L5 and missed vertebrae are rare steps. The
    confidence of a name is its probability summed over all admissible numberings.

    Returns
    -------
    tuple of Vertebra
        Head to foot; empty where no vertebra was found. An instance without any body voxel is
        left out, and so is what is more likely no vertebra (``levels.spurious``).
        A vertebra counts as fully visible unless its body touches the image's border
        at the head, foot, front or back; sagittal series often end beside the bodies, which
        does not count.

    Raises
    ------
    ConfigError
        An anchor names no vertebra, or no admissible numbering honours all anchors.
    """
    measures = measure_spine(segmentation)
    if not measures.bodies:
        if config.anchors:
            raise ConfigError("a level was anchored, but no vertebra was found; remove the anchor")
        return ()
    fixed = _fixed_levels(config.anchors, measures.bodies, segmentation)
    column = number_vertebrae(measures, segmentation.evidence, fixed, config)
    if column is None:
        given = ", ".join(f"{anchor.level.value}={anchor.place}" for anchor in config.anchors)
        raise ConfigError(
            f"no possible numbering of the {len(measures.bodies)} vertebrae found honours the anchors "
            f"{given}; check the level and the place of each"
        )
    numbering = column.numbering
    names = [LEVELS[rank].value for rank in numbering.path]
    _log.info("%d vertebrae named %s to %s", len(names), names[0], names[-1])
    return tuple(_vertebra(body, place, numbering) for place, body in enumerate(column.measures.bodies))


def _fixed_levels(
    anchors: tuple[Anchor, ...], bodies: tuple[BodyMeasures, ...], segmentation: SpineSegmentation
) -> dict[int, VertebralLevel]:
    """Instance -> level, of the vertebrae that the user is sure of."""
    fixed: dict[int, VertebralLevel] = {}
    for anchor in anchors:
        instance = _anchored(anchor, bodies, segmentation).instance
        if fixed.get(instance, anchor.level) is not anchor.level:
            raise ConfigError(
                f"anchors {fixed[instance].value} and {anchor.level.value} name the same vertebra; "
                "give one of them"
            )
        fixed[instance] = anchor.level
    return fixed


def _anchored(
    anchor: Anchor, bodies: tuple[BodyMeasures, ...], segmentation: SpineSegmentation
) -> BodyMeasures:
    """The body of the vertebra that an anchor speaks of."""
    if isinstance(anchor.place, str):
        whole = [body for body in bodies if body.fully_visible and not body.is_sacrum]
        if not whole:
            raise ConfigError(
                f"anchor {anchor.level.value}={anchor.place}: no vertebra lies wholly inside the image; "
                "anchor a point instead, as in L5=X,Y,Z"
            )
        return whole[0] if anchor.place == "highest" else whole[-1]
    index = np.rint(segmentation.grid.to_index(anchor.place)).astype(np.intp)
    if ((index >= 0) & (index < np.array(segmentation.grid.shape))).all():
        instance = int(segmentation.vertebrae[tuple(index)])
        inside = [body for body in bodies if body.instance == instance]
        if inside:
            return inside[0]
    distances = [float(np.linalg.norm(np.subtract(body.centroid_mm, anchor.place))) for body in bodies]
    nearest = int(np.argmin(distances))
    if distances[nearest] > _ANCHOR_REACH_MM:
        raise ConfigError(
            f"anchor {anchor.level.value}={anchor.place}: the nearest vertebra is "
            f"{distances[nearest]:.0f} mm away; give a point inside a vertebra in RAS+ mm"
        )
    return bodies[nearest]


def _vertebra(body: BodyMeasures, place: int, numbering: Numbering) -> Vertebra:
    chosen = numbering.path[place]
    chances = numbering.marginals[place]
    others = [rank for rank in np.argsort(-chances) if rank != chosen and chances[rank] >= _LEAST_ALTERNATIVE]
    return Vertebra(
        instance=body.instance,
        level=LEVELS[chosen],
        confidence=float(min(1.0, chances[chosen])),
        alternatives=tuple(LevelAlternative(LEVELS[rank], float(chances[rank])) for rank in others),
        centroid_mm=body.centroid_mm,
        fully_visible=body.fully_visible,
    )


def level_cautions(vertebrae: tuple[Vertebra, ...], config: LevelConfig) -> tuple[str, ...]:
    """What a reader must know of the numbering, in plain sentences; nothing where there is none."""
    if not vertebrae:
        return ()
    cautions = [*_uncertain(vertebrae, config), *_unusual(vertebrae)]
    names = {vertebra.level for vertebra in vertebrae}
    if not names & {_L.C1, _L.C2, _L.S1} and not config.anchors:
        cautions.append(
            "Neither C2 nor the sacrum was found, so the levels rest on vertebral shape, the conus and the "
            "network's impression of regions. Anchor a level to be sure."
        )
    return tuple(cautions)


def _uncertain(vertebrae: tuple[Vertebra, ...], config: LevelConfig) -> list[str]:
    """A sentence for each run of doubtful names; sure ones may lie between two."""
    runs = groupby(vertebrae, lambda vertebra: vertebra.confidence < config.review_confidence)
    return [_doubt(tuple(run)) for is_doubtful, run in runs if is_doubtful]


def _doubt(doubtful: tuple[Vertebra, ...]) -> str:
    first, last = doubtful[0], doubtful[-1]
    least = min(vertebra.confidence for vertebra in doubtful)
    which = first.level.value if first is last else f"{first.level.value} to {last.level.value}"
    words = f"The numbering of {which} is uncertain (lowest confidence {least:.2f})"
    if not first.alternatives or not last.alternatives:
        return f"{words}."
    others = [vertebra.alternatives[0].level.value for vertebra in (first, last)]
    other = others[0] if first is last else f"{others[0]} to {others[1]}"
    return f"{words}; the next likeliest reading is {other}."


def _unusual(vertebrae: tuple[Vertebra, ...]) -> list[str]:
    """Supernumerary, absent and missed vertebrae."""
    cautions = [
        f"A supernumerary {vertebra.level.value} was found; check the count against the whole spine."
        for vertebra in vertebrae
        if vertebra.level.is_supernumerary
    ]
    lengths = [
        float(np.linalg.norm(np.subtract(a.centroid_mm, b.centroid_mm))) for a, b in pairwise(vertebrae)
    ]
    usual = [level for level in LEVELS if not level.is_supernumerary]
    for place, (upper, lower) in enumerate(pairwise(vertebrae)):
        between = [level.value for level in usual if upper.level < level < lower.level]
        if not between:
            continue
        near = [lengths[i] for i in range(max(0, place - 2), min(len(lengths), place + 3)) if i != place]
        wide = bool(near) and lengths[place] > _MISSED_GAP * float(np.median(near))
        if wide or between not in (["T12"], ["L5"]):
            *others, last = between
            names = f"{', '.join(others)} and {last} were" if others else f"{last} was"
            cautions.append(f"{names} not found between {upper.level.value} and {lower.level.value}.")
        else:
            cautions.append(
                f"{between[0]} seems to be absent: {upper.level.value} is followed by {lower.level.value}."
            )
    return cautions
