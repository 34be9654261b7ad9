"""Options that several commands have, of the command line and of scripts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["device_option", "output_folder", "study_options", "together"]

_Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def device_option(default: str | None = None) -> _Option:
    """The option ``-d DEVICE``: a device's name, whether or not the device is there."""
    return click.option(
        "-d",
        "--device",
        default=default,
        metavar="DEVICE",
        callback=_checked_device,
        help="auto, cpu, cuda, cuda:N or mps.  [default: auto]",
    )


def output_folder(what: str) -> _Option:
    """The option ``-o OUT``: a folder for what a command makes, in the words of its help."""
    return click.option(
        "-o",
        "--output",
        "out",
        required=True,
        metavar="OUT",
        type=click.Path(file_okay=False, path_type=Path),
        help=what,
    )


def together(*options: _Option) -> _Option:
    """Several options under one name, listed in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


study_options = together(
    click.argument(
        "inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(exists=True, path_type=Path)
    ),
    click.option(
        "--identifiers",
        type=click.Choice(["keep", "hash"]),
        help="Write names, UIDs, patient ID and date as they are, or hash or omit them.  [default: hash]",
    ),
    click.option("-v", "--verbose", count=True, help="Say more; -vv also shows tracebacks."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings."),
)
"""Of ``inspect``, ``detect`` and ``plan``."""


def _checked_device(_context: click.Context, _parameter: click.Parameter, device: str | None) -> str | None:
    if device is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise click.BadParameter(f"{device!r} is not one of auto, cpu, mps, cuda or cuda:N")
    return device
