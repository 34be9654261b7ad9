"""Which names may stand in an output folder for a study, and which are those of other things there."""

from __future__ import annotations

import re
from pathlib import PureWindowsPath

__all__ = ["is_file_name", "is_reserved", "is_study_name"]

_RESERVED = re.compile(
    r"logs|private|earlier|(summary|findings)\.(csv|parquet)|batch\.jsonl|index\.html", re.IGNORECASE
)


def is_reserved(name: str) -> bool:
    """Whether something else in an output folder has this name, in whatever case.

    >>> is_reserved("Logs"), is_reserved("logs-1")
    (True, False)
    """
    return _RESERVED.fullmatch(name) is not None


def is_file_name(name: str) -> bool:
    """Whether this names something within a folder on any system: no path, nothing hidden.

    >>> [is_file_name(name) for name in ("Петров 1", "", ".", "..", ".salt", "a/b", "C:a", "/a")]
    [True, False, False, False, False, False, False, False]
    """
    plain = name == name.strip(" .") and name.isprintable()
    # Of the two kinds of paths, that of Windows knows the separators of both.
    return plain and name != "" and PureWindowsPath(name).name == name


def is_study_name(name: str) -> bool:
    """Whether a study may have this name, and so the folder with its results.

    >>> is_study_name("case_7"), is_study_name("private"), is_study_name("../case_7")
    (True, False, False)
    """
    return is_file_name(name) and not is_reserved(name)
