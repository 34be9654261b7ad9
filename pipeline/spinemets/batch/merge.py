"""The output folders of several shards, joined into one."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import NoReturn

from spinemets.atomic import atomic_folder, atomic_write_bytes, remove_leftovers
from spinemets.batch.folders import earlier_folder, forget_earlier, move_aside
from spinemets.batch.privacy import PRIVATE_FILES, join_private_tables
from spinemets.batch.records import RECORDS_NAME, BatchRecord, RecordBook, State, read_records
from spinemets.batch.tables import write_tables
from spinemets.errors import OutputError, UnsupportedInputError

__all__ = ["merge_batches"]


def merge_batches(sources: Sequence[Path], out: Path) -> int:
    """Bring the results and records of several output folders together, and make the tables anew.

    Of a study that several of them hold, the newest record counts, however it ended. Results are
    linked where both folders lie on one disk, and copied otherwise. A folder may be merged again
    when its run has gone on; one that is ``out`` itself only has its tables made. Nothing is read
    that does not lie in the folders themselves.

    Returns
    -------
    int
        How many studies ``out`` holds in the end.

    Raises
    ------
    NoUsableInputError, UnsupportedInputError
        A folder holds no records, or a symbolic link.
    OutputError
        A record is damaged, two folders hold different studies of one name, or ``out`` cannot be
        written to.
    """
    others = [source for source in sources if source.resolve() != out.resolve()]
    for source in others:
        for name in (RECORDS_NAME, *PRIVATE_FILES):
            _within(source, name)
    read = [(source, read_records(source)) for source in others]
    with RecordBook(out) as book:
        remove_leftovers(out)
        for source, records in read:
            for record in records.values():
                if _is_needed(record, book.records.get(record.study), source):
                    book.append(_take(record, source, out))
        join_private_tables([*others, out], out)
        write_tables(out, book.records)
        return len(book.records)


def _is_needed(record: BatchRecord, held: BatchRecord | None, source: Path) -> bool:
    if held is None:
        return True
    if held.source != record.source and not _is_same_study(record, held):
        raise OutputError(
            f"{source}: its study {record.study} comes from another place than the one merged before; "
            "give them different names in a manifest, or merge into another folder"
        )
    # Of a study that moved and was not done again, only the source is another.
    has_moved = held.source != record.source and _is_same_run(record, held)
    return _moment(record) > _moment(held) or has_moved


def _is_same_study(one: BatchRecord, other: BatchRecord) -> bool:
    """Whether records of two places are of a study that has moved, and may have been done again there."""
    # What is recorded of an input that cannot be read tells too little of its content.
    has_content = State.DONE in (one.state, other.state)
    return _is_same_run(one, other) or (has_content and one.stamp.input == other.stamp.input)


def _is_same_run(one: BatchRecord, other: BatchRecord) -> bool:
    """Whether two records tell of the same result, of a study that may have moved since."""
    return (one.run, one.ended, one.stamp) == (other.run, other.ended, other.stamp)


def _moment(record: BatchRecord) -> tuple[datetime, bool]:
    """What orders the records of one study: the newest counts, however it ended."""
    ended = datetime.fromisoformat(record.ended) if record.ended else datetime.min
    return ended.replace(tzinfo=ended.tzinfo or UTC), record.state is State.DONE


def _take(record: BatchRecord, source: Path, out: Path) -> BatchRecord:
    """Bring a study's files over, and give the record that goes with them."""
    folder, kept = out / record.study, earlier_folder(out, record.study)
    try:
        if record.state is State.DONE:
            _copy(_within(source, record.study), folder)
            forget_earlier(out, record.study)
        elif record.earlier and (earlier := _within(source, record.earlier)).is_dir():
            _copy(earlier, kept)
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.is_dir():
            move_aside(folder, kept)
            record = record.model_copy(update={"earlier": kept.relative_to(out).as_posix()})
        if record.log and (log := _within(source, record.log)).is_file():
            atomic_write_bytes(out / record.log, log.read_bytes())
        else:
            record = record.model_copy(update={"log": ""})
    except OSError as error:
        raise OutputError(
            f"{source / record.study}: cannot be merged into {out} ({_reason(error)}); "
            "check space and permissions"
        ) from error
    return record


def _reason(error: OSError) -> str:
    """What the system says; of a folder's files, each of which is told, the first is enough."""
    if isinstance(error, shutil.Error):
        reasons = error.args[0]
        return f"{len(reasons)} of its files or folders, the first: {reasons[0][2]}"
    return str(error)


def _copy(source: Path, target: Path) -> None:
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, copy_function=_link, dirs_exist_ok=True, ignore=_refuse_others)


def _within(folder: Path, name: str | PurePath) -> Path:
    """What lies under a name in a merged folder, and nowhere else."""
    path = folder
    for part in PurePath(name).parts:
        path /= part
        if path.is_symlink():
            _refuse(path, "a symbolic link, which may lead out of the folder")
    return path


def _refuse_others(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Let nothing but folders and plain files be copied; none of them is left out."""
    for path in (Path(folder, name) for name in names):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            _refuse(path, "a symbolic link, which may lead out of the folder")
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            _refuse(path, "no plain file")
    return ()


def _refuse(path: Path, what: str) -> NoReturn:
    raise UnsupportedInputError(
        f"{path}: is {what}; it is not merged. Put a copy of what is meant in its place"
    )


def _link(source: str, target: str) -> None:
    # Result files are never changed in place, so two folders may share them.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
