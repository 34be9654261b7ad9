"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["output_folder"]


def output_folder(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
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
