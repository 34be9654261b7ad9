"""The admissible numberings of a column and their probabilities.

A hidden Markov chain over C1..S5: states are levels, a step goes to the next level, rarely to
a supernumerary or past an absent one, and may jump over vertebrae that were not found.
Observations are body sizes, the network's opinion on regions, the sacrum, the conus and the
empty room at both ends. Body size as a whole differs between people, so the chain is summed
over a grid of scales: a mid-thoracic view then stays as uncertain as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, ndtr

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.config import LevelConfig
from spinemets.levels.measures import BodyMeasures, SpineMeasures
from spinemets.segmented import InstanceEvidence

__all__ = ["LEVELS", "Numbering", "number_column"]

Array = npt.NDArray[np.float64]

LEVELS = tuple(VertebralLevel)
_L = VertebralLevel
_RANK = {level: rank for rank, level in enumerate(LEVELS)}

# Body height (posterior), end-plate depth and width in mm. C3-L5: mean dissection values of
# Panjabi et al., Spine 1991;16:861 (cervical), 1991;16:888 (thoracic), 1992;17:299 (lumbar).
# C2 with its dens, C1's anterior arch, T13, L6 and the sacral bodies are rounded estimates.
_SIZES_MM: dict[VertebralLevel, tuple[float, float, float]] = {
    _L.C1: (10.0, 7.0, 20.0),
    _L.C2: (36.0, 15.0, 17.0),
    _L.C3: (11.6, 15.0, 15.8),
    _L.C4: (11.4, 15.3, 17.2),
    _L.C5: (11.4, 15.2, 17.5),
    _L.C6: (10.9, 16.4, 18.5),
    _L.C7: (12.8, 18.1, 21.8),
    _L.T1: (14.1, 18.5, 24.5),
    _L.T2: (15.6, 19.6, 24.9),
    _L.T3: (15.7, 22.7, 24.6),
    _L.T4: (16.2, 23.3, 24.5),
    _L.T5: (16.2, 24.3, 24.9),
    _L.T6: (17.4, 26.0, 26.2),
    _L.T7: (18.2, 27.4, 27.8),
    _L.T8: (18.7, 27.9, 29.5),
    _L.T9: (19.3, 29.3, 30.6),
    _L.T10: (20.2, 30.5, 31.9),
    _L.T11: (21.3, 31.9, 34.9),
    _L.T12: (22.7, 32.8, 39.0),
    _L.T13: (23.2, 33.4, 40.0),
    _L.L1: (23.8, 34.1, 41.2),
    _L.L2: (24.3, 34.6, 42.6),
    _L.L3: (23.8, 35.2, 44.1),
    _L.L4: (24.1, 35.5, 46.6),
    _L.L5: (22.9, 34.7, 47.3),
    _L.L6: (22.5, 34.5, 47.5),
    _L.S1: (26.0, 28.0, 48.0),
    _L.S2: (22.0, 20.0, 36.0),
    _L.S3: (19.0, 15.0, 28.0),
    _L.S4: (16.0, 12.0, 24.0),
    _L.S5: (14.0, 9.0, 20.0),
}
_LOG_SIZES = np.log([_SIZES_MM[level] for level in LEVELS])
# spread of log height, depth and width about a person's own scale, with the share of
# measurements that a fracture, osteophytes or a poor mask spoil
_LOG_SIZE_SD = (0.12, 0.10, 0.12)
_SPOILT = (0.10, 0.05, 0.10)
_SPOILT_DENSITY = 0.6
_TOO_TALL_DENSITY = 0.1  # a body loses height to a fracture, but gains none: C2 stays recognisable
_SCALES = np.linspace(-0.33, 0.45, 14)
_SCALE_MEAN, _SCALE_SD = 0.06, 0.13  # MRI bodies of living adults against the dissected ones

# The conus' tip: mean in the lower third of L1, range mid-T12 to upper L3, normally distributed
# (504 adults; Saifuddin et al., Spine 1998;23:1452); widened by half a vertebra for the mask.
_CONUS_MEAN = 20.55
_CONUS_SD = 0.75
_CONUS_FLOOR = 0.03

_EVIDENCE_FLOOR = 0.1
_NOT_SACRAL = {_L.S1: -3.0, _L.S2: -5.0, _L.S3: -6.0, _L.S4: -6.0, _L.S5: -6.0}
_SACRUM_MISLABELLED = -9.0
_UNSEEN_AT_END = 0.25  # chance that an end vertebra with room in the image is not found
_UNSEEN_SACRUM = 0.5
_END_FLOOR = 0.02
_GAP_LOG_SD = 0.18
_LEAST_GAP = 0.1
_GAP_FLOOR = 1e-3
_MAXIMUM_MISSED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Numbering:
    """The likeliest path and every vertebra's marginal probabilities.

    Attributes
    ----------
    path
        Rank in ``LEVELS`` of each instance; an admissible sequence.
    marginals
        Shape (instances, levels); rows sum to 1.
    log_likelihood
        Of what was observed, over all admissible numberings; up to a constant.
    """

    path: tuple[int, ...]
    marginals: Array
    log_likelihood: float


def number_column(
    measures: SpineMeasures,
    evidence: tuple[InstanceEvidence, ...],
    fixed: dict[int, VertebralLevel],
    config: LevelConfig,
) -> Numbering | None:
    """Find the likeliest admissible numbering and the probability of each name.

    Parameters
    ----------
    evidence
        One entry per measured body, in the same order.
    fixed
        Place in ``measures.bodies`` -> level, as anchored by the user.

    Returns
    -------
    Numbering or None
        None where no admissible numbering honours ``fixed``.
    """
    bodies = measures.bodies
    emission = _observations(measures, evidence, config)
    for place, level in fixed.items():
        allowed = np.arange(len(LEVELS)) == _RANK[level]
        emission[:, place] = np.where(allowed, emission[:, place], -np.inf)
    steps = [_step(gap, config) for gap in _gap_ratios(bodies)]
    prior = np.log(_normal_density(_SCALES, _SCALE_MEAN, _SCALE_SD))
    forward = [emission[:, 0] + prior[:, None]]
    for place, step in enumerate(steps, start=1):
        forward.append(logsumexp(forward[-1][:, :, None] + step, axis=1) + emission[:, place])
    total = logsumexp(forward[-1])
    if not np.isfinite(total):
        return None
    backward = [np.zeros_like(forward[-1])]
    for place in range(len(bodies) - 1, 0, -1):
        ahead = (backward[0] + emission[:, place])[:, None, :]
        backward.insert(0, logsumexp(ahead + steps[place - 1], axis=2))
    joint = np.array([logsumexp(f + b - total, axis=0) for f, b in zip(forward, backward, strict=True)])
    marginals = np.exp(joint)
    marginals /= marginals.sum(axis=1, keepdims=True)
    return Numbering(_best_path(emission, steps, prior), marginals, float(total))


def _best_path(emission: Array, steps: list[Array], prior: Array) -> tuple[int, ...]:
    """Viterbi over levels, at the scale that makes the best path likeliest."""
    score = emission[:, 0] + prior[:, None]
    origins = []
    for place, step in enumerate(steps, start=1):
        options = score[:, :, None] + step
        origins.append(options.argmax(axis=1))
        score = options.max(axis=1) + emission[:, place]
    scale, level = np.unravel_index(int(score.argmax()), score.shape)
    path = [int(level)]
    for origin in reversed(origins):
        path.append(int(origin[scale, path[-1]]))
    return tuple(reversed(path))


def _observations(
    measures: SpineMeasures, evidence: tuple[InstanceEvidence, ...], config: LevelConfig
) -> Array:
    """Log likelihood of what is seen, shape (scales, instances, levels)."""
    bodies = measures.bodies
    emission = np.zeros((len(_SCALES), len(bodies), len(LEVELS)))
    for place, (body, opinion) in enumerate(zip(bodies, evidence, strict=True)):
        emission[:, place] += config.morphology_weight * _size_likelihood(body)
        emission[:, place] += config.evidence_weight * _region_likelihood(opinion)
        emission[:, place] += _label_likelihood(body)
        if place > 0:
            emission[:, place, _RANK[_L.C1]] = -np.inf
    emission[:, 0] += _end_likelihood(measures, upper=True) + _presence(config)
    emission[:, -1] += _end_likelihood(measures, upper=False)
    place, likelihood = _conus_likelihood(measures)
    emission[:, place] += likelihood
    return emission


def _presence(config: LevelConfig) -> Array:
    """Log share of people who have each level, shape (levels,): the prior of the first one."""
    share = np.ones(len(LEVELS))
    share[_RANK[_L.T12]] -= config.missing_t12_prevalence
    share[_RANK[_L.T13]] = config.t13_prevalence
    share[_RANK[_L.L5]] -= config.missing_l5_prevalence
    share[_RANK[_L.L6]] = config.l6_prevalence
    return np.asarray(np.log(share))


def _size_likelihood(body: BodyMeasures) -> Array:
    """Shape (scales, levels)."""
    total = np.zeros((len(_SCALES), len(LEVELS)))
    measured = (body.height_mm, body.depth_mm, body.width_mm)
    for column, size in enumerate(measured):
        if size is None or size <= 0:
            continue
        expected = _LOG_SIZES[None, :, column] + _SCALES[:, None]
        fit = _normal_density(np.log(size), expected, _LOG_SIZE_SD[column])
        too_tall = (np.log(size) > expected) & (column == 0)
        spoilt = np.where(too_tall, _TOO_TALL_DENSITY, _SPOILT_DENSITY)
        total += np.log((1 - _SPOILT[column]) * fit + _SPOILT[column] * spoilt)
    return total


def _region_likelihood(opinion: InstanceEvidence) -> Array:
    """Shape (levels,): zero everywhere where the network has no opinion."""
    by_region = {
        SpineRegion.CERVICAL: opinion.cervical,
        SpineRegion.THORACIC: opinion.thoracic,
        SpineRegion.LUMBAR: opinion.lumbar,
        SpineRegion.SACRAL: opinion.sacral,
    }
    chance = np.array([by_region[level.region] for level in LEVELS])
    chance[_RANK[_L.C2]] = opinion.c2
    chance[_RANK[_L.C1]] = max(opinion.c2, opinion.cervical)
    return np.asarray(np.log((1 - _EVIDENCE_FLOOR) * chance + _EVIDENCE_FLOOR * 0.2) - np.log(0.2))


def _label_likelihood(body: BodyMeasures) -> Array:
    """Shape (levels,): the structure's label, sacrum or free body."""
    if body.is_sacrum:
        return np.where(np.arange(len(LEVELS)) == _RANK[_L.S1], 0.0, _SACRUM_MISLABELLED)
    return np.array([_NOT_SACRAL.get(level, 0.0) for level in LEVELS])


