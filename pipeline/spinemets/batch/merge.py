"""The output folders of several shards, joined into one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from spinemets.atomic import atomic_folder, atomic_write_bytes, remove_leftovers
from spinemets.batch.privacy import join_private_tables
from spinemets.batch.records import BatchRecord, RecordBook, State, read_records
from spinemets.batch.tables import write_tables
from spinemets.errors import OutputError

__all__ = ["merge_batches"]


def merge_batches(sources: Sequence[Path], out: Path) -> int:
    """Bring the results and records of several output folders together, and make the tables anew.

    Results are linked where both folders lie on one disk, and copied otherwise. A folder may be
    merged again when its run has gone on; one that is ``out`` itself only has its tables made.

    Returns
    -------
    int
        How many studies ``out`` holds in the end.

    Raises
    ------
    OutputError
        A folder holds no records, two of them hold different studies of one name, or ``out``
        cannot be written to.
    """
    others = [source for source in sources if source.resolve() != out.resolve()]
    read = [(source, read_records(source)) for source in others]
    with RecordBook(out) as book:
        remove_leftovers(out)
        for source, records in read:
            for record in records.values():
                if _is_needed(record, book.records.get(record.study), source):
                    _take(record, source, out)
                    book.append(record)
        join_private_tables([*others, out], out)
        write_tables(out, book.records)
        return len(book.records)


def _is_needed(record: BatchRecord, held: BatchRecord | None, source: Path) -> bool:
    if held is None:
        return True
    if held.source != record.source:
        raise OutputError(
            f"{source}: its study {record.study} comes from another place than the one merged before; "
            "give them different names in a manifest, or merge into another folder"
        )
    if held == record:
        return False
    return (record.state is State.DONE, record.ended) > (held.state is State.DONE, held.ended)


def _take(record: BatchRecord, source: Path, out: Path) -> None:
    try:
        if record.state is State.DONE:
            with atomic_folder(out / record.study) as folder:
                shutil.copytree(source / record.study, folder, copy_function=_link, dirs_exist_ok=True)
        if record.log:
            atomic_write_bytes(out / record.log, (source / record.log).read_bytes())
    except (OSError, shutil.Error) as error:
        raise OutputError(f"{source / record.study}: cannot be merged into {out} ({error})") from error


def _link(source: str, target: str) -> None:
    # Result files are never changed in place, so two folders may share them.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
