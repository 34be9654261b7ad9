"""The column map: every level from C1 to S5, which of them are visible, and where lesions lie.

Lays out a small drawing in pixels; the template draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.reporting.palette import COMPARTMENT_COLOURS, hex_colour
from spinemets.reporting.schema import FindingRecord, LevelRecord
from spinemets.reporting.words import percent

__all__ = ["ColumnMap", "LesionDot", "MapRow", "column_map"]

_WIDTHS = {
    SpineRegion.CERVICAL: 30,
    SpineRegion.THORACIC: 38,
    SpineRegion.LUMBAR: 48,
    SpineRegion.SACRAL: 42,
}
_HEIGHTS = {
    SpineRegion.CERVICAL: 17,
    SpineRegion.THORACIC: 19,
    SpineRegion.LUMBAR: 23,
    SpineRegion.SACRAL: 17,
}
_GAP, _REGION_GAP, _TOP = 3, 6, 4
_CENTRE, _FIRST_DOT, _DOT_STEP = 66, 112, 24
_OTHERS_COLOUR = "#c9ced6"
_MOST_DOTS = 4  # beside a level: with more, the whole drawing would have to be too small to read


@dataclass(frozen=True, slots=True)
class LesionDot:
    """A lesion's numbered dot, or that of the last ones of a crowded level.

    Attributes
    ----------
    label
        The lesion's number, or "+" and how many there are.
    lesion
        Whose place in the report it leads to.
    """

    label: str
    lesion: int
    x: int
    y: float
    colour: str
    description: str


@dataclass(frozen=True, slots=True)
class MapRow:
    """One level: its box, whether it is visible, and what is to be said of it.

    Attributes
    ----------
    state
        "absent" where it was not recognised, else "certain" or "uncertain".
    """

    level: str
    x: float
    y: float
    width: int
    height: int
    state: str
    cut_off: bool
    description: str


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The whole drawing."""

    width: int
    height: int
    rows: tuple[MapRow, ...]
    dots: tuple[LesionDot, ...]


def column_map(levels: Sequence[LevelRecord], findings: Sequence[FindingRecord]) -> ColumnMap:
    """Lay out the map; T13 and L6 appear only where the study has them."""
    records = {record.level: record for record in levels}
    rows: list[MapRow] = []
    y, before = float(_TOP), None
    for level in VertebralLevel:
        if level.is_supernumerary and level not in records:
            continue
        if before is not None and level.region is not before:
            y += _REGION_GAP
        width, height = _WIDTHS[level.region], _HEIGHTS[level.region]
        rows.append(_row(level, records.get(level), (_CENTRE - width / 2, y), (width, height)))
        y, before = y + height + _GAP, level.region
    dots = _dots(findings, {row.level: row.y + row.height / 2 for row in rows})
    right = max((dot.x for dot in dots), default=_FIRST_DOT) + _DOT_STEP
    return ColumnMap(right, round(y + _TOP), tuple(rows), dots)


def _row(
    level: VertebralLevel, record: LevelRecord | None, corner: tuple[float, float], size: tuple[int, int]
) -> MapRow:
    if record is None:
        sacral = level.region is SpineRegion.SACRAL
        why = "part of the sacrum, which is labelled as one" if sacral else "not recognised"
        state, cut_off, description = "absent", False, f"{level.value}: {why}"
    else:
        state = "uncertain" if record.uncertain else "certain"
        cut_off = not record.fully_visible
        others = ", ".join(f"{o.level.value} {percent(o.probability)}" for o in record.alternatives)
        description = f"{level.value}: {percent(record.confidence)}" + (f", or {others}" if others else "")
        description += "; cut off by the image's edge" if cut_off else ""
    return MapRow(level.value, corner[0], corner[1], size[0], size[1], state, cut_off, description)


def _dots(findings: Sequence[FindingRecord], middles: dict[str, float]) -> tuple[LesionDot, ...]:
    """One dot for each lesion with a level, side by side where several share one."""
    sharing: dict[str, list[FindingRecord]] = {}
    for finding in findings:
        if finding.level is not None and finding.level.value in middles:
            sharing.setdefault(finding.level.value, []).append(finding)
    dots: list[LesionDot] = []
    for level, found in sharing.items():
        single = found if len(found) <= _MOST_DOTS else found[: _MOST_DOTS - 1]
        for rank, finding in enumerate(single):
            place = _FIRST_DOT + rank * _DOT_STEP, middles[level]
            description = f"lesion {finding.lesion}, {finding.compartment.value}"
            colour = hex_colour(COMPARTMENT_COLOURS[finding.compartment])
            dots.append(LesionDot(str(finding.lesion), finding.lesion, *place, colour, description))
        rest = found[len(single) :]
        if rest:
            place = _FIRST_DOT + len(single) * _DOT_STEP, middles[level]
            description = "lesions " + ", ".join(str(finding.lesion) for finding in rest)
            dots.append(LesionDot(f"+{len(rest)}", rest[0].lesion, *place, _OTHERS_COLOUR, description))
    return tuple(dots)
