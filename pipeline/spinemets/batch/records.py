"""The truth of a batch: ``batch.jsonl``, to which each study that ends adds one line.

A line is on the disk before the next study is told to have ended, so a run that is killed at
any moment loses only what was in flight. Knows nothing of how a study is analysed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, ValidationInfo, field_validator

from spinemets.batch.names import is_file_name, is_study_name
from spinemets.errors import NoUsableInputError, OutputError
from spinemets.io import EARLIER_NAME, RECORDS_NAME
from spinemets.locks import take_lock

__all__ = [
    "LOGS_NAME",
    "RECORDS_NAME",
    "BatchRecord",
    "RecordBook",
    "Stage",
    "Stamp",
    "State",
    "read_records",
]

LOGS_NAME = "logs"
"""A folder beside the results, of the tracebacks of studies that failed."""

_log = logging.getLogger(__name__)

_RESERVE_NAME = ".reserve"
_RESERVE_BYTES = 4 * 2**20


class State(Enum):
    """How a study ended; skipped means that none of its series can be used."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Stage(Enum):
    """The parts of a study's way through a batch."""

    READING = "reading"
    NETWORK = "network"
    WRITING = "writing"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stamp(_Line):
    """What a result follows from: equal stamps mean equal results.

    Attributes
    ----------
    input
        Checksum of the study's files or identifiers.
    model
        SHA-256 of the weights.
    settings
        Checksum of the configuration, the device aside.
    version
        Of spinemets.
    """

    input: str
    model: str
    settings: str
    version: str

    def difference(self, other: Stamp) -> str:
        """What has changed since the other stamp, in words; empty where nothing has.

        >>> now = Stamp(input="a", model="b", settings="c", version="1")
        >>> now.difference(now.model_copy(update={"model": "x"}))
        'another model'
        """
        words = {
            "input": "another input",
            "model": "another model",
            "settings": "other settings",
            "version": "another version of spinemets",
        }
        return ", ".join(word for name, word in words.items() if getattr(self, name) != getattr(other, name))


class BatchRecord(_Line):
    """How one study ended.

    Folders may come from elsewhere to be merged, so what is used as a path is held to what a run writes.

    Attributes
    ----------
    study
        Its key, the name of its result folder.
    source
        The full path of its input; what stands for that where names are hidden.
    reason
        A sentence for a study that failed or was skipped.
    error
        The name of the error's class, where it failed.
    stage
        Where it was when it failed.
    log
        A file with the traceback, relative to the output folder; empty where there is none.
    earlier
        A folder with the result of an earlier run, relative to the output folder, where this one
        made none; empty where there is none.
    columns
        What the manifest told of the study beside its name and place.
    summary, findings
        The rows of the tables.
    seconds
        Wall time by stage.
    run, ended
        Which call it was, and when the study ended, in UTC.
    """

    format: Literal[1] = 1
    study: str
    state: State
    source: str
    stamp: Stamp
    reason: str = ""
    error: str = ""
    stage: Stage | None = None
    log: str = ""
    earlier: str = ""
    columns: dict[str, str] = {}
    summary: dict[str, JsonValue] = {}
    findings: tuple[dict[str, JsonValue], ...] = ()
    seconds: dict[str, float] = {}
    run: str = ""
    ended: str = ""

    @field_validator("study")
    @classmethod
    def _is_a_name(cls, study: str) -> str:
        if not is_study_name(study):
            raise ValueError("is not the name of a study's folder")
        return study

    @field_validator("log", "earlier")
    @classmethod
    def _lies_in_its_folder(cls, path: str, info: ValidationInfo) -> str:
        folder = LOGS_NAME if info.field_name == "log" else EARLIER_NAME
        parent, _, name = path.rpartition("/")
        if path and (parent != folder or not is_file_name(name)):
            raise ValueError(f"is not a name below {folder}/")
        return path

    @field_validator("ended")
    @classmethod
    def _is_a_time(cls, ended: str) -> str:
        if ended:
            datetime.fromisoformat(ended)
        return ended


@dataclass(slots=True)
class _Content:
    records: dict[str, BatchRecord]
    whole_bytes: int


