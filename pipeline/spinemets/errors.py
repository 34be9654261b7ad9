"""Every error that spinemets raises on purpose, in one tree.

    SpinemetsError
    ├── InputError                  what was given cannot be used
    │   ├── UnreadableFileError     a file is damaged, truncated or of no known format
    │   ├── UnsupportedInputError   a sound file of a kind this software does not take (4-D, CT, ...)
    │   ├── GeometryError           slices missing, unequal, duplicated, or an affine that is none
    │   └── NoUsableInputError      nothing in the input is a spine MRI that can be analysed
    ├── ConfigError                 a configuration file or option that means nothing
    ├── ModelError
    │   ├── ModelNotFoundError      no bundle of that name or at that path
    │   ├── ModelNotTrustedError    a bundle whose checksums do not match
    │   └── ModelIncompatibleError  a bundle that this version cannot run
    ├── DeviceError
    │   ├── DeviceUnavailableError  a device was named that is not there or cannot compute
    │   └── OutOfMemoryError        neither the device nor the CPU has room
    ├── TrainingError               a training that cannot go on
    ├── OutputError                 a result could not be written
    │   └── OutOfRoomError          the disk or the queue has no room for what arrives
    ├── NetworkError                a port, or another DICOM node, that cannot be used
    └── WorkerError                 a process that worked on a study ended before it was done
        └── TimeLimitError          it took longer than allowed and was ended

A message says what was found, what was expected, and what to do. It names the file
or the series, never a patient.
"""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = [
    "ConfigError",
    "DeviceError",
    "DeviceUnavailableError",
    "GeometryError",
    "InputError",
    "ModelError",
    "ModelIncompatibleError",
    "ModelNotFoundError",
    "ModelNotTrustedError",
    "NetworkError",
    "NoUsableInputError",
    "OutOfMemoryError",
    "OutOfRoomError",
    "OutputError",
    "SpinemetsError",
    "TimeLimitError",
    "TrainingError",
    "UnreadableFileError",
    "UnsupportedInputError",
    "WorkerError",
    "is_disk_full",
]


class SpinemetsError(Exception):
    """The common base: catch this to catch whatever spinemets raises on purpose."""


class InputError(SpinemetsError):
    """What was given cannot be used."""


class UnreadableFileError(InputError):
    """A file is damaged, truncated or of no known format."""


class UnsupportedInputError(InputError):
    """A sound file of a kind that this software does not take."""


class GeometryError(InputError):
    """Slices are missing, unequal or duplicated, or an affine is not one."""


class NoUsableInputError(InputError):
    """Nothing in the input is a spine MRI that can be analysed."""


class ConfigError(SpinemetsError):
    """A configuration file or an option means nothing."""


class ModelError(SpinemetsError):
    """A model bundle cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no bundle of that name or at that path."""


class ModelNotTrustedError(ModelError):
    """A bundle's files do not have the checksums that were recorded for them."""


class ModelIncompatibleError(ModelError):
    """A bundle was made for another version, or its parts do not fit together."""


class DeviceError(SpinemetsError):
    """A computing device cannot do what was asked of it."""


class DeviceUnavailableError(DeviceError):
    """A device was named that this machine does not have, or that cannot compute."""


class OutOfMemoryError(DeviceError):
    """Neither the device nor the CPU has room for this volume."""


class TrainingError(SpinemetsError):
    """A training cannot go on: its loss is no longer a number."""


class OutputError(SpinemetsError):
    """A result could not be written."""

    @classmethod
    def at(cls, path: Path, error: OSError) -> OutputError:
        """Of a file or folder, with what the system says of it."""
        return cls(f"{path}: cannot be written ({error.strerror}); check space and permissions")


class OutOfRoomError(OutputError):
    """The disk or the queue has no room for what arrives; it must be offered again later."""


class NetworkError(SpinemetsError):
    """A port cannot be listened on, or another DICOM node cannot be reached or refuses."""


class WorkerError(SpinemetsError):
    """A process that worked on a study ended before the study was done."""


class TimeLimitError(WorkerError):
    """A study took longer than allowed; the process that worked on it was ended."""


def is_disk_full(error: Exception) -> bool:
    """Whether the system refused to write because the disk, or one's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
