"""The files of an input: one file, a folder tree, or a .zip archive.

An archive is unpacked to be looked through and removed again at once. What is needed of a study in
it is unpacked a second time when the study is read.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from spinemets.errors import (
    NoUsableInputError,
    OutputError,
    UnreadableFileError,
    UnsupportedInputError,
    is_disk_full,
)
from spinemets.io.temporary import temporary_folder

__all__ = ["EARLIER_NAME", "RECORDS_NAME", "InputFiles", "open_files", "unpack"]

RECORDS_NAME = "batch.jsonl"
"""Of an output folder of spinemets: one line for each study that ended."""
EARLIER_NAME = "earlier"
"""A folder beside the results, of those whose study could not be done again."""

# Far above any one examination, far below what fills a disk unnoticed.
_LARGEST_ARCHIVE_BYTES = 32 << 30
_MOST_ARCHIVE_MEMBERS = 200_000
_CHUNK_BYTES = 1 << 20
# What zipfile and the decoders below it raise on damaged archives.
_DAMAGE_ERRORS = (
    OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError,
    ValueError, LookupError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InputFiles:
    """Files to look at, sorted.

    Attributes
    ----------
    results
        Folders with results of spinemets, whose files are not among them.
    not_entered
        Other folders whose files are not among them, each with the reason.
    unpacked
        The temporary folder that an archive was unpacked to; None for other inputs.
    """

    paths: tuple[Path, ...]
    results: tuple[Path, ...] = ()
    not_entered: tuple[tuple[Path, str], ...] = ()
    unpacked: Path | None = None


@contextmanager
def open_files(path: Path) -> Iterator[InputFiles]:
    """Find every file of an input. Hidden files and folders are passed over.

    The files of an archive are there as long as the block lasts.

    Raises
    ------
    NoUsableInputError
        There is no such file or folder, or the folder is empty.
    UnreadableFileError
        The archive is damaged.
    UnsupportedInputError
        The archive is encrypted, too large, or holds a path that leads out of it.
    OutputError
        There is no room to unpack the archive.
    """
    if not path.exists():
        raise NoUsableInputError(f"{path}: no such file or folder")
    if path.is_dir():
        yield _walk(path)
    elif path.suffix.lower() != ".zip":
        yield InputFiles((path,))
    else:
        with temporary_folder() as folder:
            unpack(path, folder)
            found = _walk(folder)
            yield replace(found, unpacked=folder)


def unpack(path: Path, folder: Path, only: Collection[PurePosixPath] | None = None) -> None:
    """Unpack a .zip, or some files of it, into a folder; different files of one name are all kept.

    Raises
    ------
    UnreadableFileError
        It is damaged, or does not hold one of the files any more.
    UnsupportedInputError
        It is encrypted, too large, or holds a path that leads out of it.
    OutputError
        There is no room for it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _refuse_unsafe(path, members)
            targets = _targets(members)
            if only is not None:
                targets = {target: member for target, member in targets.items() if target in only}
                if len(targets) < len(only):
                    raise UnreadableFileError(
                        f"{path.name}: files of it are gone since it was looked through"
                    )
            room = min(_LARGEST_ARCHIVE_BYTES, shutil.disk_usage(folder).free)
            if sum(member.file_size for member in targets.values()) > room:
                raise OutputError(f"{path.name}: its content does not fit into {folder.parent}")
            for target, member in targets.items():
                room -= _unpack_member(archive, member, folder / target, room)
    except _DAMAGE_ERRORS as error:
        if is_disk_full(error):
            raise OutputError(f"{path.name}: its content does not fit into {folder.parent}") from error
        raise UnreadableFileError(
            f"{path.name}: cannot be read as a zip archive ({_detail(error)})"
        ) from error


def _detail(error: Exception) -> str:
    """What went wrong, without the names of members, which may be those of a person."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return re.split("['\"]", text)[0].strip() or type(error).__name__


def _walk(folder: Path) -> InputFiles:
    files: list[Path] = []
    results: list[Path] = []
    not_entered: list[tuple[Path, str]] = []

    def leave_out(error: OSError) -> None:
        not_entered.append((Path(error.filename), f"a folder that cannot be read ({error.strerror})"))

    for parent, folders, names in os.walk(folder, onerror=leave_out):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        if RECORDS_NAME in names:
            own = _result_names(Path(parent, RECORDS_NAME))
            results += [Path(parent, name) for name in folders if name in own]
            folders[:] = [name for name in folders if name not in own]
        # Links may lead in circles, or to one study twice.
        links = [path for path in (Path(parent, name) for name in folders) if path.is_symlink()]
        not_entered += [(link, "a link to a folder; pass the folder itself") for link in links]
        files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return InputFiles(tuple(files), tuple(results), tuple(not_entered))


def _result_names(records: Path) -> set[str]:
    """The folders beside the records of a batch that hold its results, and no scans."""
    done = {EARLIER_NAME}
    try:
        for line in records.read_bytes().splitlines():
            record = json.loads(line)
            (done.add if record["state"] == "done" else done.discard)(record["study"])
    except (OSError, ValueError, TypeError, LookupError):
        # Half a line at the end, or a file of another kind: what was understood counts.
        pass
    return done


def _refuse_unsafe(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MOST_ARCHIVE_MEMBERS:
        raise UnsupportedInputError(
            f"{path.name}: holds {len(members)} files; at most {_MOST_ARCHIVE_MEMBERS}"
        )
    if sum(member.file_size for member in members) > _LARGEST_ARCHIVE_BYTES:
        raise UnsupportedInputError(
            f"{path.name}: is larger than {_LARGEST_ARCHIVE_BYTES >> 30} GiB unpacked; "
            "extract it and pass the folder"
        )
    for member in members:
        name = _name(member)
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
            raise UnsupportedInputError(
                f"{path.name}: a member's path leads out of the archive; it is not extracted"
            )
        if not name.parts:
            raise UnsupportedInputError(f"{path.name}: a member has no name; extract it and pass the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsupportedInputError(f"{path.name}: holds a symbolic link; it is not extracted")
        if member.flag_bits & 0x1:
            raise UnsupportedInputError(f"{path.name}: is encrypted; extract it and pass the folder")


def _name(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _targets(members: list[zipfile.ZipInfo]) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Where each file goes: different files of one name beside each other, the same file once."""
    targets: dict[PurePosixPath, zipfile.ZipInfo] = {}
    contents: dict[PurePosixPath, set[tuple[int, int]]] = {}
    for member in members:
        target = name = _name(member)
        known = contents.setdefault(name, set())
        if _content(member) in known:
            continue
        known.add(_content(member))
        copies = len(known)
        while target in targets:
            target = name.with_name(f"{copies}~{name.name}")
            copies += 1
        targets[target] = member
    return targets


def _content(member: zipfile.ZipInfo) -> tuple[int, int]:
    return member.CRC, member.file_size


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int) -> int:
    """Unpack one file and give its size, which a forged header may understate."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with archive.open(member) as source, target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > room:
                raise UnsupportedInputError(
                    "an archive unpacks to more than its headers say; it is not extracted"
                )
            file.write(chunk)
    return size
