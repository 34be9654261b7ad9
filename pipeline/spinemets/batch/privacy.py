"""Names and messages of a batch, kept free of what identifies a person.

What identifies is known from the DICOM headers of a study: wherever it turns up in the name of
a folder or in a message, it is hidden. Other files carry no identity but their own name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from spinemets.atomic import atomic_write_text
from spinemets.batch.planning import PlannedStudy
from spinemets.errors import SpinemetsError
from spinemets.io import private_words

__all__ = ["SALT_NAME", "conceal", "redact"]

SALT_NAME = ".salt"
HIDDEN = "[hidden]"
# Shorter words are hidden only where they stand alone: "Li" is a name, and a part of many words.
_LONG = 5


def conceal(studies: Sequence[PlannedStudy], out: Path, *, write: bool = True) -> tuple[PlannedStudy, ...]:
    """The studies under names that give nobody away, with the words to be hidden.

    A study whose name holds an identity gets a salted hash instead. The salt is made once for an
    output folder and stays in it, so the next run finds the same names.

    Parameters
    ----------
    write
        Whether the salt may be written where there is none; without, hashes are for show.

    Raises
    ------
    OutputError
        The salt cannot be written.
    """
    known = [
        replace(
            study,
            private=frozenset() if isinstance(study.found, SpinemetsError) else private_words(study.found),
        )
        for study in studies
    ]
    if all(redact(study.key, study.private) == study.key for study in known):
        return tuple(known)
    salt = _salt(out, write)
    return tuple(
        study if redact(study.key, study.private) == study.key else replace(study, key=_hashed(study, salt))
        for study in known
    )


def redact(text: str, words: Iterable[str]) -> str:
    """A text with every one of the words hidden, however it is written.

    >>> redact("/data/DOE_Jane_1/x.dcm: damaged", {"Doe", "Jane"})
    '/data/[hidden]_[hidden]_1/x.dcm: damaged'
    """
    longest_first = sorted(words, key=len, reverse=True)
    parts = [
        re.escape(word) if len(word) >= _LONG else rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
        for word in longest_first
    ]
    return re.sub("|".join(parts), HIDDEN, text, flags=re.IGNORECASE) if parts else text


def _hashed(study: PlannedStudy, salt: str) -> str:
    content = f"{study.key}\0{study.source.resolve()}".encode()
    return f"study-{hmac.new(salt.encode(), content, hashlib.sha256).hexdigest()[:16]}"


def _salt(out: Path, write: bool) -> str:
    path = out / SALT_NAME
    if path.is_file():
        return path.read_text(encoding="ascii").strip()
    salt = secrets.token_hex(32)
    if write:
        atomic_write_text(path, f"{salt}\n")
        path.chmod(0o600)
    return salt
