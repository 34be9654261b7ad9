"""The words of a header's texts: how they are made alike, and patterns that find whole words.

Knows nothing of what words mean.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["WORD_END", "WORD_START", "any_word", "plain_words"]

WORD_START, WORD_END = r"(?<![a-z0-9])", r"(?![a-z0-9])"
_LEVEL_RANGE = re.compile(r"\b(?:th|[ctls])\d{1,2}\s*(?:-|/|bis|to|a)\s*(?:th|[ctls])\d{1,2}\b")
# "sT2W_TSE": Philips puts a letter before the names of its protocols.
_PHILIPS_LETTER = re.compile(r"(?<![a-z0-9])[esd](?=(?:t[12]|pd)w)")


def plain_words(text: str) -> str:
    """Lower-case text without accents, with separators as spaces.

    Ranges of vertebrae and the letter before Philips' names are removed.

    >>> plain_words("Sag_T2-TSE Pondéré (C7-T1)")
    'sag t2 tse pondere'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = _PHILIPS_LETTER.sub("", plain.replace("_", " "))
    plain = re.sub(r"\bw/o\b", "without", _LEVEL_RANGE.sub(" ", plain))
    return " ".join(re.sub(r"[-/\\.,:;()\[\]{}^=]+", " ", plain).split())


def any_word(*alternatives: str) -> re.Pattern[str]:
    """What finds any of some patterns in plain words where it is whole words.

    >>> bool(any_word("fat", "fs").search("t2 fs sag")), bool(any_word("fat", "fs").search("t2 fsx"))
    (True, False)
    """
    return re.compile(WORD_START + "(?:" + "|".join(alternatives) + ")" + WORD_END)
