"""Studies through three stages: one after the other here, or overlapping in other processes.

With workers beside a GPU, one process keeps the model and sees one study after the other, while workers read
the next and write the last ones. Only so many studies are under way at once, so memory stays
flat however long the batch is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Protocol

from spinemets.batch.records import Stage
from spinemets.batch.resident import Packed, ResidentModel, finish_packed, load_packed
from spinemets.batch.stages import (
    Failure,
    LoadedStudy,
    SegmentedStudy,
    StudyResult,
    carry_out,
    failure_of,
)
from spinemets.batch.workers import Worker

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy
    from spinemets.detection import Models

__all__ = [
    "Limits",
    "Observer",
    "SideBySide",
    "Stages",
    "StudyEnd",
    "join_hands",
    "run_in_turn",
    "run_overlapping",
]

# Workers stand back for the network's process, which on a CPU uses every core and on a GPU feeds it:
# what they do fits into its pauses.
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Stages:
    """What is done to a study. All three must be picklable where other processes do it.

    Attributes
    ----------
    load_models
        Loads what the network's stage needs, once.
    """

    load: Callable[[PlannedStudy], LoadedStudy]
    load_models: Callable[[], Models]
    finish: Callable[[tuple[str, LoadedStudy, SegmentedStudy]], StudyResult]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """How a batch runs where its networks run on the CPU: whole studies in processes of their own.

    Attributes
    ----------
    memory_bytes
        As that of ``Limits``.
    """

    processes: int
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be spent.

    Attributes
    ----------
    workers
        Processes for reading and writing.
    timeout_s
        For each stage of one study, in other processes; None for no limit.
    memory_bytes
        For the arrays of all studies under way; None for no limit but their number. A study
        that is larger than that goes alone.
    side_by_side
        Instead of workers beside one network, where that would be on the CPU; None for workers
        everywhere.
    """

    workers: int
    timeout_s: float | None = None
    memory_bytes: float | None = None
    side_by_side: SideBySide | None = None


@dataclass(frozen=True, slots=True)
class StudyEnd:
    """How a study's way ended."""

    study: PlannedStudy
    outcome: StudyResult | Failure


class Observer(Protocol):
    """Told where each study is; calls may come from several threads, one at a time."""

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        """A stage of a study begins."""

    def ended(self, end: StudyEnd) -> None:
        """A study is done with, in whatever way."""


def run_in_turn(studies: Iterable[PlannedStudy], stages: Stages, observer: Observer) -> None:
    """Take each study through all stages before the next one begins."""
    models = stages.load_models()
    for study in studies:
        moved = partial(observer.moved, study)
        outcome = carry_out(study, stages.load, models, stages.finish, moved)
        observer.ended(StudyEnd(study, outcome))


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """Something for a worker to do to a study."""

    study: PlannedStudy
    stage: Stage
    function: Callable[[Any], Any]
    argument: Any


