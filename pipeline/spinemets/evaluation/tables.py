"""Rows of results as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

__all__ = ["Row", "mean_row", "to_json", "to_markdown"]

Row = Mapping[str, str | int | float | None]


def to_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table; numbers of fewer than 10 with three decimals, None as a dash.

    Examples
    --------
    >>> print(to_markdown([{"subject": "007", "dice": 0.91234, "lesions": 0}]))
    | subject | dice | lesions |
    |---|---|---|
    | 007 | 0.912 | 0 |
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value).replace("|", "\\|")


def mean_row(rows: Sequence[Row], label: str = "mean") -> Row:
    """The mean of every numeric column over the rows that have a value; the first column says ``label``."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    means: dict[str, str | int | float | None] = {}
    for column in columns[1:]:
        values = [value for row in rows if isinstance(value := row.get(column), int | float)]
        means[column] = sum(values) / len(values) if values else None
    return {columns[0]: label, **means}


def to_json(tables: Mapping[str, Sequence[Row]]) -> str:
    """Several named tables as one JSON document."""
    return json.dumps({name: [dict(row) for row in rows] for name, rows in tables.items()}, indent=2) + "\n"
