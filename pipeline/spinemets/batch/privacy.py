"""Names of a batch, kept free of what identifies a person.

Unless identifiers are kept, a study is named by a salted hash, and neither its path nor the
words of its headers reach a record, a log or a page. Which study is which stands in one table
that belongs to whoever ran the batch.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spinemets.atomic import atomic_write_text
from spinemets.batch.manifest import ManifestRow, manifest_text, read_manifest
from spinemets.batch.planning import PlannedStudy, place_of, study_identity, study_mark
from spinemets.batch.records import BatchRecord, RecordBook
from spinemets.batch.redaction import redact
from spinemets.errors import ConfigError, OutputError, SpinemetsError
from spinemets.io import private_words

if TYPE_CHECKING:
    from spinemets.config import DetectionConfig

__all__ = [
    "PRIVATE_FILES",
    "PRIVATE_NAME",
    "conceal",
    "identifier_key",
    "is_hashed_key",
    "join_private_tables",
    "make_salt",
    "note_names",
    "refuse_other_names",
    "settle_names",
]

Identifiers = Literal["keep", "hash"]

PRIVATE_NAME = "private"
"""A folder beside the results: which study is which, and the salt of names and identifiers."""
_SALT = Path(PRIVATE_NAME, "salt")
_NAMES = Path(PRIVATE_NAME, "studies.csv")
PRIVATE_FILES = (_SALT, _NAMES)
"""What that folder holds."""
_HASH_DIGITS = 16
_SALT_TEXT = re.compile(r"[0-9a-f]{64}")


def conceal(
    studies: Sequence[PlannedStudy], out: Path, salt_file: Path | None = None, *, write: bool = True
) -> tuple[PlannedStudy, ...]:
    """The studies under salted hashes, with what must be hidden of them.

    A name that the user gave in a manifest stays, unless it holds a word of the study's headers.
    The salt is made once for an output folder and stays in it, so the next run finds the same names.

    Parameters
    ----------
    salt_file
        Where several output folders share a salt, as shards do; made where it is missing.
    write
        Whether the salt may be written where there is none; without, hashes are for show.

    Raises
    ------
    ConfigError
        The output folder was begun with another salt.
    OutputError
        The salt cannot be read or written.
    """
    salt = _salt(out, salt_file, write).encode()
    return tuple(_concealed(study, salt) for study in studies)


def identifier_key(out: Path, config: DetectionConfig) -> bytes | None:
    """The key of the hashes that stand for UIDs in the results of an output folder: its salt.

    Empty where identifiers are kept, or are pseudonyms already; None where there is no salt.

    Raises
    ------
    OutputError
        The salt cannot be read.
    """
    if config.report.identifiers == "keep" or config.deidentification.enabled:
        return b""
    path = out / _SALT
    return _read_salt(path).encode() if path.is_file() else None


def make_salt(out: Path) -> None:
    """Give an output folder a salt, where it has none.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    _salt(out, None, True)


def settle_names(
    studies: Sequence[PlannedStudy], book: RecordBook, identifiers: Identifiers, salt_file: Path | None = None
) -> tuple[PlannedStudy, ...]:
    """The studies under the names that their results get.

    Raises
    ------
    ConfigError
        The folder holds studies named in the other way, or its salt is gone or another.
    OutputError
        The salt cannot be written.
    """
    hashed = identifiers == "hash"
    refuse_other_names(book.records, book.folder, hashed=hashed)
    return conceal(studies, book.folder, salt_file) if hashed else tuple(studies)


def refuse_other_names(records: Mapping[str, BatchRecord], out: Path, *, hashed: bool) -> None:
    """Let no study be held twice, under its own name and under a hash.

    Raises
    ------
    ConfigError
        The folder holds studies named in the other way, or its salt is gone.
    """
    if not records or (out / _SALT).is_file() == hashed:
        return
    raise ConfigError(
        f"{out} holds studies under their own names, or its {_SALT} is gone; bring that back, "
        "pass --identifiers keep, or choose another folder"
        if hashed
        else f"{out} holds studies named by hashes; leave out --identifiers keep, or choose another folder"
    )


