"""The server: a receiver, an analyser, a sender for each node and whoever pulls, side by side."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

from spinemets.batch.privacy import make_salt
from spinemets.batch.workers import Worker
from spinemets.bundles import load_bundle
from spinemets.errors import ConfigError, OutputError
from spinemets.locks import take_lock
from spinemets.serving.analyser import Analyser
from spinemets.serving.analysis import AnalysisJob
from spinemets.serving.delivery import Sender
from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.pulling import Puller
from spinemets.serving.receiver import Receiver
from spinemets.serving.remotes import connect
from spinemets.serving.settings import ServeSettings
from spinemets.serving.study_queue import StudyQueue

__all__ = ["keep_house", "prepare", "serve"]

_log = logging.getLogger(__name__)

_ENDING_S = 20.0
_AFTER_TROUBLE_S = 5.0
_HOUSEKEEPING_S = 3600.0


def serve(settings: ServeSettings, stop: Event) -> None:
    """Receive, analyse and send until told to stop.

    Parameters
    ----------
    stop
        Set by whoever wants the server to end; it is set, too, when the server cannot go on.

    Raises
    ------
    ConfigError, ModelError, DeviceError
        The settings, the model or the device cannot be used.
    NetworkError
        The port cannot be listened on.
    OutputError
        The folder cannot be used, or another server uses it.
    """
    job = prepare(settings)
    folders = Folders(settings.folder)
    with _lock(settings.folder) as descriptor:
        folders.inbox.mkdir(exist_ok=True)
        folders.remove_leftovers()
        make_salt(folders.results)
        queue = StudyQueue(folders.queue)
        try:
            again = queue.recover(settings.analysis.attempts)
            if again:
                _log.info(
                    "%d studies were being analysed when the last server ended; they begin again", again
                )
            # Each worker process holds the lock: what a killed server left running ends first.
            analyser = Analyser(settings, folders, queue, job, Worker(descriptor))
            _run(settings, folders, queue, analyser, stop)
        finally:
            queue.close()


def prepare(settings: ServeSettings) -> AnalysisJob:
    """What every analysis of a server has in common.

    Raises
    ------
    ConfigError
        The detection settings are not sound, or a package for what they ask for is missing.
    ModelError
        The model is missing or not trusted.
    """
    config = settings.detection()
    if {"pdf", "dicom-pdf"} & set(config.report.formats):
        try:
            import weasyprint  # noqa: F401
        except (ImportError, OSError) as error:
            raise ConfigError(
                f"analysis.formats: dicom-pdf needs WeasyPrint and the Pango library ({error}); "
                "pip install 'spinemets[pdf]', or leave the format out"
            ) from error
    bundle = load_bundle(settings.analysis.model, settings.analysis.trust_model)
    return AnalysisJob("", settings.folder, Folders(settings.folder).results, bundle, config)


def _run(
    settings: ServeSettings, folders: Folders, queue: StudyQueue, analyser: Analyser, stop: Event
) -> None:
    inbox = Inbox(folders, queue, settings.limits)
    receiver = Receiver(settings.receive, inbox, settings.limits.object_gib * 2**30)
    senders = [
        Sender(name, connect(name, settings), queue, folders, settings.send) for name in settings.send.to
    ]
    pullers = [
        Puller(source, connect(source.node, settings), queue, inbox, settings.limits.studies)
        for source in settings.pull
    ]
    faults: list[BaseException] = []
    analysis = _Loop("analysis", analyser.step, stop, faults)
    others = [_Loop("sending", sender.step, stop, faults) for sender in senders]
    others += [_Loop("pulling", puller.step, stop, faults) for puller in pullers]
    others.append(_Loop("housekeeping", partial(keep_house, settings, folders, queue), stop, faults))
    try:
        receiver.start()
        for loop in (analysis, *others):
            loop.start()
        stop.wait()
    finally:
        stop.set()
        _log.info("stopping")
        deadline = time.monotonic() + settings.limits.ending_s
        receiver.stop(settings.limits.ending_s / 2)
        for loop in (analysis, *others):
            loop.end_by(deadline)
        analyser.give_up()
        analysis.end_by(time.monotonic() + _ENDING_S)
    if faults:
        raise faults[0]
    _log.info("stopped")


class _Loop(Thread):
    """Takes one step after the other, with the pause that each asks for."""

    def __init__(
        self, name: str, step: Callable[[], float], stop: Event, faults: list[BaseException]
    ) -> None:
        # What is durable needs no farewell: a thread that waits for a node must not hold up the end.
        super().__init__(name=name, daemon=True)
        self._step, self._stop_event, self._faults = step, stop, faults

    def run(self) -> None:
        try:
            while not self._stop_event.is_set():
                self._stop_event.wait(self._one_step())
        except BaseException as fault:
            self._faults.append(fault)
            self._stop_event.set()

    def end_by(self, deadline: float) -> None:
        """Wait for the step under way, but not beyond a moment of the monotonic clock."""
        if self.is_alive():
            self.join(max(0.0, deadline - time.monotonic()))

    def _one_step(self) -> float:
        try:
            return self._step()
        except OutputError as error:
            # A full disk may have room again.
            if not self._stop_event.is_set():
                _log.error("%s: %s", self.name, error)
            return _AFTER_TROUBLE_S


def keep_house(settings: ServeSettings, folders: Folders, queue: StudyQueue) -> float:
    """Remove the studies that have been finished for as long as they are kept; when to do it again."""
    days = settings.limits.keep_days
    if days is not None:
        removed = queue.forget(days)
        if removed:
            _log.info("%d studies that were finished %g days ago are removed", removed, days)
        # In this order: a study that begins in between is not among the folders.
        present = folders.keys()
        folders.remove(present - {study.key for study in queue.studies()})
    return _HOUSEKEEPING_S


@contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """Keep other servers out of a folder; the open file that does so."""
    path = folder / "lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written to ({error.strerror}); choose another folder"
        ) from error
    try:
        refusal = f"{folder}: another server is using it; end that one, or choose another folder"
        if not take_lock(descriptor, refusal):
            _log.warning("%s: its file system has no locks; let only one server use it", folder)
        yield descriptor
    finally:
        os.close(descriptor)
