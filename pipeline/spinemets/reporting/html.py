"""The report as one self-contained page: pictures, viewer and data inside, no network.

The page's content security policy admits only the scripts and the style written here, by
their hashes; so nothing that a header smuggles in could run, even past the escaping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment
from markupsafe import Markup
from pydantic import JsonValue

from spinemets.anatomy import Compartment
from spinemets.reporting.column import column_map
from spinemets.reporting.page import content_policy, data_url, new_environment, packaged_text
from spinemets.reporting.palette import COMPARTMENT_COLOURS, hex_colour
from spinemets.reporting.schema import FindingRecord, ReportDocument, SignalRecord
from spinemets.reporting.words import (
    length_text,
    lesion_count,
    level_name,
    level_names,
    level_span,
    percent,
    place_text,
    review_text,
    slices_text,
    uncertain_levels,
    volume_text,
)

__all__ = ["BarPart", "Pictures", "render_html"]


@dataclass(frozen=True, slots=True)
class Pictures:
    """PNG files by what they show, lesions by number; empty or absent what could not be drawn."""

    overview: bytes
    lesions: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class BarPart:
    """One coloured part of a bar that is 100 wide."""

    start: float
    width: float
    colour: str
    name: str


def render_html(document: ReportDocument, pictures: Pictures, viewer: Mapping[str, JsonValue] | None) -> str:
    """The page of a report.

    Parameters
    ----------
    pictures
        The overview and a picture for each finding of the document, as far as they could be drawn.
    viewer
        As made by :func:`spinemets.reporting.viewer.viewer_data`; None for a page to print, which
        has no viewer and no scripts.
    """
    style = packaged_text("templates", "report.css")
    library, script = "", ""
    if viewer is None:
        style += packaged_text("templates", "print.css")
    else:
        library, script = _library(), packaged_text("templates", "viewer.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            policy=content_policy(style, (library, script)),
            style=Markup(style),
            library=Markup(library),
            script=Markup(script),
            viewer=None if viewer is None else dict(viewer),
            overview=data_url(pictures.overview) if pictures.overview else "",
            pictures={number: data_url(content) for number, content in pictures.lesions.items()},
            uncertain=uncertain_levels(document.levels),
            column=column_map(document.levels, document.findings),
            compartments=[
                (c.value, hex_colour(COMPARTMENT_COLOURS[c]), document.summary.by_compartment[c])
                for c in Compartment
            ],
        )
    )


@cache
def _environment() -> Environment:
    environment = new_environment()
    environment.filters.update(
        percent=lambda probability: _unbroken(percent(probability)),
        length_mm=lambda length_mm: _unbroken(length_text(length_mm)),
        volume=lambda volume_mm3: _unbroken(volume_text(volume_mm3)),
        signal=_signal_text,
        bar=_bar,
        lesions=lesion_count,
        level=level_name,
        levels=level_names,
        span=level_span,
        place=place_text,
        slices=slices_text,
        review=review_text,
    )
    return environment


def _unbroken(quantity: str) -> str:
    """A number and its unit on one line."""
    return quantity.replace(" ", "\u00a0")


@cache
def _library() -> str:
    """NiiVue with its licence in front, as a script."""
    return (
        f"/*\n{packaged_text('assets', 'niivue.LICENSE.txt')}*/\n{packaged_text('assets', 'niivue.umd.js')}"
    )


def _signal_text(signal: SignalRecord) -> str:
    """A signal as a reader says it: "T2: bright against marrow (z +4.2)"."""
    if signal.z_score is None:
        return f"{signal.weighting}: {signal.appearance}"
    appearance = "like" if signal.appearance == "similar" else f"{signal.appearance} against"
    return f"{signal.weighting}: {appearance} {signal.reference} ({_unbroken(f'z {signal.z_score:+.1f}')})"


def _bar(finding: FindingRecord) -> list[BarPart]:
    """The compartments' probabilities as parts of one bar, in a fixed order."""
    parts: list[BarPart] = []
    start = 0.0
    for compartment in Compartment:
        width = 100 * finding.compartment_probabilities[compartment]
        colour = hex_colour(COMPARTMENT_COLOURS[compartment])
        parts.append(BarPart(round(start, 2), round(width, 2), colour, compartment.value))
        start += width
    return parts
