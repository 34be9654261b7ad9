"""Tables and an index page of everything that an output folder holds, made from its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from spinemets.atomic import atomic_write_text
from spinemets.batch.records import BatchRecord
from spinemets.reporting.batch_page import BatchEntry, render_batch_page
from spinemets.reporting.tables import FINDING_COLUMNS, REPORT_COLUMNS, Row, csv_text, write_parquet

__all__ = ["FINDINGS_NAME", "INDEX_NAME", "SUMMARY_COLUMNS", "SUMMARY_NAME", "write_tables"]

SUMMARY_NAME = "summary.csv"
FINDINGS_NAME = "findings.csv"
INDEX_NAME = "index.html"
SUMMARY_COLUMNS: Mapping[str, type] = {
    **dict.fromkeys(("study", "state", "reason", "error", "stage"), str),
    **REPORT_COLUMNS,
    "seconds": float,
    "source": str,
}
"""Of ``summary.csv``, with the types of their values; the columns of a manifest come after them."""


def write_tables(out: Path, records: Mapping[str, BatchRecord]) -> None:
    """Write ``summary.csv``, ``findings.csv`` and ``index.html``, and Parquet where pyarrow is there.

    Studies come in the order of their names, whatever order they ended in.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    ordered = [records[key] for key in sorted(records)]
    extra = dict.fromkeys((name for record in ordered for name in record.columns), str)
    columns = {**SUMMARY_COLUMNS, **extra}
    summary = [_summary_row(record) for record in ordered]
    findings: list[Row] = [row for record in ordered for row in record.findings]
    _write(out / SUMMARY_NAME, columns, summary)
    _write(out / FINDINGS_NAME, FINDING_COLUMNS, findings)
    atomic_write_text(out / INDEX_NAME, render_batch_page(_entries(out, ordered)))


def _write(path: Path, columns: Mapping[str, type], rows: Sequence[Row]) -> None:
    atomic_write_text(path, csv_text(columns, rows))
    if find_spec("pyarrow") is not None:
        write_parquet(path.with_suffix(".parquet"), columns, rows)


def _summary_row(record: BatchRecord) -> Row:
    return {
        **record.columns,
        "study": record.study,
        "state": record.state.value,
        "reason": record.reason,
        "error": record.error,
        "stage": record.stage.value if record.stage else "",
        **record.summary,
        "seconds": round(sum(record.seconds.values()), 2) if record.seconds else None,
        "source": record.source,
    }


def _entries(out: Path, records: Iterable[BatchRecord]) -> list[BatchEntry]:
    return [
        BatchEntry(
            study=record.study,
            state=record.state.value,
            reason=record.reason,
            summary=record.summary,
            log=record.log,
            folder=out / record.study,
        )
        for record in records
    ]
