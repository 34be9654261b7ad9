"""The queue's file: its tables, and transactions that the disk has before they end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from spinemets.errors import OutputError

__all__ = ["QueueDatabase"]

_FORMAT = 2
_PATIENCE_S = 30.0
_SCHEMA = """
CREATE TABLE study (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,
    expected INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    changed REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    pulled TEXT NOT NULL DEFAULT ''
);
CREATE INDEX study_state ON study (state, changed);
CREATE TABLE instance (
    study INTEGER NOT NULL REFERENCES study (number) ON DELETE CASCADE,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    is_image INTEGER NOT NULL,
    PRIMARY KEY (study, name)
) WITHOUT ROWID;
CREATE TABLE delivery (
    study INTEGER NOT NULL REFERENCES study (number) ON DELETE CASCADE,
    node TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (study, node)
) WITHOUT ROWID;
"""
# What makes a queue of an older format one of the next.
_CHANGES = {1: "ALTER TABLE study ADD COLUMN pulled TEXT NOT NULL DEFAULT ''"}


class QueueDatabase:
    """A SQLite file that several threads and processes may use.

    Parameters
    ----------
    path
        Made where it is missing.

    Raises
    ------
    OutputError
        The file cannot be used, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self._trouble(error) from error
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        with self._guard:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block whose statements take effect together or not at all.

        Raises
        ------
        OutputError
            The disk is full, another process keeps the file too long, and the like.
        """
        with self._guard:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._trouble(error) from error
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def change(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Carry out a statement within a transaction."""
        return self._connection.execute(statement, values)

    def one(self, query: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query within a transaction."""
        row: sqlite3.Row | None = self._connection.execute(query, values).fetchone()
        return row

    def number(self, query: str, *values: object) -> int:
        """The one value of a query within a transaction; 0 where there is none."""
        row = self.one(query, *values)
        return 0 if row is None else int(row[0] or 0)

    def all(self, query: str, *values: object) -> Sequence[sqlite3.Row]:
        """Every row of a query within a transaction."""
        return self._connection.execute(query, values).fetchall()

    def _prepare(self) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            # A step that was reported must outlast a loss of power too.
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        with self.transaction():
            version = self.number("PRAGMA user_version")
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    self.change(statement)
            elif version in _CHANGES:
                for older in range(version, _FORMAT):
                    self.change(_CHANGES[older])
            elif version != _FORMAT:
                raise OutputError(
                    f"{self._path}: is a queue of format {version}, and this version of spinemets reads "
                    f"{_FORMAT}; choose another folder"
                )
            self.change(f"PRAGMA user_version = {_FORMAT}")

    def _trouble(self, error: Exception) -> OutputError:
        return OutputError(f"{self._path}: the queue cannot be used ({error}); check space and permissions")
