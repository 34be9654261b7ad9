"""The index page of a batch: one row for each study, to be searched, filtered and sorted.

The page holds its pictures, style and script, and admits nothing else.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from spinemets.anatomy import Compartment, VertebralLevel
from spinemets.atomic import atomic_write_bytes
from spinemets.reporting.document import OVERVIEW_NAME
from spinemets.reporting.page import content_policy, data_url, new_environment, packaged_text
from spinemets.reporting.tables import CAUTION_BREAK
from spinemets.reporting.words import lesion_count, level_name, percent

__all__ = ["THUMBNAIL_NAME", "BatchEntry", "render_batch_page", "write_thumbnail"]

THUMBNAIL_NAME = "overview_small.jpg"
_THUMBNAIL_SIZE = (220, 160)
# About 6 KB each: beyond this the page would be slow to open, and shows no more.
_MOST_PICTURES = 3000


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """One study of the index page.

    Attributes
    ----------
    summary
        The study's row, as ``report_row`` makes it; empty where there is no report.
    log
        Relative to the page; empty where there is none.
    folder
        The study's result folder, which lies beside the page.
    """

    study: str
    state: str
    reason: str
    summary: Mapping[str, object]
    log: str
    folder: Path

    @property
    def link(self) -> str:
        """Where its report lies, relative to the page; empty where there is none."""
        if self.state != "done":
            return ""
        name = next((name for name in ("report.html", "report.json") if (self.folder / name).is_file()), "")
        return quote(f"{self.study}/{name}")

    @property
    def is_without_spine(self) -> bool:
        """Whether it has a report in which no vertebra is recognised."""
        return "levels_seen" in self.summary and not self.summary["levels_seen"]

    @property
    def is_for_review(self) -> bool:
        """Whether a reader must decide: about a finding, the levels' names, or if this is a spine."""
        asked = self.summary.get("needs_review") or self.summary.get("levels_uncertain")
        return bool(asked or self.is_without_spine)

    @property
    def compartments(self) -> str:
        """How many lesions lie in each compartment: "2 extradural, 1 intramedullary"."""
        counts = {c.value: self.summary.get(f"lesions_{c.value}") for c in Compartment}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    @property
    def levels(self) -> str:
        """The levels that its lesions involve, as the report names them: "L5 sacrum"."""
        involved = str(self.summary.get("levels_involved") or "").split()
        return " ".join(level_name(VertebralLevel(level), ()) for level in involved)

    @property
    def highest_confidence(self) -> float | None:
        """Of its lesions; None where there is none."""
        value = self.summary.get("highest_confidence")
        return value if isinstance(value, float) else None

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader must know of its report, in sentences."""
        return tuple(filter(None, str(self.summary.get("caution_texts") or "").split(CAUTION_BREAK)))


def write_thumbnail(folder: Path) -> None:
    """Write a small copy of a result folder's overview, where it has one.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    overview = folder / OVERVIEW_NAME
    if not overview.is_file():
        return
    with Image.open(overview) as picture:
        small = picture.convert("RGB")
    small.thumbnail(_THUMBNAIL_SIZE)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=70)
    atomic_write_bytes(folder / THUMBNAIL_NAME, buffer.getvalue())


def render_batch_page(entries: Sequence[BatchEntry]) -> str:
    """The page over all studies of an output folder."""
    style = packaged_text("templates", "report.css") + packaged_text("templates", "batch.css")
    script = packaged_text("templates", "batch.js")
    environment = new_environment()
    environment.filters.update(percent=percent, lesions=lesion_count)
    return environment.get_template("batch.html.j2").render(
        entries=entries,
        counts=Counter(entry.state for entry in entries),
        pictures={entry.study: _picture(entry) for entry in entries[:_MOST_PICTURES]},
        policy=content_policy(style, (script,)),
        style=Markup(style),
        script=Markup(script),
    )


def _picture(entry: BatchEntry) -> str:
    path = entry.folder / THUMBNAIL_NAME
    if entry.state != "done" or not path.is_file():
        return ""
    return data_url(path.read_bytes(), "image/jpeg")
