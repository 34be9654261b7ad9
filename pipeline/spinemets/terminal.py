"""What the command line shows with rich: the table of a study's series, progress and log lines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from spinemets.batch import Tally
    from spinemets.io import SeriesListing, StudyListing

__all__ = ["LiveProgress", "has_terminal", "log_handler", "print_listings"]

# Without a terminal, rich would fold tables at 80 columns.
_FILE_WIDTH = 160


def print_listings(listings: Sequence[StudyListing]) -> None:
    """Print every series on stdout: weighting, plane, spacing, slices, kept or why not."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_FILE_WIDTH)
    table = Table()
    for heading in ("study", "series", "weighting", "plane", "spacing (mm)", "slices", "used"):
        table.add_column(heading, justify="right" if heading == "slices" else "left", overflow="fold")
    for listing in listings:
        study = Text(_clean(str(listing.source)))
        for entry in listing.series:
            table.add_row(study, *_cells(entry))
            study = Text()
        table.add_section()
    console.print(table)
    console.print(_count(listings), markup=False)


def _cells(entry: SeriesListing) -> tuple[str | Text, ...]:
    """One row; text from headers is kept from being read as rich's own mark-up."""
    return (
        Text(_clean(entry.series.name)),
        entry.series.weighting.value,
        entry.series.plane.value if entry.shape else "",
        " × ".join(f"{length:.2f}" for length in entry.spacing_mm),
        str(entry.slices),
        Text("kept", "green") if entry.kept else Text(f"rejected: {_clean(entry.reason)}", "yellow"),
    )


def _count(listings: Sequence[StudyListing]) -> str:
    series = [entry for listing in listings for entry in listing.series]
    ignored = {file.path for listing in listings for file in listing.ignored}
    kept = sum(entry.kept for entry in series)
    return (
        f"Studies: {len(listings)}, series: {len(series)}, kept: {kept}, other files ignored: {len(ignored)}"
    )


class LiveProgress:
    """A bar over the studies of a batch on stderr, with what each stage is doing.

    Parameters
    ----------
    studies
        How many there are.
    """

    def __init__(self, studies: int) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=_stderr(),
            transient=True,
            # Piped output must stay on stdout, where rich would move it to the console.
            redirect_stdout=Console().is_terminal,
        )
        self._task = self._progress.add_task("", total=studies)

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, tally: Tally) -> None:
        """Show how far the batch is."""
        self._progress.update(self._task, completed=tally.count, description=tally.line())


def has_terminal() -> bool:
    """Whether stderr is a terminal, on which a bar can live."""
    return _stderr().is_terminal


def log_handler() -> logging.Handler:
    """A handler for stderr whose lines do not break a progress bar."""
    console = _stderr()
    if console.is_terminal:
        return RichHandler(console=console, show_time=False, show_path=False)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    return handler


@cache
def _stderr() -> Console:
    """The one console that both the bar and the log lines go through."""
    return Console(stderr=True)


def _clean(text: str) -> str:
    """Text from a header without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text).strip()
