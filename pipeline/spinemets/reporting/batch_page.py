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

from spinemets.atomic import atomic_write_bytes
from spinemets.reporting.document import OVERVIEW_NAME
from spinemets.reporting.page import content_policy, data_url, new_environment, packaged_text

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
    return (
        new_environment()
        .get_template("batch.html.j2")
        .render(
            entries=entries,
            counts=Counter(entry.state for entry in entries),
            pictures={entry.study: _picture(entry) for entry in entries[:_MOST_PICTURES]},
            policy=content_policy(style, (script,)),
            style=Markup(style),
            script=Markup(script),
        )
    )


def _picture(entry: BatchEntry) -> str:
    path = entry.folder / THUMBNAIL_NAME
    if entry.state != "done" or not path.is_file():
        return ""
    return data_url(path.read_bytes(), "image/jpeg")