class RecordBook:
    """The records of an output folder, open for adding to; one run at a time.

    Parameters
    ----------
    folder
        Made where it is missing.

    Raises
    ------
    OutputError
        The folder cannot be written to, another run is using it, or a line is not a record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / RECORDS_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise OutputError.at(path, error) from error
        try:
            refusal = f"{folder}: another run is writing to it; wait for it, or choose another folder"
            # Workers hold it too: those of a run that was killed end before the next one begins.
            if not take_lock(self._file.fileno(), refusal):
                _log.warning("%s: its file system has no locks; let only one run write to it", folder)
            content = _read(path)
            # A line that a killed run left half-written would spoil the next one.
            self._file.truncate(content.whole_bytes)
        except BaseException:
            self._file.close()
            raise
        self._records = content.records
        self._guard = Lock()
        self._reserve()

    def __enter__(self) -> RecordBook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release_reserve()
        self._file.close()

    @property
    def records(self) -> Mapping[str, BatchRecord]:
        """The last record of every study, by its key."""
        return self._records

    @property
    def lock_descriptor(self) -> int:
        """The open file that holds the lock: whoever keeps a duplicate open keeps the folder."""
        return self._file.fileno()

    def append(self, record: BatchRecord) -> None:
        """Add a record and wait until the disk has it.

        Raises
        ------
        OutputError
            There is no room for it, and the file is as it was before; or the file is gone.
        """
        line = record.model_dump_json().encode() + b"\n"
        path = self.folder / RECORDS_NAME
        with self._guard:
            if not path.exists():
                # What is open can still be written to, and nobody would ever read it.
                raise OutputError(
                    f"{path}: is gone, its folder was removed or moved meanwhile; "
                    "bring it back, or begin anew with the same command"
                )
            try:
                self._write(line)
            except OSError:
                self.release_reserve()
                try:
                    self._write(line)
                except OSError as error:
                    raise OutputError.at(path, error) from error
            self._records[record.study] = record

    def release_reserve(self) -> None:
        """Give back the room that is kept for when the disk is full."""
        (self.folder / _RESERVE_NAME).unlink(missing_ok=True)

    def _reserve(self) -> None:
        """Keep some room, so that what a full disk does to a study can still be written down."""
        path = self.folder / _RESERVE_NAME
        try:
            size = min(_RESERVE_BYTES, shutil.disk_usage(self.folder).free // 10)
            path.write_bytes(bytes(size))
        except OSError:
            path.unlink(missing_ok=True)

    def _write(self, line: bytes) -> None:
        """Add a line and wait until the disk has it; where it has no room, nothing is added."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "No space left on device")
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise


def read_records(folder: Path) -> Mapping[str, BatchRecord]:
    """The last record of every study of an output folder.

    Raises
    ------
    NoUsableInputError
        There are none.
    OutputError
        A line is not a record.
    """
    path = folder / RECORDS_NAME
    if not path.is_file():
        raise NoUsableInputError(f"{folder} holds no {RECORDS_NAME}; pass the output folder of a batch")
    return _read(path).records


def _read(path: Path) -> _Content:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise OutputError.at(path, error) from error
    whole_bytes = text.rfind(b"\n") + 1
    records: dict[str, BatchRecord] = {}
    for number, line in enumerate(text[:whole_bytes].splitlines(), start=1):
        try:
            record = BatchRecord.model_validate_json(line)
        except ValidationError as error:
            raise OutputError(
                f"{path}: line {number} is not a record{_wrong_field(error)}; restore the file, or choose "
                "another folder"
            ) from error
        records[record.study] = record
    return _Content(records, whole_bytes)


def _wrong_field(error: ValidationError) -> str:
    """Which field is wrong, where a single one is; not its content, which may be a name.

    >>> stamp = Stamp(input="a", model="b", settings="c", version="1")
    >>> try:
    ...     BatchRecord(study="../a", state=State.DONE, source="a", stamp=stamp)
    ... except ValidationError as error:
    ...     _wrong_field(error)
    ' (study)'
    """
    fields = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    return f" ({fields.pop()})" if len(fields) == 1 else ""
