"""Temporary folders for the files of archives: gone in the end, whatever ended the process.

A process holds the lock of its folder, so that the next one can tell a folder that is in use from
one whose process was killed. On a file system without locks such a folder stays.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spinemets.errors import OutputError
from spinemets.locks import try_lock

__all__ = ["remove_abandoned", "temporary_folder"]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone when the block ends, in whatever way, or when the next one is made.

    Raises
    ------
    OutputError
        There is no place for it.
    """
    try:
        remove_abandoned()
        # It gets its name when it is locked: before, it would look abandoned.
        unnamed = Path(tempfile.mkdtemp(prefix=".spinemets-")).resolve()
    except OSError as error:
        raise OutputError(
            f"no temporary folder can be made ({error.strerror}); name a place with room for one in TMPDIR"
        ) from error
    folder = unnamed.with_name(f"{_prefix()}{unnamed.name.rpartition('-')[2]}")
    descriptor = _opened(unnamed)
    try:
        if descriptor is not None:
            with suppress(OSError):
                try_lock(descriptor)
        unnamed.rename(folder)
        # As the walk and the files' own paths must agree, it is named in one way.
        yield folder
    finally:
        shutil.rmtree(unnamed, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned() -> None:
    """Remove the temporary folders of this user's processes that were killed on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        descriptor = _opened(folder)
        if descriptor is None:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.getuid() and try_lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            # Without locks nobody can tell whether it is in use.
            continue
        finally:
            os.close(descriptor)


def _prefix() -> str:
    """What the folders' names begin with: other machines may share the place, but not their locks."""
    machine = re.sub(r"\W+", "_", platform.node())[:40]
    return f"spinemets-{machine}-"


def _opened(folder: Path) -> int | None:
    """A descriptor of a folder; None for anything else, and where folders cannot be opened."""
    try:
        if os.name == "nt" or not stat.S_ISDIR(folder.lstat().st_mode):
            return None
        return os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
