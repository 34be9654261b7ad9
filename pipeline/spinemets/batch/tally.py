"""How far a batch is: what has ended, what each stage is doing, how fast it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic

from spinemets.batch.records import Stage, State

__all__ = ["Tally"]


class Tally:
    """Counts the studies of a run.

    Parameters
    ----------
    studies
        How many are to be done.
    clock
        Seconds from any start.

    Examples
    --------
    >>> times = iter([0.0, 60.0, 60.0, 60.0])
    >>> tally = Tally(3, lambda: next(times))
    >>> tally.moved("a", Stage.READING)
    >>> tally.ended("a", State.DONE)
    >>> tally.moved("b", Stage.NETWORK)
    >>> tally.line()
    '1 of 3: 1 done; network 1; 1.0 per minute, 2 min left'
    """

    def __init__(self, studies: int, clock: Callable[[], float] = monotonic) -> None:
        self.studies = studies
        self.states: Counter[State] = Counter()
        self._clock = clock
        self._start = clock()
        self._at: dict[str, Stage] = {}

    def moved(self, study: str, stage: Stage) -> None:
        """A stage of a study begins."""
        self._at[study] = stage

    def ended(self, study: str, state: State) -> None:
        """A study has its record."""
        self._at.pop(study, None)
        self.states[state] += 1

    @property
    def count(self) -> int:
        """How many have ended."""
        return sum(self.states.values())

    @property
    def per_minute(self) -> float:
        """Studies that ended in a minute, on the mean."""
        elapsed_s = self._clock() - self._start
        return 60 * self.count / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at this rate; None before the first has ended."""
        rate = self.per_minute
        return 60 * (self.studies - self.count) / rate if rate else None

    def line(self) -> str:
        """All of it in one line."""
        stages = Counter(self._at.values())
        parts = [
            f"{self.count} of {self.studies}: "
            + (", ".join(f"{self.states[s]} {s.value}" for s in State if self.states[s]) or "none has ended"),
            ", ".join(f"{stage.value} {stages[stage]}" for stage in Stage if stages[stage]),
        ]
        left_s = self.left_s
        if left_s:
            parts.append(f"{self.per_minute:.1f} per minute, {_duration(left_s)} left")
        return "; ".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    """A time as one says it.

    >>> _duration(20), _duration(4000), _duration(400000)
    ('less than a minute', '1 h 7 min', '4 d 15 h')
    """
    minutes = round(seconds / 60)
    if seconds < 60:
        return "less than a minute"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
