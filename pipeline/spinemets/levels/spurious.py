"""Instances that are no vertebrae: a piece of one, or a blob beside the column.

Either would shift every name above it. An instance that is much lower than its neighbours, or
beside one of them, is therefore numbered twice, with it and without, and the likelier reading
counts; where both are nearly as likely, the names' probabilities say so. A collapsed vertebra
stays, for without it there is a gap.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from spinemets.anatomy import VertebralLevel
from spinemets.config import LevelConfig
from spinemets.levels.measures import BodyMeasures, SpineMeasures
from spinemets.levels.numbering import Numbering, number_column
from spinemets.segmented import InstanceEvidence

__all__ = ["NumberedColumn", "number_vertebrae"]

_log = logging.getLogger(__name__)

_LOW = 0.8  # of its neighbours' median height
_BESIDE = 0.4  # share of the lower one's height at which two are beside each other
_NEIGHBOURS = 3
_LOG_DENSITY = float(np.log(0.3))  # of the log height, depth or width of what is no vertebra


@dataclass(frozen=True, slots=True, eq=False)
class NumberedColumn:
    """What was taken for vertebrae, and its numbering: one row of it per body."""

    measures: SpineMeasures
    numbering: Numbering


def number_vertebrae(
    measures: SpineMeasures,
    evidence: tuple[InstanceEvidence, ...],
    fixed: dict[int, VertebralLevel],
    config: LevelConfig,
) -> NumberedColumn | None:
    """Number the column without the instances that are more likely no vertebrae.

    Parameters
    ----------
    evidence
        Of all instances, by instance - 1.
    fixed
        Instance -> level, as anchored by the user; such an instance is a vertebra.

    Returns
    -------
    NumberedColumn or None
        None where no admissible numbering honours ``fixed``.
    """
    chosen = _numbered(measures, evidence, fixed, config)
    while chosen is None and not fixed and len(measures.bodies) > 1:
        # More bodies than a spine has: some are none.
        measures = _without(measures, _lowest(measures))
        chosen = _numbered(measures, evidence, fixed, config)
    while chosen is not None and (suspects := _suspects(chosen.measures, fixed)):
        gain, suspect, shorter = max(
            (_compared(chosen, suspect, evidence, fixed, config) for suspect in suspects),
            key=lambda compared: compared[0],
        )
        if shorter is None:
            break
        if gain <= 0:
            return _mixed(chosen, shorter, float(expit(gain)))
        _log.warning("instance %d is taken for no vertebra", suspect.instance)
        chosen = _mixed(shorter, chosen, float(expit(-gain)))
    return chosen


def _numbered(
    measures: SpineMeasures,
    evidence: tuple[InstanceEvidence, ...],
    fixed: dict[int, VertebralLevel],
    config: LevelConfig,
) -> NumberedColumn | None:
    opinions = tuple(evidence[body.instance - 1] for body in measures.bodies)
    places = {
        place: fixed[body.instance] for place, body in enumerate(measures.bodies) if body.instance in fixed
    }
    numbering = number_column(measures, opinions, places, config)
    return None if numbering is None else NumberedColumn(measures, numbering)


def _suspects(measures: SpineMeasures, fixed: dict[int, VertebralLevel]) -> list[BodyMeasures]:
    """Free bodies, wholly in view, that are much lower than their neighbours or beside one."""
    bodies = measures.bodies
    suspects = []
    for place, body in enumerate(bodies):
        if body.is_sacrum or not body.fully_visible or body.instance in fixed or len(bodies) < 3:
            continue
        near = bodies[max(0, place - _NEIGHBOURS) : place] + bodies[place + 1 : place + 1 + _NEIGHBOURS]
        usual = float(np.median([_height(other) for other in near]))
        if _height(body) < _LOW * usual or any(_are_beside(body, other) for other in near):
            suspects.append(body)
    return suspects


def _height(body: BodyMeasures) -> float:
    return body.bottom_mm - body.top_mm


def _are_beside(body: BodyMeasures, other: BodyMeasures) -> bool:
    shared = min(body.bottom_mm, other.bottom_mm) - max(body.top_mm, other.top_mm)
    return shared > _BESIDE * min(_height(body), _height(other))


def _compared(
    column: NumberedColumn,
    suspect: BodyMeasures,
    evidence: tuple[InstanceEvidence, ...],
    fixed: dict[int, VertebralLevel],
    config: LevelConfig,
) -> tuple[float, BodyMeasures, NumberedColumn | None]:
    """Log odds that a suspect is no vertebra, the suspect, and the column without it."""
    shorter = _numbered(_without(column.measures, suspect), evidence, fixed, config)
    if shorter is None:
        return -np.inf, suspect, None
    measured = sum(size is not None for size in (suspect.height_mm, suspect.depth_mm, suspect.width_mm))
    prior = float(np.log(config.spurious_suspect / (1 - config.spurious_suspect)))
    likelihood = shorter.numbering.log_likelihood - column.numbering.log_likelihood
    return likelihood + prior + config.morphology_weight * measured * _LOG_DENSITY, suspect, shorter


def _mixed(likelier: NumberedColumn, other: NumberedColumn, share: float) -> NumberedColumn:
    """The likelier column, its probabilities mixed with the other one's share."""
    rows = {
        body.instance: row for body, row in zip(other.measures.bodies, other.numbering.marginals, strict=True)
    }
    own = likelier.numbering.marginals
    mixed = [
        (1 - share) * row + share * rows.get(body.instance, row)
        for body, row in zip(likelier.measures.bodies, own, strict=True)
    ]
    return replace(likelier, numbering=replace(likelier.numbering, marginals=np.array(mixed)))


def _without(measures: SpineMeasures, body: BodyMeasures) -> SpineMeasures:
    """The measures without one body; at an end, its room is the image's again."""
    bodies = tuple(other for other in measures.bodies if other is not body)
    return replace(
        measures,
        bodies=bodies,
        room_above_mm=measures.room_above_mm + bodies[0].top_mm - measures.bodies[0].top_mm,
        room_below_mm=measures.room_below_mm + measures.bodies[-1].bottom_mm - bodies[-1].bottom_mm,
    )


def _lowest(measures: SpineMeasures) -> BodyMeasures:
    """The free body of least height."""
    free = [body for body in measures.bodies if not body.is_sacrum] or list(measures.bodies)
    lowest = min(free, key=_height)
    _log.warning(
        "%d bodies are more than can be named; one of %.0f mm is left out",
        len(measures.bodies),
        _height(lowest),
    )
    return lowest
