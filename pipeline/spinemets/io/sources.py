"""The files of an input: one file, a folder tree, or a .zip archive."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spinemets.errors import NoUsableInputError, OutputError, UnreadableFileError, UnsupportedInputError

__all__ = ["InputFiles", "collect_files"]

# Far above any one examination, far below what fills a disk unnoticed.
_LARGEST_ARCHIVE_BYTES = 32 << 30
_MOST_ARCHIVE_MEMBERS = 200_000
_CHUNK_BYTES = 1 << 20


class ExtractedArchive:
    """A temporary folder that lives as long as something refers to this object."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spinemets-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, str(self.folder), ignore_errors=True)


@dataclass(frozen=True, slots=True)
class InputFiles:
    """Files to look at, sorted; ``archive`` is what they were extracted from, if anything."""

    paths: tuple[Path, ...]
    archive: ExtractedArchive | None = None


def collect_files(path: Path) -> InputFiles:
    """Find every file of an input. Hidden files and folders are passed over.

    Raises
    ------
    NoUsableInputError
        There is no such file or folder, or the folder is empty.
    UnreadableFileError
        The archive is damaged.
    UnsupportedInputError
        The archive is encrypted, too large, or holds a path that leads out of it.
    OutputError
        There is no room to extract the archive.
    """
    if not path.exists():
        raise NoUsableInputError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix.lower() != ".zip":
            return InputFiles((path,))
        archive = _extract(path)
        return InputFiles(_walk(archive.folder), archive)
    return InputFiles(_walk(path))


def _walk(folder: Path) -> tuple[Path, ...]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return tuple(files)


def _extract(path: Path) -> ExtractedArchive:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _refuse_unsafe(path, members)
            extracted = ExtractedArchive()
            room = min(_LARGEST_ARCHIVE_BYTES, shutil.disk_usage(extracted.folder).free)
            if sum(member.file_size for member in members) > room:
                raise OutputError(f"{path.name}: its content does not fit into {extracted.folder.parent}")
            for member in members:
                room -= _extract_member(archive, member, extracted.folder, room)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise UnreadableFileError(f"{path.name}: cannot be read as a zip archive ({error})") from error
    return extracted


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
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise UnsupportedInputError(
                f"{path.name}: a member's path leads out of the archive; it is not extracted"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsupportedInputError(f"{path.name}: holds a symbolic link; it is not extracted")
        if member.flag_bits & 0x1:
            raise UnsupportedInputError(f"{path.name}: is encrypted; extract it and pass the folder")


def _extract_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, room: int) -> int:
    """Extract one file and give its size, which a forged header may understate."""
    target = folder / member.filename.replace("\\", "/")
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
