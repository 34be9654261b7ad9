"""Whole studies side by side: every process has the model and takes one study through all stages.

This is how a batch runs on a CPU. Networks that share the processors gain nothing from a process
of their own, and one thread each wastes none of it waiting for another. Nothing is handed on, so
no array leaves its process.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

from spinemets.batch.engine import Limits, Observer, SideBySide, Stages, StudyEnd, join_hands
from spinemets.batch.records import Stage
from spinemets.batch.resident import ResidentModel, segment_here
from spinemets.batch.stages import Failure, LoadedStudy, SegmentedStudy, StudyResult, attempt
from spinemets.batch.workers import RENEWED_AFTER, usable_processors
from spinemets.errors import WorkerError

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy

__all__ = ["run_side_by_side"]

_log = logging.getLogger(__name__)

_NO_MEMORY = ("OutOfMemoryError", "MemoryError")

# Of this process, if it is one of these: the study that it is at, from one stage to the next.
_loaded: LoadedStudy | None = None
_segmented: SegmentedStudy | None = None


class _Queue:
    """Which study is next. Every method may be called from any thread."""

    def __init__(
        self, studies: Sequence[PlannedStudy], memory_bytes: float | None, observer: Observer
    ) -> None:
        self._waiting = deque(studies)
        self._memory_bytes, self._observer = memory_bytes, observer
        self._changed = Condition()
        self._under_way: dict[str, float] = {}
        self.without_memory: list[PlannedStudy] = []
        self.fault: BaseException | None = None

    def next(self) -> PlannedStudy | None:
        """Wait for a study to begin; None when none will come."""
        with self._changed:
            while self._waiting and self.fault is None:
                if self._has_room(self._waiting[0]):
                    study = self._waiting.popleft()
                    self._under_way[study.key] = study.memory_bytes
                    return study
                self._changed.wait()
            return None

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        """A stage of a study begins."""
        with self._changed:
            self._observer.moved(study, stage)

    def ended(self, study: PlannedStudy, outcome: StudyResult | Failure) -> None:
        """Let a study go; one for which others left no memory is kept, to be done alone."""
        with self._changed:
            crowded = len(self._under_way) > 1
            del self._under_way[study.key]
            if crowded and isinstance(outcome, Failure) and outcome.error in _NO_MEMORY:
                _log.warning("%s: no memory beside the others; it is done again alone", study.key)
                self.without_memory.append(study)
            else:
                self._observer.ended(StudyEnd(study, outcome))
            self._changed.notify_all()

    def stop(self) -> None:
        """Begin no study any more."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def fail(self, fault: BaseException) -> None:
        """Let everyone stop: the batch itself cannot go on."""
        with self._changed:
            self.fault = self.fault or fault
            self._changed.notify_all()

    def _has_room(self, study: PlannedStudy) -> bool:
        if not self._under_way or self._memory_bytes is None:
            return True
        return sum(self._under_way.values()) + study.memory_bytes <= self._memory_bytes


class _Hand(Thread):
    """A thread that takes one study after the other through the stages, in a process of its own."""

    def __init__(self, queue: _Queue, stages: Stages, model: ResidentModel, threads: int) -> None:
        super().__init__(name="spinemets hand", daemon=True)
        self._queue, self._stages, self._model, self._threads = queue, stages, model, threads
        self._stage: Stage | None = None
        self._dropped = False

    def run(self) -> None:
        try:
            done = 0
            while (study := self._queue.next()) is not None:
                outcome = self._take_through(study)
                if self._dropped:
                    return
                self._queue.ended(study, outcome)
                done += 1
                if done % RENEWED_AFTER == 0:
                    self._model.close()
        except BaseException as fault:
            if not self._dropped:
                self._queue.fail(fault)
        finally:
            self._model.close()

    def drop(self, everything: bool = False) -> None:
        """Give up what is being read or in the network, and what is being written too if asked."""
        if everything or self._stage is not Stage.WRITING:
            self._dropped = True
            self._model.kill()

    def _take_through(self, study: PlannedStudy) -> StudyResult | Failure:
        self._model.call(_use_threads, self._threads, Stage.READING)
        load, finish = partial(_load, load=self._stages.load), partial(_finish, finish=self._stages.finish)
        outcome: StudyResult | Failure = (
            self._do(study, Stage.READING, load, study.to_hand_on())
            or self._do(study, Stage.NETWORK, _segment, None)
            or self._do(study, Stage.WRITING, finish, study.key)
        )
        return outcome

    def _do(self, study: PlannedStudy, stage: Stage, function: Callable[..., Any], argument: object) -> Any:
        """What a stage returns; None where it only keeps what it made in its process."""
        self._stage = stage
        self._queue.moved(study, stage)
        return self._model.call(function, argument, stage)