def _place_of(level: VertebralLevel) -> float:
    """Count from C1 = 1 of a usual spine; T13 and L6 lie between their neighbours."""
    if level is _L.T13:
        return 19.6
    if level is _L.L6:
        return 24.6
    extra = (level > _L.T13) + (level > _L.L6)
    return float(level.position + 1 - extra)


_PLACES = np.array([_place_of(level) for level in LEVELS])


def _conus_likelihood(measures: SpineMeasures) -> tuple[int, Array]:
    """The instance it speaks of, and its log likelihood of shape (levels,)."""
    bodies, conus = measures.bodies, measures.conus
    if conus.place == "unknown":
        return 0, np.zeros(len(LEVELS))
    if conus.place == "above":
        chance = ndtr((_PLACES - _CONUS_MEAN) / _CONUS_SD)
        return 0, np.log(chance + 5 * _CONUS_FLOOR)
    tops = np.array([body.top_mm for body in bodies])
    place = int(np.clip(np.searchsorted(tops, conus.along_mm) - 1, 0, len(bodies) - 1))
    pitch = tops[place + 1] - tops[place] if place + 1 < len(bodies) else 1.3 * bodies[place].nominal_mm
    offset = float(np.clip((conus.along_mm - tops[place]) / pitch, -3.0, 3.0))
    if conus.place == "below":
        chance = ndtr((_CONUS_MEAN - _PLACES - offset) / _CONUS_SD)
        return place, np.log(chance + _CONUS_FLOOR)
    density = _normal_density(_PLACES + offset, _CONUS_MEAN, _CONUS_SD)
    return place, np.log(density + _CONUS_FLOOR)


