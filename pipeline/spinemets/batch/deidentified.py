"""Studies of a batch as de-identified copies, which are all that its later stages ever see."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets.atomic import atomic_write_bytes
from spinemets.batch.folders import remove_scratch, scratch_folder
from spinemets.batch.planning import PlannedStudy, real_path
from spinemets.batch.records import BatchRecord, Stamp
from spinemets.errors import (
    ConfigError,
    InputError,
    OutputError,
    SpinemetsError,
    UnreadableFileError,
    UnsupportedInputError,
)
from spinemets.io import StudyListing, unpack_study
from spinemets.io.deidentification import Deidentifier, Pseudonyms, deidentified_copy, load_secret
from spinemets.io.deidentification.profile import check_table
from spinemets.locks import locked

if TYPE_CHECKING:
    from spinemets.config import DeidentificationConfig

__all__ = [
    "check_linkage",
    "copied_study",
    "deidentifier_of",
    "disguise",
    "general_reasons",
    "pseudonymous",
    "refuse_identified",
    "write_linkage",
]

# Of the files of an archive, beside the folders of their copies.
_ORIGINALS_NAME = "originals"
_LINKAGE_COLUMNS = ("study", "source", "name")


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
        return deidentifier.pseudonyms.study_name(str(real_path(study.source)))
    return deidentifier.study_name(study.found)


def _place(study: PlannedStudy, deidentifier: Deidentifier) -> str:
    return deidentifier.pseudonyms.study_name(f"{study.key}\0{real_path(study.source)}")[-6:]


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
    """Copy a study without identifiers into its scratch room, and list the copy.

    An archive's files are unpacked beside the copy and removed once it is made: whoever removes the
    scratch room of a process that was killed removes them too.

    Raises
    ------
    UnreadableFileError, UnsupportedInputError, OutputError
        It cannot be copied; see ``general_reasons``.
    ConfigError
        The key cannot be used.
    """
    remove_scratch(out, key)
    deidentifier = deidentifier_of(config, out)
    folder = scratch_folder(out, key)
    originals = folder / _ORIGINALS_NAME
    try:
        with general_reasons():
            return deidentified_copy(unpack_study(found, originals), folder, deidentifier)
    finally:
        shutil.rmtree(originals, ignore_errors=True)


@contextmanager
def general_reasons() -> Iterator[None]:
    """Let whatever stops a copy be told without a word of the study.

    Messages name archives and files, and may quote headers; a cause would bring them into the log.

    Raises
    ------
    UnreadableFileError
        The study's archive cannot be unpacked, or its files cannot be de-identified.
    UnsupportedInputError
        Its archive is not one that is unpacked.
    OutputError
        There is no room for the copy.
    """
    try:
        yield
    except OutputError:
        raise OutputError("there is no room for its copy, or no permission to write it") from None
    except UnsupportedInputError:
        raise UnsupportedInputError("its archive is of a kind that is not unpacked; extract it") from None
    except InputError:
        raise UnreadableFileError("its archive cannot be unpacked; see whether it is whole") from None
    except Exception as error:
        raise UnreadableFileError(f"it cannot be de-identified ({type(error).__name__})") from None


def check_linkage(path: Path, out: Path) -> None:
    """See whether a linkage may be written to a file.

    Raises
    ------
    ConfigError
        It lies among the results, or is a file of another kind.
    OutputError
        It cannot be read.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"{path}: the linkage lies among the results, which are to be passed on; move it")
    _read_linkage(path)


def write_linkage(
    path: Path, originals: Iterable[PlannedStudy], disguised: Iterable[PlannedStudy], out: Path
) -> None:
    """Write which name stands for which study, readable by the owner only.

    What the file tells of other studies stays in it. Several runs may write to one file.

    Raises
    ------
    ConfigError
        The file would lie among the results, or is one of another kind.
    OutputError
        It cannot be written.
    """
    check_linkage(path, out)
    rows = {
        new.key: (new.key, str(old.source), old.key) for old, new in zip(originals, disguised, strict=True)
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, f"{path}: another run keeps it; wait for that one, or choose another file"):
            text = io.StringIO()
            table = csv.writer(text)
            table.writerow(_LINKAGE_COLUMNS)
            table.writerows((_read_linkage(path) | rows).values())
            atomic_write_bytes(path, text.getvalue().encode(), private=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def _read_linkage(path: Path) -> dict[str, tuple[str, ...]]:
    """The rows of a linkage by the studies' new names; none where there is no such file."""
    if not path.exists():
        return {}
    try:
        rows = [tuple(row) for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))]
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows and not path.stat().st_size:
        return {}
    if not rows or rows[0] != _LINKAGE_COLUMNS or any(len(row) != len(_LINKAGE_COLUMNS) for row in rows):
        raise ConfigError(f"{path}: is there and is no linkage, so it is not replaced; choose another file")
    return {row[0]: row for row in rows[1:]}