@dataclass(frozen=True, slots=True)
class _Crew:
    """The processes of one run, and what they have in common."""

    stages: Stages
    limits: Limits
    observer: Observer
    lock_descriptor: int | None

    def work(
        self, studies: Sequence[PlannedStudy], count: int, first: ResidentModel, memory_bytes: float | None
    ) -> list[PlannedStudy]:
        """Do the studies with so many processes, and give those back for which there was no memory."""
        queue = _Queue(studies, memory_bytes, self.observer)
        models = [first, *(self._model() for _ in range(count - 1))]
        threads = _threads_each(count)
        hands = [_Hand(queue, self.stages, model, threads) for model in models]
        for hand in hands:
            hand.start()
        try:
            for hand in hands:
                hand.join()
        except BaseException:
            queue.stop()
            for hand in hands:
                hand.drop()
            join_hands(hands)
            raise
        if queue.fault is not None:
            raise queue.fault
        return queue.without_memory

    def _model(self) -> ResidentModel:
        return ResidentModel(self.stages.load_models, self.limits.timeout_s, self.lock_descriptor)


def run_side_by_side(
    studies: Sequence[PlannedStudy],
    stages: Stages,
    limits: Limits,
    observer: Observer,
    first: ResidentModel,
    lock_descriptor: int | None = None,
) -> None:
    """Take studies through all stages in ``limits.side_by_side.processes`` processes.

    A study that finds no memory beside others is done again when those have ended. When the run is
    interrupted, what is being written is still written and the rest dropped; a second interruption
    drops that too.

    Parameters
    ----------
    first
        A process in which the model is loaded already.

    Raises
    ------
    SpinemetsError, MemoryError
        The model cannot be loaded in another process, or again; or no record can be kept.
    """
    wanted = limits.side_by_side or SideBySide(1)
    crew = _Crew(stages, limits, observer, lock_descriptor)
    count = max(1, min(wanted.processes, len(studies)))
    left = crew.work(studies, count, first, wanted.memory_bytes)
    if left:
        crew.work(left, 1, first, None)


def _threads_each(processes: int) -> int:
    """Each process's share of the processors, or as many threads as the user allows a network."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, usable_processors() // processes)


def _use_threads(count: int) -> None:
    """Let this process's networks compute on so many threads."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _load(study: PlannedStudy, load: Callable[[PlannedStudy], LoadedStudy]) -> Failure | None:
    """Read a study, and keep it."""
    global _loaded, _segmented
    _segmented = None
    outcome = attempt(load, study, Stage.READING)
    _loaded = None if isinstance(outcome, Failure) else outcome
    return outcome if isinstance(outcome, Failure) else None


def _segment(_: None) -> Failure | None:
    """Run the network on the study that is kept, and keep what it sees."""
    global _segmented
    if _loaded is None:
        raise WorkerError("no study was read in this process")
    outcome = attempt(segment_here, _loaded, Stage.NETWORK)
    _segmented = None if isinstance(outcome, Failure) else outcome
    return outcome if isinstance(outcome, Failure) else None


def _finish(
    key: str, finish: Callable[[tuple[str, LoadedStudy, SegmentedStudy]], StudyResult]
) -> StudyResult | Failure:
    """Write the study that is kept, and forget it."""
    global _loaded, _segmented
    if _loaded is None or _segmented is None:
        raise WorkerError("the network has seen no study in this process")
    outcome = attempt(finish, (key, _loaded, _segmented), Stage.WRITING)
    _loaded = _segmented = None
    return outcome