def _end_likelihood(measures: SpineMeasures, *, upper: bool) -> Array:
    """Shape (levels,): nothing found beyond an end, although the image goes on."""
    body = measures.bodies[0 if upper else -1]
    room = measures.room_above_mm if upper else measures.room_below_mm
    visible = max(0.0, np.floor(room / (1.35 * body.nominal_mm) - 0.25))
    if upper:
        unseen = np.clip(_PLACES - _PLACES[_RANK[_L.C2]], 0, visible)
        return np.asarray(np.log(np.maximum(_UNSEEN_AT_END**unseen, _END_FLOOR)))
    if body.is_sacrum:
        return np.zeros(len(LEVELS))
    unseen = np.clip(_PLACES[_RANK[_L.L5]] - _PLACES, 0, visible)
    sacrum = (visible > unseen) & (_PLACES[_RANK[_L.S1]] > _PLACES)
    return np.asarray(
        np.log(np.maximum(_UNSEEN_AT_END**unseen * np.where(sacrum, _UNSEEN_SACRUM, 1), _END_FLOOR))
    )


def _gap_ratios(bodies: tuple[BodyMeasures, ...]) -> list[float]:
    """Each step's length against the usual distance of neighbouring vertebrae about there."""
    free = [lower.top_mm - upper.bottom_mm for upper, lower in pairwise(bodies)]
    nominal = [body.nominal_mm for body in bodies]
    if bodies[-1].is_sacrum and len(bodies) > 1:
        nominal[-1] = nominal[-2]
    pitch = [gap + 0.5 * (above + below) for gap, (above, below) in zip(free, pairwise(nominal), strict=True)]
    ratios = []
    for place, length in enumerate(pitch):
        others = [
            pitch[near] for near in range(max(0, place - 3), min(len(pitch), place + 4)) if near != place
        ]
        by_size = 1.3 * 0.5 * (nominal[place] + nominal[place + 1])
        usual = float(np.median([*others, by_size])) if len(others) >= 2 else by_size
        ratios.append(max(length, 0.3 * usual) / usual)
    return ratios


