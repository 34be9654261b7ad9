"""One run on a Ray cluster: which study is where, and what is asked of the cluster next.

A study that a dying node, process or object takes along starts again elsewhere, a few times at most.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from spinemets.batch.engine import Limits, Observer, Stages, StudyEnd
from spinemets.batch.ray_fleet import Device, Fleet, on_node
from spinemets.batch.ray_nodes import Site, Verdict, read_on_node, write_on_node
from spinemets.batch.records import Stage
from spinemets.batch.stages import Failure, StudyResult, failure_of
from spinemets.batch.workers import RENEWED_AFTER
from spinemets.errors import TimeLimitError, WorkerError

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy

__all__ = ["RayRun"]

_log = logging.getLogger(__name__)

_TRIES = 3
_BEAT_S = 0.5
_REFRESHED_EVERY_S = 5.0
_ENDING_S = 10.0
# As in the local engine; a device that does not answer never ends.
_LOADING_S = 600.0
# The rest is for Ray's own needs and for studies that are larger than they looked.
_SHARE_OF_STORE = 0.8


@dataclass(slots=True, eq=False)
class _Trip:
    """A study's way through the stages, over all its tries.

    Attributes
    ----------
    loaded, segmented
        References to what reading and the network made.
    node
        Where the last of them was made.
    shunned
        Nodes on which a try was lost.
    """

    study: PlannedStudy
    tries: int = 0
    loaded: Any = None
    segmented: Any = None
    node: str = ""
    shunned: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class _Step:
    """A stage of a trip, or the loading of a network, that Ray is asked to do.

    Attributes
    ----------
    count
        Of the values that its stream has given.
    begun_s
        None as long as it waits for a process.
    """

    trip: _Trip | None
    stage: Stage
    device: Device | None = None
    made: Any = None
    count: int = 0
    begun_s: float | None = None
    node: str = ""


class RayRun:
    """Which study is where. Everything happens in the thread that calls ``go``.

    Parameters
    ----------
    observer
        Told, in that thread, of every stage that begins and every study that ends.
    """

    def __init__(
        self,
        studies: Sequence[PlannedStudy],
        stages: Stages,
        site: Site,
        fleet: Fleet,
        limits: Limits,
        observer: Observer,
    ) -> None:
        import ray

        self._stages, self._site, self._fleet, self._limits = stages, site, fleet, limits
        self._observer = observer
        self._waiting = deque(_Trip(study) for study in studies)
        self._loaded: deque[_Trip] = deque()
        self._segmented: deque[_Trip] = deque()
        self._steps: dict[Any, _Step] = {}
        self._under_way: dict[str, float] = {}
        self._refreshed_s = -_REFRESHED_EVERY_S
        renewed = ray.remote(max_calls=RENEWED_AFTER)
        self._read, self._write = renewed(read_on_node), renewed(write_on_node)

    def go(self) -> None:
        """Take the studies through the stages, until every one has ended."""
        try:
            while self._waiting or self._under_way:
                self._refresh()
                self._dispatch()
                self._take_turn()
        except KeyboardInterrupt:
            self._finish_writing()
            raise

    def end(self) -> None:
        """Leave nothing behind that could still write."""
        import ray

        self._fleet.close()
        left = [stream for stream, step in self._steps.items() if step.device is None]
        for stream in left:
            ray.cancel(stream, force=True)
        if left:
            ray.wait(left, num_returns=len(left), timeout=_ENDING_S, fetch_local=False)
        self._steps.clear()

    def _finish_writing(self) -> None:
        self._waiting.clear()
        self._loaded.clear()
        for stream, step in list(self._steps.items()):
            if step.stage is not Stage.WRITING:
                self._drop(stream)
        while self._segmented or self._steps:
            self._dispatch()
            self._take_turn()
            # What is lost now is left to the next run.
            self._waiting.clear()

    def _refresh(self) -> None:
        if monotonic() - self._refreshed_s < _REFRESHED_EVERY_S:
            return
        self._refreshed_s = monotonic()
        for device in self._fleet.refresh():
            stream = device.actor.open.options(num_returns="streaming").remote()
            self._steps[stream] = _Step(None, Stage.NETWORK, device)

    def _dispatch(self) -> None:
        """Ask for whatever there is room for. Writing goes before reading."""
        for trip in list(self._loaded):
            device = self._fleet.free(trip.node, trip.shunned)
            if device is not None:
                self._loaded.remove(trip)
                device.is_free = False
                stream = device.actor.segment.options(num_returns="streaming").remote(trip.loaded)
                self._steps[stream] = _Step(trip, Stage.NETWORK, device)
        slots = self._fleet.task_slots
        slots = min(slots, self._limits.workers) if self._limits.workers else slots
        busy = sum(step.device is None for step in self._steps.values())
        for _ in range(slots - busy):
            if self._segmented:
                trip = self._segmented.popleft()
                made = trip.loaded, trip.segmented
                self._ask(self._write, trip, Stage.WRITING, (self._stages.finish, trip.study.key, *made))
            elif self._waiting and self._has_room(self._waiting[0].study, slots):
                trip = self._waiting.popleft()
                self._under_way[trip.study.key] = trip.study.memory_bytes
                self._ask(self._read, trip, Stage.READING, (self._stages.load, trip.study.to_hand_on()))

    def _ask(self, function: Any, trip: _Trip, stage: Stage, arguments: tuple[object, ...]) -> None:
        # Reading goes round; for writing, Ray looks where the arrays are.
        strategy: Any = "SPREAD" if stage is Stage.READING else "DEFAULT"
        other = self._fleet.other_node(trip.shunned) if trip.shunned else None
        options = function.options(
            num_cpus=1,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy=strategy if other is None else on_node(other, if_it_lives=True),
        )
        self._steps[options.remote(self._site, *arguments)] = _Step(trip, stage)

    def _has_room(self, study: PlannedStudy, slots: int) -> bool:
        if not self._under_way:
            return True
        memory = _SHARE_OF_STORE * self._fleet.store_bytes
        if self._limits.memory_bytes is not None:
            memory = min(memory, self._limits.memory_bytes)
        if sum(self._under_way.values()) + study.memory_bytes > memory:
            return False
        return len(self._under_way) < slots + 2 * len(self._fleet)

    def _take_turn(self) -> None:
        """Wait a little for news, and act on it."""
        import ray

        ready, _ = (
            ray.wait(list(self._steps), timeout=_BEAT_S, fetch_local=False) if self._steps else ([], [])
        )
        for stream in ready:
            self._advance(stream)
        for stream, step in list(self._steps.items()):
            limit_s = _LOADING_S if step.trip is None else self._limits.timeout_s
            if step.begun_s is not None and limit_s is not None and monotonic() - step.begun_s > limit_s:
                self._end_overdue(stream, limit_s)

    def _advance(self, stream: Any) -> None:
        """Take the next value of a step's stream."""
        import ray

        step = self._steps[stream]
        step.count += 1
        try:
            reference = next(stream)
            if step.count == 1:
                step.node, step.begun_s = ray.get(reference), monotonic()
                if step.trip is not None:
                    self._observer.moved(step.trip.study, step.stage)
            elif step.count == 2 and step.trip is not None:
                step.made = reference
            else:
                value = ray.get(reference)
                del self._steps[stream]
                self._conclude(step, value)
        except (ray.exceptions.RayError, StopIteration) as error:
            del self._steps[stream]
            self._lose(step, error)

    def _conclude(self, step: _Step, value: Any) -> None:
        if step.trip is None:
            self._conclude_opening(step, value)
            return
        verdict: Verdict = value
        for message in verdict.messages:
            logging.getLogger(message.name).handle(message)
        trip, device = step.trip, step.device
        trip.node = step.node
        if device is not None:
            device.is_free = True
            if isinstance(verdict.outcome, Failure) and not verdict.outcome.on_purpose:
                # After a fault of the device, everything else would fail in the same process.
                self._replace(device)
        if verdict.outcome is not None:
            self._end_trip(trip, verdict.outcome)
        elif step.stage is Stage.READING:
            trip.loaded = step.made
            self._loaded.append(trip)
        else:
            trip.segmented = step.made
            self._segmented.append(trip)

    def _conclude_opening(self, step: _Step, error: Exception | None) -> None:
        if step.device is None:
            return
        if error is None:
            self._fleet.opened(step.device)
        else:
            self._fleet.failed_to_open(step.device, error)
            self._refreshed_s = -_REFRESHED_EVERY_S

    def _end_overdue(self, stream: Any, limit_s: float) -> None:
        step = self._steps[stream]
        self._drop(stream)
        if step.trip is not None:
            error = TimeLimitError(f"took longer than {limit_s:g} s; see --timeout")
            self._end_trip(step.trip, failure_of(error, step.stage))
        elif step.device is not None:
            late = TimeLimitError(
                f"the model did not load within {limit_s:g} s; check that the device answers"
            )
            self._fleet.failed_to_open(step.device, late)

    def _lose(self, step: _Step, error: Exception) -> None:
        """A process, a node or an array is gone: the study starts again elsewhere, if it may."""
        import ray

        reason = _first_line(error)
        device, trip = step.device, step.trip
        if device is not None and trip is None:
            self._fleet.failed_to_open(device, WorkerError(reason))
        elif device is not None and isinstance(
            error, ray.exceptions.RayTaskError | ray.exceptions.ObjectLostError
        ):
            # The process lives; what it was to work on could not be had.
            device.is_free = True
        elif device is not None:
            self._replace(device)
        self._refreshed_s = -_REFRESHED_EVERY_S
        if trip is None:
            return
        node = self._fleet.address(step.node)
        trip.tries += 1
        if trip.tries >= _TRIES:
            lost = WorkerError(
                f"lost {trip.tries} times, at last on node {node}: {reason}; try again with --retry-failed"
            )
            self._end_trip(trip, failure_of(lost, step.stage))
            return
        _log.warning("%s: lost while %s on node %s: %s", trip.study.key, step.stage.value, node, reason)
        trip.loaded = trip.segmented = None
        trip.node = ""
        trip.shunned |= {step.node} if step.node else frozenset()
        del self._under_way[trip.study.key]
        self._waiting.appendleft(trip)

    def _end_trip(self, trip: _Trip, outcome: StudyResult | Failure) -> None:
        del self._under_way[trip.study.key]
        self._observer.ended(StudyEnd(trip.study, outcome))

    def _replace(self, device: Device) -> None:
        self._fleet.kill(device)
        self._refreshed_s = -_REFRESHED_EVERY_S

    def _drop(self, stream: Any) -> None:
        """Stop a step, whatever it does."""
        import ray

        step = self._steps.pop(stream)
        if step.device is not None:
            self._replace(step.device)
        else:
            with suppress(ray.exceptions.RayError):
                ray.cancel(stream, force=True)


def _first_line(error: Exception) -> str:
    """What a reader needs of one of Ray's errors."""
    import ray

    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else None
    lines = str(cause or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
