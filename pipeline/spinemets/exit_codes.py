"""The exit codes of the command line, and which error has which."""

from __future__ import annotations

import builtins
from collections.abc import Iterable

from spinemets import errors

__all__ = [
    "DONE",
    "EPILOG",
    "EXIT_CODES",
    "INTERNAL",
    "INTERRUPTED",
    "PARTIAL",
    "USAGE",
    "code_of",
    "common_code",
]

DONE, INTERNAL, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 7, 130

# The first that an error is a kind of counts.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.ConfigError, USAGE),
    (errors.GeometryError, 4),
    (errors.InputError, 3),
    (errors.ModelError, 5),
    (errors.OutOfMemoryError, 6),
    (MemoryError, 6),
    (errors.DeviceUnavailableError, 8),
    (errors.OutputError, 9),
    (errors.WorkerError, 10),
    (errors.NetworkError, 11),
)

EPILOG = """\b
Exit codes:
  0    everything asked for was done
  1    internal error
  2    arguments or configuration
  3    no usable input: nothing found, unreadable or unsupported
  4    geometry refused: slices missing, unequal or duplicated
  5    model missing, not trusted or incompatible
  6    out of memory
  7    some studies failed, or all of them for different reasons
  8    device not available
  9    output cannot be written
  10   a worker process was killed or took too long
  11   a port or another DICOM node cannot be used
  130  interrupted

Research use only. Not a medical device.
"""


def code_of(error: BaseException | str) -> int:
    """The exit code of an error, or of an error's class by its name.

    >>> code_of("UnreadableFileError"), code_of(MemoryError()), code_of("ZeroDivisionError")
    (3, 6, 1)
    """
    if isinstance(error, str):
        kind = getattr(errors, error, None) or getattr(builtins, error, None)
    else:
        kind = type(error)
    if not isinstance(kind, type):
        return INTERNAL
    return next((code for base, code in EXIT_CODES if issubclass(kind, base)), INTERNAL)


def common_code(codes: Iterable[int]) -> int:
    """The one code of several failures, or the code for a part where they differ."""
    distinct = set(codes)
    return distinct.pop() if len(distinct) == 1 else PARTIAL
