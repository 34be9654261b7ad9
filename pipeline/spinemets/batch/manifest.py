"""Manifests: tables that list the studies of a batch, one in each row."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spinemets.batch.tables import SUMMARY_COLUMNS
from spinemets.errors import ConfigError, UnreadableFileError
from spinemets.reporting.tables import csv_text

__all__ = ["ManifestRow", "is_manifest", "manifest_text", "read_manifest"]

_OWN = ("study", "path")
_WITHIN = "study_in_path"

_Table = tuple[Sequence[str], Sequence[Mapping[str, str]]]
"""The names of the columns, and the rows."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One study as a manifest names it.

    Attributes
    ----------
    path
        Absolute, or relative to the manifest's folder in the file.
    columns
        Whatever else the row holds, as text.
    within
        Of several studies that the path holds, which one is meant: the column ``study_in_path``.
        A mark, as ``planning.study_mark`` makes it, the study's name or its UID. Empty where there
        is but one, or where it is called ``study``.
    """

    study: str
    path: Path
    columns: Mapping[str, str]
    within: str = ""


def is_manifest(path: Path) -> bool:
    """Whether an input is a manifest, by its suffix."""
    return path.suffix.lower() in (".csv", ".parquet") and path.is_file()


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Read a CSV or Parquet file with the columns ``study`` and ``path`` and any others.

    Between the values of a CSV file stand commas, or semicolons as spreadsheets of many languages write.

    Raises
    ------
    ConfigError
        A column is absent or has the name of one of the summary's, a row names no study or path, or
        there is none.
    UnreadableFileError
        The file is damaged, or pyarrow is needed and not there.
    """
    names, rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    missing = [name for name in _OWN if name not in names]
    if missing and not names:
        raise ConfigError(f"{path}: is empty; a manifest needs the columns study and path")
    if missing:
        raise ConfigError(f"{path}: has no column {missing[0]!r}; a manifest needs study and path")
    if not rows:
        raise ConfigError(
            f"{path}: lists no study; a manifest has a row for each, below the names of columns"
        )
    taken = [name for name in names if name in SUMMARY_COLUMNS and name not in _OWN]
    if taken:
        raise ConfigError(f"{path}: the column {taken[0]!r} is one of summary.csv's own; rename it")
    return tuple(_row(path, number, row) for number, row in enumerate(rows, start=1))


def manifest_text(rows: Iterable[ManifestRow]) -> str:
    """Rows as the text of a CSV manifest, with absolute paths."""
    rows = list(rows)
    extra = list(dict.fromkeys(name for row in rows for name in row.columns))
    values = [
        {"study": row.study, "path": os.path.realpath(row.path), _WITHIN: row.within, **row.columns}
        for row in rows
    ]
    within = (_WITHIN,) if any(row.within for row in rows) else ()
    columns = (*_OWN, *within, *extra)
    return csv_text(columns, ({name: row.get(name, "") for name in columns} for row in values))


def _row(manifest: Path, number: int, row: Mapping[str, str]) -> ManifestRow:
    study, path = (row.get(name, "").strip() for name in _OWN)
    if not study or not path:
        raise ConfigError(f"{manifest}: row {number} names no {'path' if study else 'study'}")
    if "\0" in path:
        raise ConfigError(f"{manifest}: the path of row {number} holds a character that no path can have")
    others = {name: value for name, value in row.items() if name not in (*_OWN, _WITHIN)}
    return ManifestRow(study, manifest.parent / path, others, row.get(_WITHIN, "").strip())


def _csv_rows(path: Path) -> _Table:
    try:
        # Spreadsheets begin their files with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(
            io.StringIO(text, newline=""), restkey="", strict=True, delimiter=_delimiter(text)
        )
        rows = [{name: value or "" for name, value in row.items()} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFileError(f"{path}: cannot be read as CSV ({error})") from error
    for number, row in enumerate(rows, start=1):
        if "" in row:
            raise ConfigError(f"{path}: row {number} has more values than the head line has columns")
    return list(reader.fieldnames or ()), rows


def _delimiter(text: str) -> str:
    """A semicolon where only that gives the head line both columns of a manifest.

    >>> _delimiter("study;path;age, years"), _delimiter("study,path,left;right")
    (';', ',')
    """
    heads = {
        mark: set(next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), ())) for mark in (",", ";")
    }
    return next((mark for mark, head in heads.items() if head >= set(_OWN)), ",")


def _parquet_rows(path: Path) -> _Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnreadableFileError(
            f"{path}: pyarrow is needed to read Parquet; install spinemets[parquet] or pass a CSV file"
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
        rows = table.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UnreadableFileError(f"{path}: cannot be read as Parquet ({error})") from error
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    return table.column_names, texts
