"""Locks on files, which keep two processes from writing to one place.

Not every file system has them, and Windows has none of this kind: there, whoever starts the
processes must see to it. Knows nothing of what is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinemets.errors import OutputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked", "take_lock", "try_lock"]

# Processes that belonged to one that was killed a moment ago may still be ending.
_PATIENCE_S = 20.0
_STEP_S = 0.05


def take_lock(descriptor: int, refusal: str) -> bool:
    """Wait for the lock of an open file; it lasts until no process has the file open any more.

    Parameters
    ----------
    descriptor
        Of a file that is open for writing: on network file systems no other can be locked, and no
        folder (flock(2)).
    refusal
        What to say when another process does not let go of it.

    Returns
    -------
    bool
        False where the file system has no locks.

    Raises
    ------
    OutputError
        Another process has kept it for 20 s.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if try_lock(descriptor):
                return True
        except OSError:
            return False
        if time.monotonic() > deadline:
            raise OutputError(refusal)
        time.sleep(_STEP_S)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file unless another process has it; whether it is ours now.

    A folder has a lock too, but on a network file system other machines do not see it.

    Raises
    ------
    OSError
        There are no locks here.
    """
    if fcntl is None:
        raise OSError("no locks on this system")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Let no other process write a file for as long as the block lasts, which may replace the file.

    It is made, empty and for its owner only, where it is missing.

    Raises
    ------
    OutputError
        Another process has kept it for 20 s.
    OSError
        It cannot be opened for writing.
    """
    if fcntl is None:
        yield
        return
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            take_lock(descriptor, refusal)
            if _is_still(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a path leads to an open file, and not to another that has replaced it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
