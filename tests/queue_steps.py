"""A server's queue taken a step further, by a clock that stands still until it is moved."""

from __future__ import annotations

from spinemets.serving.queued_study import QueuedStudy, StudyState
from spinemets.serving.study_queue import StudyQueue

IDLE_S = 60.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def receive(queue: StudyQueue, uid: str = "1.2.3", image: str = "a", checksum: str = "x") -> int:
    number = queue.admit(uid, 10)
    queue.add(number, image, checksum, is_image=True)
    return number


def begin(queue: StudyQueue, clock: Clock) -> QueuedStudy:
    clock.now += IDLE_S
    queue.settle(IDLE_S)
    study = queue.begin()
    assert study is not None
    return study


def state(queue: StudyQueue) -> StudyState:
    (study,) = queue.studies()
    return study.state
