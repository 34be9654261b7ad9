"""A process that does one job at a time, and may die or hang without harm to its caller."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from threading import Lock, Thread
from typing import Any

from spinemets.errors import TimeLimitError, WorkerError

__all__ = ["RENEWED_AFTER", "Worker", "usable_processors"]

# What libraries leak adds up over thousands of studies; a fresh process starts from nothing.
RENEWED_AFTER = 64
_ENDING_S = 5.0

# multiprocessing's own bookkeeping of children is not made for several threads.
_bookkeeping = Lock()


def usable_processors() -> int:
    """Processors that this process may use, which a scheduler may make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Worker:
    """Calls functions in a process of its own, which is replaced when it dies.

    Parameters
    ----------
    lock_descriptor
        An open file that the process keeps open as long as it lives; None for none.
    renewed_after
        How many calls a process answers before another takes its place; None for no end.
    niceness
        By how much the process stands back where processors are short.
    """

    def __init__(
        self,
        lock_descriptor: int | None = None,
        renewed_after: int | None = RENEWED_AFTER,
        niceness: int = 0,
    ) -> None:
        self._lock_descriptor = lock_descriptor
        self._renewed_after = renewed_after
        self._niceness = niceness
        self._process: BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._calls = 0

    @property
    def is_running(self) -> bool:
        """Whether there is a process; the next call starts one where there is none."""
        return self._connection is not None

    def call(self, function: Callable[[Any], Any], argument: Any, limit_s: float | None = None) -> Any:
        """What ``function(argument)`` returns; both must be picklable.

        Raises
        ------
        TimeLimitError
            It took longer than the limit; the process was killed.
        WorkerError
            The process ended before the function did, or the function raised an error.
        """
        connection = self._start() if self._connection is None else self._connection
        level = logging.getLogger("spinemets").getEffectiveLevel()
        try:
            _send(connection, (function, argument, level))
            if not connection.poll(limit_s):
                self.kill()
                self._reap()
                raise TimeLimitError(f"took longer than {limit_s:g} s; see --timeout")
            error, value, messages = _receive(connection)
        except (EOFError, OSError) as ended:
            raise WorkerError(_how_it_ended(self._reap())) from ended
        for message in messages:
            logging.getLogger(message.name).handle(message)
        self._calls += 1
        if self._renewed_after is not None and self._calls >= self._renewed_after:
            self.close()
        if error:
            raise WorkerError(error)
        return value

    def kill(self) -> None:
        """End the process at once, whatever it does; from any thread."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Let the process end."""
        if self._connection is not None:
            self._connection.close()
            self._reap()

    def _start(self) -> Connection[Any, Any]:
        context = _context()
        ours, theirs = context.Pipe()
        # Only connections and the like are passed on to another process, so the lock goes as one.
        lock = None if self._lock_descriptor is None else Connection(os.dup(self._lock_descriptor))
        process = context.Process(
            target=_serve, args=(theirs, lock, self._niceness), name="spinemets worker", daemon=True
        )
        with _bookkeeping:
            process.start()
        theirs.close()
        if lock is not None:
            lock.close()
        self._process, self._connection, self._calls = process, ours, 0
        return ours

    def _reap(self) -> int | None:
        """Wait for the process to end, and give its exit code."""
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if process is None:
            return None
        with _bookkeeping:
            process.join(_ENDING_S)
            if process.is_alive():
                process.kill()
                # A process that hangs within a driver does not end before the driver lets it.
                process.join(_ENDING_S)
            return process.exitcode


def _context() -> SpawnContext | ForkServerContext:
    """How processes are started: never as a copy of this one, which may hold a GPU and threads."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spinemets.batch.stages"])
    return context


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "the worker process stopped answering; try again with --retry-failed"
    if exit_code == -signal.SIGKILL:
        return (
            "the worker process was killed, most likely by the system for want of memory; "
            "try again with --retry-failed and fewer --workers or a lower --max-memory"
        )
    return f"the worker process ended with exit code {exit_code}; try again with --retry-failed"


class _Collector(QueueHandler):
    """Keeps log records, made picklable, to be shown by the process that has the terminal."""

    def __init__(self) -> None:
        super().__init__(queue=None)  # type: ignore[arg-type]
        self.records: list[logging.LogRecord] = []

    def enqueue(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _serve(connection: Connection[Any, Any], _lock: Connection[Any, Any] | None, niceness: int) -> None:
    """Do what the other end asks for until it is closed."""
    if niceness and hasattr(os, "nice"):
        os.nice(niceness)
    # Ctrl-C reaches every process of the terminal, and a scheduler's request to end every process
    # of the job; the main one decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    # What libraries say may quote a patient's data, and has no way to whoever decides what is shown.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.captureWarnings(True)
    logger = logging.getLogger("spinemets")
    logger.propagate = False
    while True:
        try:
            function, argument, level = _receive(connection)
        except (EOFError, OSError):
            return
        collector = _Collector()
        logger.setLevel(level)
        logger.handlers[:] = [collector]
        _answer(connection, function, argument, collector)
        # Nothing of the last study is kept while waiting for the next.
        function = argument = None


def _answer(
    connection: Connection[Any, Any],
    function: Callable[[Any], Any],
    argument: Any,
    collector: _Collector,
) -> None:
    try:
        head, buffers = _pickled(("", function(argument), collector.records))
    except Exception:
        head, buffers = _pickled((traceback.format_exc(), None, collector.records))
    _send_pickled(connection, head, buffers)


def _send(connection: Connection[Any, Any], value: object) -> None:
    _send_pickled(connection, *_pickled(value))


def _pickled(value: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """A pickle, with the memory of arrays beside it."""
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(value, protocol=5, buffer_callback=buffers.append), buffers


def _send_pickled(connection: Connection[Any, Any], head: bytes, buffers: list[pickle.PickleBuffer]) -> None:
    views = [buffer.raw() for buffer in buffers]
    connection.send((head, [view.nbytes for view in views]))
    for view in views:
        _send_buffer(connection, view)


def _receive(connection: Connection[Any, Any]) -> Any:
    head, sizes = connection.recv()
    return pickle.loads(head, buffers=[_receive_buffer(connection, size) for size in sizes])


def _send_buffer(connection: Connection[Any, Any], view: memoryview) -> None:
    if sys.platform == "win32":
        connection.send_bytes(view)
        return
    while view.nbytes:
        view = view[os.write(connection.fileno(), view) :]


def _receive_buffer(connection: Connection[Any, Any], size: int) -> bytearray:
    """An array's memory, read to where it will stay."""
    buffer = bytearray(size)
    if sys.platform == "win32":
        connection.recv_bytes_into(buffer)
        return buffer
    rest = memoryview(buffer)
    while rest.nbytes:
        count = os.readv(connection.fileno(), [rest])
        if count == 0:
            raise EOFError
        rest = rest[count:]
    return buffer


def _end_with_parent() -> None:
    """A worker whose caller was killed must not go on writing beside the next run's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