def _step(gap_ratio: float, config: LevelConfig) -> Array:
    """Log probabilities of going from level (row) to level (column) across a gap."""
    once = _neighbours(config)
    total = np.zeros_like(once)
    power = np.eye(len(LEVELS))
    for missed in range(_MAXIMUM_MISSED + 1):
        power = power @ once
        # Bodies that overlap, as bad segmentations show them, are still one below the other.
        ratio = max(gap_ratio, _LEAST_GAP if missed else 1.0)
        fit = np.exp(-0.5 * (np.log(ratio / (missed + 1)) / _GAP_LOG_SD) ** 2)
        total += (
            (1 - config.missed_detection) * config.missed_detection**missed * max(fit, _GAP_FLOOR) * power
        )
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(total))


def _neighbours(config: LevelConfig) -> Array:
    """Probability of each level's next one; prevalences as in Yan et al. 2018 and below.

    11 thoracic vertebrae 5.8 % and 6 lumbar 5.5 % of 293 adults (Yan et al., J Orthop Surg Res
    2018;13:124). The defaults are lower, as other cohorts' figures are.
    """
    table = np.zeros((len(LEVELS), len(LEVELS)))
    usual = [level for level in LEVELS if not level.is_supernumerary]
    for upper, lower in pairwise(usual):
        table[_RANK[upper], _RANK[lower]] = 1.0
    rare = (
        (_L.T12, _L.T13, config.t13_prevalence),
        (_L.T11, _L.L1, config.missing_t12_prevalence),
        (_L.L5, _L.L6, config.l6_prevalence),
        (_L.L4, _L.S1, config.missing_l5_prevalence),
    )
    for upper, lower, prevalence in rare:
        table[_RANK[upper]] *= 1.0 - prevalence
        table[_RANK[upper], _RANK[lower]] = prevalence
    table[_RANK[_L.T13], _RANK[_L.L1]] = 1.0
    table[_RANK[_L.L6], _RANK[_L.S1]] = 1.0
    return table


def _normal_density(values: npt.ArrayLike, mean: npt.ArrayLike, sd: float) -> Array:
    """As ``scipy.stats.norm.pdf``, whose import would take most of a second."""
    return np.asarray(np.exp(-0.5 * ((np.asarray(values) - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi)))
