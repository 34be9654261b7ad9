"""What a request to end does to a command: the same as Ctrl-C, so that it cleans up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

__all__ = ["terminated_as_interrupted"]


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let a request to end, as job schedulers send it, be handled as Ctrl-C is.

    Python would otherwise end at once, and leave temporary folders with what was unpacked.
    """
    if current_thread() is not main_thread():
        # Only the main thread may say what a signal does.
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
