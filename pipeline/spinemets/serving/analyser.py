"""The studies of the queue, analysed one after the other in a process beside the server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event

from spinemets import errors
from spinemets.atomic import atomic_write_text
from spinemets.batch.records import Stage
from spinemets.batch.stages import Failure, StudyResult, failure_of
from spinemets.batch.workers import Worker
from spinemets.errors import OutputError, TimeLimitError, WorkerError
from spinemets.serving.analysis import AnalysisJob, analyse, warm_up
from spinemets.serving.inbox import Folders
from spinemets.serving.queued_study import QueuedStudy, StudyState
from spinemets.serving.settings import ServeSettings
from spinemets.serving.study_queue import StudyQueue

__all__ = ["Analyser"]

_log = logging.getLogger(__name__)

_NOTHING_TO_DO_S = 0.5
_PAUSE_S = 30.0
_NOT_A_SPINE = ("NoUsableInputError", "UnsupportedInputError")
# What another attempt may not meet again.
_BY_CHANCE = ("WorkerError", "OutOfMemoryError", "MemoryError", "OutputError", "OSError")


class Analyser:
    """Takes studies that are ready, and notes what came of them.

    Parameters
    ----------
    job
        For every study; key and folder are filled in.
    worker
        Keeps the model; replaced when it dies.
    """

    def __init__(
        self,
        settings: ServeSettings,
        folders: Folders,
        queue: StudyQueue,
        job: AnalysisJob,
        worker: Worker,
    ) -> None:
        self._settings, self._folders, self._queue = settings, folders, queue
        self._job, self._worker = job, worker
        self._stopping = Event()
        self._is_warm = False
        self._ended: tuple[QueuedStudy, object, float] | None = None

    def step(self) -> float:
        """Analyse one study; how many seconds to wait before the next time.

        Raises
        ------
        SpinemetsError
            The model cannot be loaded: no study could be analysed.
        OutputError
            The queue cannot be written to; how a study ended is noted at the next call.
        """
        if not self._is_warm:
            self._warm_up()
        if self._stopping.is_set():
            return _NOTHING_TO_DO_S
        self._conclude_last()
        self._queue.settle(self._settings.analysis.idle_s)
        study = self._queue.begin()
        if study is None:
            return _NOTHING_TO_DO_S
        start = time.monotonic()
        _log.info("%s: analysis of %d images begins", study.key, study.images)
        job = replace(self._job, key=study.key, source=self._folders.inbox / study.key)
        outcome = self._call(analyse, job)
        if self._stopping.is_set() and isinstance(outcome, Failure):
            self._queue.put_back(study)
            return _NOTHING_TO_DO_S
        self._ended = study, outcome, time.monotonic() - start
        self._conclude_last()
        return 0.0

    def give_up(self) -> None:
        """End the analysis under way; its study is analysed when the server starts again."""
        self._stopping.set()
        self._worker.kill()

    def _conclude_last(self) -> None:
        if self._ended is not None:
            self._conclude(*self._ended)
            self._ended = None

    def _warm_up(self) -> None:
        failure = self._call(warm_up, self._job)
        if isinstance(failure, Failure) and not self._stopping.is_set():
            kind = getattr(errors, failure.error, WorkerError)
            raise kind(failure.message)
        self._is_warm = True

    def _call(self, function: Callable[[AnalysisJob], object], job: AnalysisJob) -> object:
        limit_s = self._settings.analysis.timeout_s
        try:
            return self._worker.call(function, job, limit_s)
        except TimeLimitError:
            late = TimeLimitError(f"took longer than {limit_s:g} s (analysis.timeout_s)")
            return failure_of(late, Stage.NETWORK)
        except WorkerError:
            ended = WorkerError("the process that analysed it was killed or ended by itself")
            return failure_of(ended, Stage.NETWORK)

    def _conclude(self, study: QueuedStudy, outcome: object, seconds: float) -> None:
        state, reason = StudyState.DONE, ""
        if isinstance(outcome, Failure):
            reason = outcome.message
            if outcome.error in _BY_CHANCE and study.attempts < self._settings.analysis.attempts:
                pause = _PAUSE_S * study.attempts
                _log.warning("%s: stopped, again in %.0f s: %s", study.key, pause, reason)
                self._queue.postpone(study, reason, pause)
                return
            is_no_spine = outcome.error in _NOT_A_SPINE and outcome.stage is Stage.READING
            state = StudyState.SKIPPED if is_no_spine else StudyState.FAILED
            self._write_log(study, outcome)
            self._set_aside(study)
        else:
            self._folders.forget_failure(study.key)
        if not self._queue.end(study, state, reason, self._settings.send.to):
            _log.info("%s: images came while it was analysed; it begins again", study.key)
        elif isinstance(outcome, StudyResult):
            lesions = outcome.summary.get("lesions")
            _log.info("%s: done in %.1f s, %s lesions", study.key, seconds, lesions)
        else:
            level = logging.WARNING if state is StudyState.SKIPPED else logging.ERROR
            _log.log(level, "%s: %s: %s", study.key, state.value, reason)

    def _write_log(self, study: QueuedStudy, failure: Failure) -> None:
        try:
            atomic_write_text(self._folders.logs / f"{study.key}.log", failure.traceback)
        except OutputError:
            _log.warning("%s: no room for its traceback", study.key)

    def _set_aside(self, study: QueuedStudy) -> None:
        """Let nobody take the result of fewer images, or of others, for that of the study as it is now."""
        try:
            if self._folders.set_aside(study.key):
                _log.warning("%s: its earlier result is set aside", study.key)
        except OSError as error:
            _log.warning("%s: its earlier result is still in place (%s)", study.key, error.strerror)
