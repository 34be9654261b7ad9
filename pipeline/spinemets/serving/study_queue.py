"""The queue of a server in SQLite: every study that was received, and what is still to be done.

    received ─→ ready ─→ running ─→ done ─→ sent
        ↑                   ├─────→ failed
        │                   └─────→ skipped     none of its series can be used
        └── new or changed images bring a study back from any state

Each step is one transaction that the disk has before the method returns. Several threads and
processes may use one queue.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from spinemets.errors import OutOfRoomError, OutputError
from spinemets.serving.queue_database import QueueDatabase
from spinemets.serving.queued_study import Delivery, QueuedStudy, StudyState

__all__ = ["StudyQueue"]

_COLUMNS = """
    number, uid, state, revision, attempts, changed, reason,
    (SELECT count(*) FROM instance WHERE study = number AND is_image) AS images
"""
_WAITING = "('received', 'ready', 'running')"
# Of a study that is pulled from where its images are not counted.
_UNKNOWN = -1
# Of an analysis that is to begin again: images that came meanwhile may be followed by others.
_AGAIN = "CASE revision WHEN ? THEN 'ready' ELSE 'received' END"


class StudyQueue:
    """The queue in one file.

    Parameters
    ----------
    path
        Made where it is missing.
    clock
        Seconds since 1970.

    Raises
    ------
    OutputError
        The file cannot be used, or is of another version. Every method may raise it.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tables = QueueDatabase(path)

    def close(self) -> None:
        """Let go of the file."""
        self._tables.close()

    def admit(self, uid: str, most_waiting: int) -> int:
        """The number of a study, which is given one if it is new.

        Raises
        ------
        OutOfRoomError
            It is not waiting already, and as many studies as may wait do.
        """
        with self._tables.transaction():
            row = self._tables.one("SELECT number, state FROM study WHERE uid = ?", uid)
            if row is not None:
                return int(row["number"])
            waiting = self._tables.number(f"SELECT count(*) FROM study WHERE state IN {_WAITING}")
            if waiting >= most_waiting:
                raise OutOfRoomError(f"{waiting} studies wait to be analysed; no more are taken for now")
            added = self._tables.change(
                "INSERT INTO study (uid, state, changed) VALUES (?, 'received', ?)", uid, self._clock()
            )
            return int(added.lastrowid or 0)

    def holds(self, number: int, name: str, checksum: str) -> bool:
        """Whether a study has this very instance."""
        with self._tables.transaction():
            found = self._tables.one(
                "SELECT 1 FROM instance WHERE study = ? AND name = ? AND checksum = ?", number, name, checksum
            )
            return found is not None

    def note_repetition(self, number: int) -> None:
        """An instance that is here came again: whoever sends a study anew is yet to send the rest.

        Not so where it is pulled: what a node never gives is asked for again without end.
        """
        with self._tables.transaction():
            self._tables.change(
                "UPDATE study SET state = 'received', changed = ? "
                "WHERE number = ? AND state IN ('received', 'ready') AND expected = 0",
                self._clock(),
                number,
            )

    def add(self, number: int, name: str, checksum: str, is_image: bool) -> None:
        """Note an instance whose file is in place; a new image brings its study back to the start.

        Raises
        ------
        OutputError
            The study was removed in the meantime.
        """
        with self._tables.transaction():
            if self._tables.one("SELECT 1 FROM study WHERE number = ?", number) is None:
                raise OutputError("the study was removed from the queue while a file of it arrived")
            self._tables.change(
                "INSERT OR REPLACE INTO instance VALUES (?, ?, ?, ?)", number, name, checksum, is_image
            )
            now = self._clock()
            if not is_image:
                # Reports and the like, our own among them, are kept, but give no new result.
                self._tables.change(
                    "UPDATE study SET changed = ? WHERE number = ? AND state = 'received'", now, number
                )
                return
            self._tables.change(
                "UPDATE study SET changed = ?, revision = revision + 1, attempts = 0, due = 0, reason = '', "
                "state = CASE state WHEN 'running' THEN 'running' ELSE 'received' END WHERE number = ?",
                now,
                number,
            )

    def expect(self, number: int, images: int) -> None:
        """Note how many images a study has where it is pulled from, or 0 where that is not known.

        It counts for its next analysis only.
        """
        with self._tables.transaction():
            self._tables.change("UPDATE study SET expected = ? WHERE number = ?", images or _UNKNOWN, number)

    def note_pull(self, number: int, series_uids: Sequence[str]) -> None:
        """Note that these series of a study were got to the last."""
        with self._tables.transaction():
            self._tables.change("UPDATE study SET pulled = ? WHERE number = ?", _mark(series_uids), number)

    def was_pulled(self, uid: str, series_uids: Sequence[str]) -> bool:
        """Whether exactly these series of a study were got to the last when it was pulled."""
        with self._tables.transaction():
            row = self._tables.one("SELECT pulled FROM study WHERE uid = ?", uid)
            return row is not None and row["pulled"] == _mark(series_uids)

    def count_images(self, uid: str) -> int:
        """How many images of a study there are; 0 for one that is not known."""
        with self._tables.transaction():
            return self._tables.number(
                "SELECT count(*) FROM instance JOIN study ON study = number WHERE uid = ? AND is_image", uid
            )

    def settle(self, idle_s: float) -> None:
        """Make studies ready to which nothing was added for so long, or that have just what is expected.

        Whoever adds to what was expected may add more.
        """
        with self._tables.transaction():
            now = self._clock()
            # A clock that was set back must not make a study wait for as long.
            self._tables.change(
                "UPDATE study SET changed = ? WHERE state = 'received' AND changed > ?", now, now
            )
            count = "(SELECT count(*) FROM instance WHERE study = number AND is_image)"
            self._tables.change(
                "UPDATE study SET state = 'skipped', changed = ?, reason = 'holds no MR image' "
                "WHERE state = 'received' AND revision = 0 AND changed <= ?",
                now,
                now - idle_s,
            )
            self._tables.change(
                "UPDATE study SET state = 'ready' WHERE state = 'received' AND revision > 0 "
                f"AND (changed <= ? OR (expected > 0 AND {count} = expected))",
                now - idle_s,
            )

    def begin(self) -> QueuedStudy | None:
        """Take the study that has been ready longest; None where none is."""
        with self._tables.transaction():
            number = self._tables.number(
                "SELECT number FROM study WHERE state = 'ready' AND due <= ? ORDER BY changed LIMIT 1",
                self._clock(),
            )
            if not number:
                return None
            self._tables.change(
                "UPDATE study SET state = 'running', attempts = attempts + 1, expected = 0 WHERE number = ?",
                number,
            )
            return self._study(number)

    def end(self, study: QueuedStudy, state: StudyState, reason: str = "", nodes: Sequence[str] = ()) -> bool:
        """Note how an analysis ended, and which nodes are to have its result.

        Returns
        -------
        bool
            False where images came in the meantime: then the study begins again.
        """
        with self._tables.transaction():
            now = self._clock()
            ended = self._tables.change(
                "UPDATE study SET state = ?, reason = ?, changed = ? WHERE number = ? AND revision = ?",
                state.value,
                reason,
                now,
                study.number,
                study.revision,
            )
            self._tables.change("DELETE FROM delivery WHERE study = ?", study.number)
            if not ended.rowcount:
                self._tables.change("UPDATE study SET state = 'received' WHERE number = ?", study.number)
                return False
            if state is StudyState.DONE:
                for node in nodes:
                    self._tables.change(
                        "INSERT INTO delivery (study, node) VALUES (?, ?)", study.number, node
                    )
            return True

    def postpone(self, study: QueuedStudy, reason: str, pause_s: float) -> None:
        """Let an analysis that failed by chance be tried again later."""
        with self._tables.transaction():
            self._tables.change(
                f"UPDATE study SET state = {_AGAIN}, reason = ?, due = ? WHERE number = ?",
                study.revision,
                reason,
                self._clock() + pause_s,
                study.number,
            )

    def put_back(self, study: QueuedStudy) -> None:
        """An analysis was given up because the server stops; it does not count as an attempt."""
        with self._tables.transaction():
            self._tables.change(
                f"UPDATE study SET state = {_AGAIN}, attempts = max(attempts - 1, 0) WHERE number = ?",
                study.revision,
                study.number,
            )

    def recover(self, most_attempts: int) -> int:
        """Take up what a killed server was doing; to be called when no server uses the queue.

        Returns
        -------
        int
            How many studies were being analysed.
        """
        with self._tables.transaction():
            self._tables.change(
                "UPDATE study SET state = 'failed', changed = ?, reason = ? "
                "WHERE state = 'running' AND attempts >= ?",
                self._clock(),
                "the server ended each time while it was analysed",
                most_attempts,
            )
            # Not ready: images may have come a moment before the server ended.
            again = self._tables.change("UPDATE study SET state = 'received' WHERE state = 'running'")
            return again.rowcount

    def next_delivery(self, node: str) -> Delivery | None:
        """What is to be sent to a node now; None where nothing is."""
        with self._tables.transaction():
            row = self._tables.one(
                "SELECT delivery.study AS study, delivery.attempts AS attempts FROM delivery "
                "JOIN study ON study = number WHERE node = ? AND study.state = 'done' "
                "AND delivery.state = 'waiting' AND delivery.due <= ? ORDER BY delivery.due, study LIMIT 1",
                node,
                self._clock(),
            )
            if row is None:
                return None
            return Delivery(self._study(row["study"]), node, int(row["attempts"]) + 1)

    def delivered(self, delivery: Delivery) -> None:
        """A node has the results; a study is sent when all have."""
        with self._tables.transaction():
            self._settle_delivery(delivery, "sent", "", 0.0)
            self._tables.change(
                "UPDATE study SET state = 'sent', changed = ? WHERE number = ? AND state = 'done' "
                "AND NOT EXISTS (SELECT 1 FROM delivery WHERE study = number AND delivery.state != 'sent')",
                self._clock(),
                delivery.study.number,
            )

    def not_delivered(self, delivery: Delivery, reason: str, pause_s: float | None) -> None:
        """A node does not have the results; it is tried again after the pause, or not where it is None."""
        with self._tables.transaction():
            if pause_s is None:
                self._settle_delivery(delivery, "failed", reason, 0.0)
            else:
                self._settle_delivery(delivery, "waiting", reason, self._clock() + pause_s)

    def studies(self) -> tuple[QueuedStudy, ...]:
        """Every study, oldest first."""
        with self._tables.transaction():
            return tuple(map(_study_of, self._tables.all(f"SELECT {_COLUMNS} FROM study ORDER BY number")))

    def deliveries(self) -> tuple[tuple[int, str, str, int, str], ...]:
        """Study number, node, state, attempts and reason of every delivery."""
        with self._tables.transaction():
            rows = self._tables.all(
                "SELECT study, node, state, attempts, reason FROM delivery ORDER BY study, node"
            )
            return tuple((row[0], row[1], row[2], row[3], row[4]) for row in rows)

    def retry_failed(self) -> int:
        """Let every failed analysis and delivery be tried again; how many there were."""
        with self._tables.transaction():
            studies = self._tables.change(
                "UPDATE study SET state = 'ready', attempts = 0, due = 0, reason = '' WHERE state = 'failed'"
            )
            deliveries = self._tables.change(
                "UPDATE delivery SET state = 'waiting', attempts = 0, due = 0 WHERE state = 'failed'"
            )
            return studies.rowcount + deliveries.rowcount

    def forget(self, days: float) -> int:
        """Remove the studies that have been finished for so long; how many there were."""
        with self._tables.transaction():
            removed = self._tables.change(
                "DELETE FROM study WHERE changed < ? AND (state IN ('sent', 'skipped') OR (state = 'done' "
                "AND NOT EXISTS (SELECT 1 FROM delivery WHERE study = number)))",
                self._clock() - days * 86400,
            )
            return removed.rowcount

    def _settle_delivery(self, delivery: Delivery, state: str, reason: str, due: float) -> None:
        # A study that was analysed again has deliveries of its own.
        self._tables.change(
            "UPDATE delivery SET state = ?, reason = ?, due = ?, attempts = ? WHERE study = ? AND node = ? "
            "AND (SELECT revision FROM study WHERE number = study) = ?",
            state,
            reason,
            due,
            delivery.attempts,
            delivery.study.number,
            delivery.node,
            delivery.study.revision,
        )

    def _study(self, number: int) -> QueuedStudy:
        return _study_of(self._tables.all(f"SELECT {_COLUMNS} FROM study WHERE number = ?", number)[0])


def _mark(series_uids: Sequence[str]) -> str:
    return hashlib.sha256(ascii(sorted(series_uids)).encode()).hexdigest()


def _study_of(row: sqlite3.Row) -> QueuedStudy:
    values = dict(row)
    return QueuedStudy(**{**values, "state": StudyState(values["state"])})
