"""What commands say on stderr: their log lines, and why they refuse or stop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import click

from spinemets.errors import SpinemetsError
from spinemets.exit_codes import code_of, common_code

__all__ = ["complain", "refuse", "set_up_logging"]


def complain(message: str) -> None:
    """A line about what went wrong, under the program's name."""
    click.echo(f"spinemets: {message}", err=True)


def refuse(problems: Sequence[SpinemetsError]) -> int:
    """Say why no input can be used, without loading a model for it; the exit code."""
    for problem in problems:
        complain(f"error: {problem}")
    return common_code(code_of(problem) for problem in problems)


def set_up_logging(verbose: int, quiet: bool) -> None:
    """Warnings and worse, or as ``-v`` and ``-q`` ask, in lines that break no progress bar."""
    from spinemets.terminal import log_handler

    handler = log_handler()
    if not verbose:
        # What libraries warn of is for developers.
        handler.addFilter(logging.Filter("spinemets"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.getLogger("spinemets").setLevel(level)
    logging.captureWarnings(True)
