"""What a request to end does to a command: the same as Ctrl-C, so that it cleans up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

__all__ = ["terminated_as_interrupted"]


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let a request to end, of a job scheduler or a terminal that is closed, be handled as Ctrl-C is.

    Python would otherwise end at once, and leave temporary folders with what was unpacked.
    """
    if current_thread() is not main_thread():
        # Only the main thread may say what a signal does.
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    # nohup has it ignored, and so it stays.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