def note_names(studies: Iterable[PlannedStudy], out: Path) -> Path:
    """Write which study is which into a table that only its owner can read, and give its path.

    It is a manifest, and keeps the rows of earlier runs.

    Raises
    ------
    OutputError
        The table cannot be written.
    """
    rows = [ManifestRow(study.key, study.source, {}, _mark(study)) for study in studies]
    return _add_names(out, rows)


def _mark(study: PlannedStudy) -> str:
    return "" if isinstance(study.found, SpinemetsError) else study_mark(study.found, study.key)


def join_private_tables(sources: Iterable[Path], out: Path) -> None:
    """Bring the tables of several output folders together, and their salt where it is one.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    sources = list(sources)
    rows = [row for source in sources for row in _names(source)]
    if rows:
        _add_names(out, rows)
    salts = {_read_salt(source / _SALT) for source in sources if (source / _SALT).is_file()}
    if len(salts) == 1 and not (out / _SALT).is_file():
        _make_salt(out / _SALT, salts.pop())


def _concealed(study: PlannedStudy, salt: bytes) -> PlannedStudy:
    words = frozenset() if isinstance(study.found, SpinemetsError) else private_words(study.found)
    given = f"{study.key} {study.name}"
    is_kept = study.name and redact(given, words) == given
    identity = study_identity(study)
    # Two rows of a manifest may lead to one place.
    own = f"{study.key}\0{identity}" if study.name else identity
    return replace(
        study,
        key=study.key if is_kept else f"study-{_hashed(own, salt)}",
        private=words,
        hidden_source=f"source-{_hashed(place_of(study.source), salt)}",
    )


def is_hashed_key(key: str) -> bool:
    """Whether a study is called as those are whose identifiers are not kept."""
    return re.fullmatch(rf"study-[0-9a-f]{{{_HASH_DIGITS}}}", key) is not None


def _hashed(text: str, salt: bytes) -> str:
    return hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()[:_HASH_DIGITS]


def _salt(out: Path, shared: Path | None, write: bool) -> str:
    """The salt of an output folder: its own, or a shared one, of which it keeps a copy."""
    path = out / _SALT
    own = _read_salt(path) if path.is_file() else ""
    if shared is None:
        salt = own or secrets.token_hex(32)
    else:
        salt = _read_salt(shared) if shared.is_file() else own or secrets.token_hex(32)
        if write:
            salt = _make_salt(shared, salt)
        if own and own != salt:
            raise ConfigError(f"{out} was begun with another salt than {shared}; choose another folder")
    return _make_salt(path, salt) if write else salt


def _make_salt(path: Path, salt: str) -> str:
    """Write a salt where there is none yet; the one that is there in the end."""
    if not path.is_file():
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
        try:
            _make_private(path.parent)
            atomic_write_text(temporary, f"{salt}\n")
            temporary.chmod(0o600)
            try:
                # Unlike a rename, a link never replaces the salt that another shard has just made.
                os.link(temporary, path)
            except FileExistsError:
                pass
            except OSError:
                shutil.copyfile(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    return _read_salt(path)


def _read_salt(path: Path) -> str:
    try:
        salt = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: cannot be read as a salt ({error}); bring back the right file") from error
    if not _SALT_TEXT.fullmatch(salt):
        raise OutputError(f"{path}: is not a salt of 64 hexadecimal digits; bring back the right file")
    return salt


def _names(out: Path) -> Sequence[ManifestRow]:
    path = out / _NAMES
    return read_manifest(path) if path.is_file() else ()


def _add_names(out: Path, rows: Iterable[ManifestRow]) -> Path:
    path = out / _NAMES
    held = {row.study: row for row in _names(out)}
    held |= {row.study: row for row in rows}
    try:
        _make_private(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    atomic_write_text(path, manifest_text(held[key] for key in sorted(held)))
    path.chmod(0o600)
    return path


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700 if folder.name == PRIVATE_NAME else 0o777)
