"""How many vertebrae got their right name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spinemets.anatomy import VertebralLevel
from spinemets.volume import PointMm

__all__ = [
    "LevelOutcome",
    "RateRow",
    "field_of_view",
    "identification_rates",
    "match_levels",
    "studies_all_right",
]

TOLERANCE_MM = 20.0


@dataclass(frozen=True, slots=True)
class LevelOutcome:
    """What one vertebra of the truth was called.

    Attributes
    ----------
    field_of_view
        The highest and lowest level of the study's truth, as in "T11-S1".
    predicted
        None where no vertebra was found within 20 mm.
    """

    study: str
    field_of_view: str
    truth: VertebralLevel
    predicted: VertebralLevel | None

    @property
    def is_right(self) -> bool:
        """Whether it was found and named as it should be."""
        return self.predicted is self.truth


@dataclass(frozen=True, slots=True)
class RateRow:
    """How many of a group are right."""

    group: str
    right: int
    total: int

    @property
    def rate(self) -> float:
        """Share of the group that is right, in [0, 1]."""
        return self.right / self.total


def field_of_view(levels: Sequence[VertebralLevel]) -> str:
    """The highest and the lowest level.

    >>> field_of_view([VertebralLevel.L5, VertebralLevel.T12])
    'T12-L5'
    """
    ordered = sorted(levels)
    return f"{ordered[0].value}-{ordered[-1].value}" if ordered else "none"


def match_levels(
    study: str, truth: Mapping[VertebralLevel, PointMm], predicted: Mapping[VertebralLevel, PointMm]
) -> tuple[LevelOutcome, ...]:
    """Give every vertebra of the truth the name of the nearest one found.

    As in the VerSe challenge (Sekuboyina et al., Med Image Anal 2021): identified is a
    vertebra whose nearest found centroid is within 20 mm and bears its name.

    Parameters
    ----------
    truth, predicted
        Centres of the vertebral bodies in RAS+ mm.
    """
    seen = field_of_view(list(truth))
    names = list(predicted)
    centres = np.array([predicted[name] for name in names]).reshape(-1, 3)
    outcomes = []
    for level in sorted(truth):
        found: VertebralLevel | None = None
        if names:
            distances_mm = np.linalg.norm(centres - np.asarray(truth[level]), axis=1)
            nearest = int(distances_mm.argmin())
            found = names[nearest] if distances_mm[nearest] <= TOLERANCE_MM else None
        outcomes.append(LevelOutcome(study, seen, level, found))
    return tuple(outcomes)


def identification_rates(
    outcomes: Sequence[LevelOutcome], group: Callable[[LevelOutcome], str] = lambda _: "all"
) -> tuple[RateRow, ...]:
    """The rate of right names in each group of vertebrae, in order of first appearance.

    Parameters
    ----------
    group
        As in ``lambda outcome: outcome.truth.region.value``, or ``outcome.field_of_view``.
    """
    counts: dict[str, list[bool]] = {}
    for outcome in outcomes:
        counts.setdefault(group(outcome), []).append(outcome.is_right)
    return tuple(RateRow(name, sum(right), len(right)) for name, right in counts.items())


def studies_all_right(outcomes: Sequence[LevelOutcome]) -> RateRow:
    """How many studies have every vertebra named right.

    Raises
    ------
    ValueError
        There are no outcomes.
    """
    if not outcomes:
        raise ValueError(
            "no vertebrae to score; expected at least one study with named vertebrae in its truth"
        )
    studies: dict[str, bool] = {}
    for outcome in outcomes:
        studies[outcome.study] = studies.get(outcome.study, True) and outcome.is_right
    return RateRow("studies with every level right", sum(studies.values()), len(studies))
