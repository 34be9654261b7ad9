"""Files and folders that appear complete or not at all.

Everything is written beside its final place and renamed at the end, so a reader (or a run
that is taken up again) never meets half a result. Knows nothing of what is written.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinemets.errors import OutputError

__all__ = ["atomic_folder", "atomic_write_bytes", "atomic_write_text", "flush_names", "remove_leftovers"]

_SIBLING = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part")


def atomic_write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file in one step; its folder is made where it is missing.

    Parameters
    ----------
    private
        Whether only its owner may read it.

    Raises
    ------
    OutputError
        The folder cannot be made, or the file cannot be written (no room, no permission).
    """
    temporary = _sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            mode = 0o600 if private else 0o666
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError.at(path, error) from error


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one step, with line ends as they are given.

    Raises
    ------
    OutputError
        As for :func:`atomic_write_bytes`.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes its name when the block ends without an error.

    A folder of that name is replaced. When the block raises, what was written is removed
    and a folder that was there before is left as it was. What has its name is on the disk: a
    power cut cannot empty it any more.

    Yields
    ------
    Path
        An empty folder beside ``path``.

    Raises
    ------
    OutputError
        The folder cannot be made or renamed.
    """
    temporary, previous = _sibling(path), _sibling(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be made ({error.strerror}); check space and permissions"
        ) from error
    try:
        yield temporary
        try:
            _flush(temporary)
            if path.exists():
                path.rename(previous)
            temporary.rename(path)
            flush_names(path.parent)
        except OSError as error:
            if previous.exists() and not path.exists():
                previous.rename(path)
            raise OutputError(f"{path}: cannot be put in place ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)


def flush_names(folder: Path) -> None:
    """Have the disk hold the names in a folder, of files renamed into it, too; Windows needs no telling."""
    if os.name == "nt":
        return
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def _flush(folder: Path) -> None:
    """Have the disk hold everything in a folder."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            flush_names(path)
        elif path.is_file():
            # Windows flushes only what may be written to.
            with path.open("rb+" if os.name == "nt" else "rb") as file:
                os.fsync(file.fileno())


def _sibling(path: Path) -> Path:
    """A name that nobody else uses, in the same folder so that renaming stays within one disk."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what a process that was killed left half-written in a folder.

    Only to be called where nobody else is writing to the folder, or to the file or folder of the
    name, of which alone the leftovers are removed then.
    """
    for path in folder.glob(".*.part"):
        match = _SIBLING.fullmatch(path.name)
        if match is None or name not in ("", match[1]):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
