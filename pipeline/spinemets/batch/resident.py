"""The network in a process of its own: loaded once, used for every study, replaced when it fails.

What hangs or crashes in the network, in a driver or in a device ends that process and costs the
study that was in it. Arrays pass through the main process packed, so it never holds them twice.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spinemets.batch.records import Stage
from spinemets.batch.stages import (
    Failure,
    LoadedStudy,
    SegmentedStudy,
    StudyResult,
    attempt,
    failure_of,
    segment,
)
from spinemets.batch.workers import Worker
from spinemets.errors import SpinemetsError, TimeLimitError, WorkerError

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy
    from spinemets.detection import Models

__all__ = ["Packed", "ResidentModel", "finish_packed", "load_packed", "segment_here"]

_log = logging.getLogger(__name__)

# Long enough for slow disks and cold caches; a device that does not answer never ends.
_LOADING_S = 600.0

# Of this process, if it is one for the network: what is loaded once and used for every study.
_models: Models | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A value on its way between processes; whoever only passes it on does not unpack it.

    Attributes
    ----------
    content, buffers
        A pickle, and the arrays' memory beside it, which is not copied on the way.
    """

    content: bytes
    buffers: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.content, tuple(pickle.PickleBuffer(buffer) for buffer in self.buffers))

    @staticmethod
    def of(value: object) -> Packed:
        """Pack a value."""
        buffers: list[pickle.PickleBuffer] = []
        content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return Packed(content, tuple(buffers))

    def value(self) -> Any:
        """Unpack it; its arrays can be written to."""
        views = (memoryview(buffer) for buffer in self.buffers)
        writable = [bytearray(view) if view.readonly else view for view in views]
        return pickle.loads(self.content, buffers=writable)


def load_packed(study: PlannedStudy, load: Callable[[PlannedStudy], LoadedStudy]) -> Packed | Failure:
    """Read a study in a worker, for the network's process."""
    return _packed(attempt(load, study, Stage.READING))


def finish_packed(
    job: tuple[str, Packed, Packed],
    finish: Callable[[tuple[str, LoadedStudy, SegmentedStudy]], StudyResult],
) -> StudyResult | Failure:
    """Write in a worker what was read, and what the network's process has seen in it."""

    def unpack_and_finish(job: tuple[str, Packed, Packed]) -> StudyResult:
        key, loaded, segmented = job
        return finish((key, loaded.value(), segmented.value()))

    return attempt(unpack_and_finish, job, Stage.WRITING)


class ResidentModel:
    """A loaded model in a process that may hang or die without harm to the batch.

    Parameters
    ----------
    load
        Loads the model; picklable, as it is called in that process.
    limit_s
        For one study; None for no limit.
    lock_descriptor
        As for :class:`Worker`.
    """

    def __init__(
        self, load: Callable[[], Models], limit_s: float | None, lock_descriptor: int | None
    ) -> None:
        self._load, self._limit_s = load, limit_s
        self._worker = Worker(lock_descriptor, renewed_after=None)
        self._is_missed = False

    def start(self) -> str:
        """Load the model, and say which device it is on.

        Raises
        ------
        SpinemetsError, MemoryError
            Whatever loading it raised.
        TimeLimitError
            It did not load within ten minutes.
        WorkerError
            The process died of it.
        """
        try:
            outcome: str | Exception = self._worker.call(_load_here, self._load, _LOADING_S)
        except TimeLimitError as late:
            raise TimeLimitError(
                f"the model did not load within {_LOADING_S:g} s; check that the device answers"
            ) from late
        if isinstance(outcome, Exception):
            raise outcome
        self._is_missed = True
        return outcome

    def segment(self, loaded: Packed) -> Packed | Failure:
        """Run the network on a study, in a new process where the last one is gone.

        Raises
        ------
        SpinemetsError, MemoryError
            The model cannot be loaded again.
        """
        outcome: Packed | Failure = self.call(_segment_packed, loaded, Stage.NETWORK)
        return outcome

    def call(self, function: Callable[[Any], Any], argument: Any, stage: Stage) -> Any:
        """Do a stage of a study beside the model; what goes wrong with the process is a failure of it.

        Raises
        ------
        SpinemetsError, MemoryError
            The model cannot be loaded again.
        """
        if not self._worker.is_running:
            if self._is_missed:
                _log.warning("the network's process has ended; the model is loaded again")
            self.start()
        try:
            outcome = self._worker.call(function, argument, self._limit_s)
        except WorkerError as error:
            return failure_of(error, stage)
        if stage is Stage.NETWORK and isinstance(outcome, Failure) and not outcome.on_purpose:
            # After a fault of the device, everything else would fail in the same process.
            self._worker.close()
        return outcome

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._worker.kill()

    def close(self) -> None:
        """Let the process end; a call starts another."""
        self._is_missed = False
        self._worker.close()


def segment_here(loaded: LoadedStudy) -> SegmentedStudy:
    """Run the network of this process on a study."""
    if _models is None:
        raise WorkerError("the model is not loaded in this process")
    return segment(loaded, _models)


def _load_here(load: Callable[[], Models]) -> str | Exception:
    """Load the model of this process; what that raises on purpose keeps its class on the way back."""
    global _models
    try:
        _models = load()
    except (SpinemetsError, MemoryError) as error:
        return error
    return _models.provenance.execution.device


def _segment_packed(loaded: Packed) -> Packed | Failure:
    def unpack_and_segment(loaded: Packed) -> SegmentedStudy:
        return segment_here(loaded.value())

    return _packed(attempt(unpack_and_segment, loaded, Stage.NETWORK))


def _packed(outcome: object) -> Packed | Failure:
    return outcome if isinstance(outcome, Failure) else Packed.of(outcome)