class _Line:
    """Which study waits where. Every method may be called from any thread."""

    def __init__(
        self, studies: Sequence[PlannedStudy], stages: Stages, limits: Limits, observer: Observer
    ) -> None:
        self._limits, self._observer = limits, observer
        self._changed = Condition()
        self._waiting = deque(studies)
        self._load = partial(load_packed, load=stages.load)
        self._finish = partial(finish_packed, finish=stages.finish)
        self._loaded: deque[tuple[PlannedStudy, Packed]] = deque()
        self._segmented: deque[tuple[PlannedStudy, Packed, Packed]] = deque()
        self._at: Counter[Stage] = Counter()
        self._under_way: dict[str, float] = {}
        self._network_has_ended = False
        self.fault: BaseException | None = None

    def next_job(self) -> _Job | None:
        """Wait for something to do; None when nothing will come. Writing goes before reading."""
        with self._changed:
            while self.fault is None:
                if self._segmented:
                    study, *seen = self._segmented.popleft()
                    return self._begin(study, Stage.WRITING, self._finish, (study.key, *seen))
                if self._network_has_ended:
                    return None
                if self._waiting and self._has_room(self._waiting[0]):
                    study = self._waiting.popleft()
                    self._under_way[study.key] = study.memory_bytes
                    return self._begin(study, Stage.READING, self._load, study.to_hand_on())
                self._changed.wait()
            return None

    def next_loaded(self) -> tuple[PlannedStudy, Packed] | None:
        """Wait for a study for the network; None when none will come."""
        with self._changed:
            while self.fault is None and not self._loaded:
                if not self._waiting and not self._at[Stage.READING]:
                    return None
                self._changed.wait()
            if self.fault is not None:
                raise self.fault
            study, loaded = self._loaded.popleft()
            self._observer.moved(study, Stage.NETWORK)
            return study, loaded

    def put(self, study: PlannedStudy, stage: Stage, outcome: Packed | StudyResult | Failure) -> None:
        """Take back a study from a worker, and pass it on or let it go."""
        with self._changed:
            self._at[stage] -= 1
            if isinstance(outcome, Packed):
                self._loaded.append((study, outcome))
            else:
                self._let_go(study, outcome)
            self._changed.notify_all()

    def put_seen(self, study: PlannedStudy, loaded: Packed, outcome: Packed | Failure) -> None:
        """Take back a study from the network; what was read waits here, so that it need not come back."""
        with self._changed:
            if isinstance(outcome, Packed):
                self._segmented.append((study, loaded, outcome))
            else:
                self._let_go(study, outcome)
            self._changed.notify_all()

    def end_network(self) -> None:
        """No study comes out of the network any more."""
        with self._changed:
            self._network_has_ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Begin no study any more, and let go of those that the network has not seen."""
        with self._changed:
            self._waiting.clear()
            self._loaded.clear()
            self._network_has_ended = True
            self._changed.notify_all()

    def fail(self, fault: BaseException) -> None:
        """Let everyone stop: the batch itself cannot go on."""
        with self._changed:
            self.fault = self.fault or fault
            self._changed.notify_all()

    def _let_go(self, study: PlannedStudy, outcome: StudyResult | Failure) -> None:
        del self._under_way[study.key]
        self._observer.ended(StudyEnd(study, outcome))

    def _begin(
        self, study: PlannedStudy, stage: Stage, function: Callable[[Any], Any], argument: Any
    ) -> _Job:
        self._at[stage] += 1
        self._observer.moved(study, stage)
        return _Job(study, stage, function, argument)

    def _has_room(self, study: PlannedStudy) -> bool:
        if not self._under_way:
            return True
        memory = self._limits.memory_bytes
        if memory is not None and sum(self._under_way.values()) + study.memory_bytes > memory:
            return False
        return len(self._under_way) < self._limits.workers + 2


class _Hand(Thread):
    """A thread that hands jobs to one worker process."""

    def __init__(self, line: _Line, limits: Limits, lock_descriptor: int | None) -> None:
        super().__init__(name="spinemets hand", daemon=True)
        self._line, self._limits = line, limits
        self._worker = Worker(lock_descriptor, niceness=_NICENESS)
        self._reads = False
        self._dropped = False

    def run(self) -> None:
        try:
            while (job := self._line.next_job()) is not None:
                self._reads = job.stage is Stage.READING
                outcome = self._do(job)
                self._reads = False
                if self._dropped:
                    return
                self._line.put(job.study, job.stage, outcome)
                del job, outcome
        except BaseException as fault:
            self._line.fail(fault)
        finally:
            self._worker.close()

    def drop(self, everything: bool = False) -> None:
        """Give up what is being read, and what is being written too if asked."""
        if self._reads or everything:
            self._dropped = True
            self._worker.kill()

    def _do(self, job: _Job) -> Packed | StudyResult | Failure:
        try:
            outcome: Packed | StudyResult | Failure = self._worker.call(
                job.function, job.argument, self._limits.timeout_s
            )
        except Exception as error:
            return failure_of(error, job.stage)
        return outcome


def run_overlapping(
    studies: Sequence[PlannedStudy],
    stages: Stages,
    limits: Limits,
    observer: Observer,
    network: ResidentModel,
    lock_descriptor: int | None = None,
) -> None:
    """Take studies through the stages in other processes: one for the network, the workers beside it.

    When it is interrupted, what is being read or in the network is dropped and what the network
    has seen is still written; a second interruption drops that too.

    Parameters
    ----------
    network
        The process in which the model is loaded.

    Raises
    ------
    SpinemetsError, MemoryError
        The model cannot be loaded again after its process had to be replaced; or no record can
        be kept.
    """
    line = _Line(studies, stages, limits, observer)
    hands = [_Hand(line, limits, lock_descriptor) for _ in range(limits.workers)]
    for hand in hands:
        hand.start()
    try:
        while (arrived := line.next_loaded()) is not None:
            study, loaded = arrived
            line.put_seen(study, loaded, network.segment(loaded))
            del arrived, loaded
        line.end_network()
        for hand in hands:
            hand.join()
    except BaseException:
        line.stop()
        network.kill()
        for hand in hands:
            hand.drop()
        raise
    finally:
        join_hands(hands)
    if line.fault is not None:
        raise line.fault


class Hand(Protocol):
    """A thread that works on studies in another process."""

    def join(self) -> None:
        """Wait until it ends."""

    def drop(self, everything: bool = False) -> None:
        """Give up what need not be finished, or everything."""


def join_hands(hands: Sequence[Hand]) -> None:
    """Wait for all of them; who is interrupted meanwhile drops everything."""
    try:
        for hand in hands:
            hand.join()
    except KeyboardInterrupt:
        for hand in hands:
            hand.drop(everything=True)
        for hand in hands:
            hand.join()
        raise
