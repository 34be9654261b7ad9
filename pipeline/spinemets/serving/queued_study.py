"""A study as the queue knows it, and its results on their way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Delivery", "QueuedStudy", "StudyState"]


class StudyState(Enum):
    """Where a study stands."""

    RECEIVED = "received"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    SENT = "sent"


@dataclass(frozen=True, slots=True)
class QueuedStudy:
    """A study as the queue knows it.

    Attributes
    ----------
    number
        Its name outside the queue: it tells nothing of the patient.
    revision
        Counts the images that were new or changed.
    attempts
        How often its analysis has begun since the last change.
    changed
        When an image came or the state changed, in seconds since 1970.
    """

    number: int
    uid: str
    state: StudyState
    revision: int
    attempts: int
    changed: float
    reason: str
    images: int

    @property
    def key(self) -> str:
        """The name of its folders, and what logs call it.

        >>> QueuedStudy(7, "1.2.3", StudyState.READY, 1, 0, 0.0, "", 1).key
        'study-000007'
        """
        return f"study-{self.number:06d}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """The results of a study on their way to a node; ``attempts`` counts this one."""

    study: QueuedStudy
    node: str
    attempts: int
