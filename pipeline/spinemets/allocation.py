"""Memory that this process frees, kept for its next use; and how much there is.

Activations of tens of megabytes are asked for and freed many times for one study. By default the C
library gives them back to the system each time, which then clears every page anew: a tenth of a
network's time on one core. Works with the GNU C library; does nothing elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from spinemets.control_groups import group_room_bytes

__all__ = [
    "as_usual",
    "available_bytes",
    "give_back_freed_memory",
    "hold_no_freed_memory",
    "keep_all_freed_memory",
    "keep_freed_memory",
    "kept_bytes",
]

# Of malloc.h, for mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = {_TRIM_THRESHOLD: 128 * 2**10, _MMAP_MAX: 65536}
_KEPT = {_TRIM_THRESHOLD: 2**30, _MMAP_MAX: 0}
_WHATEVER = -1
# Without a fixed threshold, the library raises it to the largest array that was freed.
_NONE_HELD = {_TRIM_THRESHOLD: 128 * 2**10, _MMAP_THRESHOLD: 256 * 2**10, _MMAP_MAX: 65536}

_kept = False


def keep_freed_memory() -> bool:
    """Keep up to a gigabyte of what is freed from now on; whether this system can."""
    global _kept
    _kept = _set(_KEPT)
    return _kept


def keep_all_freed_memory() -> bool:
    """Keep all of what is freed from now on, for a training; whether this system can."""
    return _set({**_KEPT, _TRIM_THRESHOLD: _WHATEVER})


def hold_no_freed_memory() -> bool:
    """Give each array back as it is freed, from now on; whether this system can."""
    global _kept
    _kept = False
    return _set(_NONE_HELD)


def give_back_freed_memory() -> None:
    """Give back what has been freed until now, where this system can."""
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


@contextmanager
def as_usual() -> Iterator[None]:
    """Give freed memory back for a while, as a program does by default."""
    if not _kept:
        yield
        return
    _set(_USUAL)
    try:
        yield
    finally:
        _set(_KEPT)


def kept_bytes() -> int:
    """Memory that this process has freed and kept: it is there for the next study."""
    library = _gnu_library()
    if library is None or not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _AllocatorFacts
    return int(library.mallinfo2().fordblks)


class _AllocatorFacts(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _set(options: dict[int, int]) -> bool:
    library = _gnu_library()
    return library is not None and all(library.mallopt(*option) for option in options.items())


@cache
def _gnu_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def available_bytes() -> float:
    """Memory that new arrays could have now; infinity where the system does not tell."""
    return min(_machine_room_bytes(), group_room_bytes())


def _machine_room_bytes() -> float:
    # Cached files count as free: the kernel gives them up, so look at MemAvailable first.
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable"):
            return float(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")
