"""Studies of a batch as de-identified copies, which are all that its later stages ever see."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets.batch.planning import PlannedStudy
from spinemets.batch.records import BatchRecord, Stamp
from spinemets.errors import ConfigError, OutputError, SpinemetsError, UnreadableFileError
from spinemets.io import StudyListing
from spinemets.io.deidentification import Deidentifier, Pseudonyms, deidentified_copy, load_secret
from spinemets.io.deidentification.profile import check_table

if TYPE_CHECKING:
    from spinemets.config import DeidentificationConfig

__all__ = [
    "copied_study",
    "deidentifier_of",
    "disguise",
    "pseudonymous",
    "refuse_identified",
    "remove_copy",
    "write_linkage",
]


def deidentifier_of(config: DeidentificationConfig, out: Path) -> Deidentifier:
    """The de-identifier of a configuration; makes its key where there is none.

    Raises
    ------
    ConfigError
        The key cannot be used, or the table of the profile is not installed.
    """
    check_table()
    return Deidentifier(Pseudonyms(load_secret(config.key_file, out=out)), frozenset(config.retain))


def disguise(
    studies: Sequence[PlannedStudy],
    stamp: Callable[[PlannedStudy], Stamp],
    out: Path,
    config: DeidentificationConfig,
    linkage: Path | None = None,
) -> tuple[tuple[PlannedStudy, ...], Callable[[PlannedStudy], Stamp]]:
    """The studies under pseudonyms, and stamps that tell nothing of their content.

    Parameters
    ----------
    linkage
        Where to write which name stands for which study.

    Raises
    ------
    ConfigError
        The key or the linkage's place cannot be used, or the table of the profile is not installed.
    OutputError
        The linkage cannot be written.
    """
    deidentifier = deidentifier_of(config, out)
    disguised = pseudonymous(studies, deidentifier)
    if linkage is not None:
        write_linkage(linkage, studies, disguised, out)

    def sealed(study: PlannedStudy) -> Stamp:
        plain = stamp(study)
        return plain.model_copy(update={"input": deidentifier.pseudonyms.checksum(plain.input)})

    return disguised, sealed


def pseudonymous(studies: Sequence[PlannedStudy], deidentifier: Deidentifier) -> tuple[PlannedStudy, ...]:
    """The studies under names that follow from the key, without their places and a manifest's words.

    A study has the same name wherever it lies; of several copies in one batch each has its own.
    """
    names = [_name(study, deidentifier) for study in studies]
    count = Counter(names)
    return tuple(
        _disguised(study, name if count[name] == 1 else f"{name}-{_place(study, deidentifier)}")
        for study, name in zip(studies, names, strict=True)
    )


def _name(study: PlannedStudy, deidentifier: Deidentifier) -> str:
    if isinstance(study.found, SpinemetsError):
        return deidentifier.pseudonyms.study_name(str(study.source.resolve()))
    return deidentifier.study_name(study.found)


def _place(study: PlannedStudy, deidentifier: Deidentifier) -> str:
    return deidentifier.pseudonyms.study_name(f"{study.key}\0{study.source.resolve()}")[-6:]


def _disguised(study: PlannedStudy, name: str) -> PlannedStudy:
    found = study.found
    if isinstance(found, SpinemetsError):
        # Its message names files, and may quote headers.
        kind = type(found)
        found = kind("it cannot be used; inspect it with spinemets inspect to see why")
    # Nothing needs to be hidden in what follows, and a word hidden in a sentence would be guessed.
    return PlannedStudy(name, Path(name), found)


def refuse_identified(records: Mapping[str, BatchRecord], out: Path) -> None:
    """Keep results with and without names apart: tables and index page list all of a folder.

    Raises
    ------
    ConfigError
        The folder holds results that were not de-identified.
    """
    if any(record.source != record.study for record in records.values()):
        raise ConfigError(f"{out}: holds results that were not de-identified; choose another folder")


def copied_study(found: StudyListing, out: Path, key: str, config: DeidentificationConfig) -> StudyListing:
    """Copy a study without identifiers to where ``remove_copy`` finds it, and list the copy.

    Raises
    ------
    UnreadableFileError
        It cannot be copied; the message says nothing of its content.
    OutputError
        There is no room for the copy.
    ConfigError
        The key cannot be used.
    """
    remove_copy(out, key)
    deidentifier = deidentifier_of(config, out)
    try:
        return deidentified_copy(found, _copy_folder(out, key), deidentifier)
    except SpinemetsError:
        raise
    except Exception as error:
        # Any other error could quote what must not be passed on.
        raise UnreadableFileError(f"it cannot be de-identified ({type(error).__name__})") from None


def remove_copy(out: Path, key: str) -> None:
    """Remove a study's copy, if there is one."""
    shutil.rmtree(_copy_folder(out, key), ignore_errors=True)


def _copy_folder(out: Path, key: str) -> Path:
    # Named as what remove_leftovers removes, for a run that is killed.
    return out / f".{key}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.part"


def write_linkage(
    path: Path, originals: Iterable[PlannedStudy], disguised: Iterable[PlannedStudy], out: Path
) -> None:
    """Write which name stands for which study, readable by the owner only.

    Raises
    ------
    ConfigError
        The file would lie among the results.
    OutputError
        It cannot be written.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"{path}: the linkage lies among the results, which are to be passed on; move it")
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("study", "source", "name"))
    table.writerows(
        (new.key, str(old.source), old.key) for old, new in zip(originals, disguised, strict=True)
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text.getvalue())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
