"""Commands in processes of their own that get a signal in the middle, for the tests of what they leave."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from spinemets.batch import deidentified, plan_batch
from spinemets.batch.workers import _context
from spinemets.cli import main
from spinemets.config import DeidentificationConfig
from spinemets.io import sources
from spinemets.io.deidentification import listing

PASSED_ON = ("SPINEMETS_DEID_KEY", "TMPDIR")


def exit_code_of(function: Callable[..., object], *arguments: object) -> int | None:
    """How a process ends that does this, in the environment of this one."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    process = _context().Process(target=_within, args=(environment, function, arguments))
    process.start()
    process.join()
    return process.exitcode


def _within(
    environment: Mapping[str, str], function: Callable[..., object], arguments: tuple[object]
) -> None:
    os.environ.update(environment)
    tempfile.tempdir = None
    function(*arguments)


def copy_and_be_killed(path: Path, out: Path) -> None:
    """Copy the study of an archive as a worker does that the system kills at its third file."""
    genuine, count = listing.copy_dicom, iter(range(1, 100))

    def fatal(*arguments):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(*arguments)

    listing.copy_dicom = fatal
    (study,) = plan_batch([path])
    deidentified.copied_study(study.found, out, "study-1", DeidentificationConfig(enabled=True))


def command_and_be_killed(arguments: list[str], number: int, copying: bool) -> None:
    """Run a command that gets a signal at the third copy, or when an archive is unpacked to be listed."""
    # A process in the background of a shell inherits an interrupt that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    module, name = (listing, "copy_dicom") if copying else (sources, "_walk")
    genuine, count = getattr(module, name), iter(range(1, 100))

    def fatal(*given):
        if next(count) == (3 if copying else 1):
            os.kill(os.getpid(), number)
            time.sleep(10)
        return genuine(*given)

    setattr(module, name, fatal)
    main(arguments)
