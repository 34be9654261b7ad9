"""The folders of one study in an output folder: its results, earlier ones set aside, and scratch room."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets.errors import OutputError, SpinemetsError
from spinemets.io import EARLIER_NAME

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy

__all__ = [
    "earlier_folder",
    "forget_earlier",
    "move_aside",
    "refuse_foreign_folder",
    "remove_scratch",
    "scratch_folder",
    "set_aside",
]

_log = logging.getLogger(__name__)

_REPORT_NAMES = ("report.json", "report.html", "report.pdf", "report.fhir.json")
_RESULT_NAMES = (*_REPORT_NAMES, "levels.nii.gz", "overview.png", "dicom", "bids")


def refuse_foreign_folder(folder: Path, study: PlannedStudy) -> None:
    """Only an earlier result may be replaced: the name may be that of the input itself.

    Raises
    ------
    OutputError
        A folder of the study's name is there that is not a result.
    """
    if folder.exists() and any(folder.iterdir()) and not _is_result(folder, study):
        raise OutputError(
            f"{folder} exists and is not a result of spinemets, so it is not replaced; "
            "choose another output folder"
        )


def set_aside(study: PlannedStudy, out: Path) -> str:
    """Take a study's result from its place, as it could not be made anew; where it is kept, below ``out``.

    Returns
    -------
    str
        Empty where there is no earlier result.
    """
    folder, kept = out / study.key, earlier_folder(out, study.key)
    try:
        if folder.is_dir() and _is_result(folder, study):
            move_aside(folder, kept)
            _log.warning("%s: the result of an earlier run is now in %s", study.key, kept)
    except OSError as error:
        _log.warning("%s: its earlier result is still in place (%s)", study.key, error.strerror)
    return kept.relative_to(out).as_posix() if kept.is_dir() else ""


def move_aside(folder: Path, kept: Path) -> None:
    """Move a result to where earlier ones are kept; an older one there gives way."""
    kept.parent.mkdir(exist_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    folder.rename(kept)


def earlier_folder(out: Path, key: str) -> Path:
    """Where the earlier result of a study is kept that could not be done again."""
    return out / EARLIER_NAME / key


def forget_earlier(out: Path, key: str) -> None:
    """Remove the earlier result of a study that was done again at last."""
    kept = earlier_folder(out, key)
    if kept.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        if not any(kept.parent.iterdir()):
            kept.parent.rmdir()


def scratch_folder(out: Path, key: str) -> Path:
    """Room for copies of a study's files while it is under way."""
    # Named as what remove_leftovers removes, for a run that is killed.
    return out / f".{key}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.part"


def remove_scratch(out: Path, key: str) -> None:
    """Remove what lies in a study's scratch room, if anything does."""
    shutil.rmtree(scratch_folder(out, key), ignore_errors=True)


def _is_result(folder: Path, study: PlannedStudy) -> bool:
    source = study.source if isinstance(study.found, SpinemetsError) else study.found.source
    holds_input = Path(os.path.realpath(source)).is_relative_to(folder.resolve())
    return not holds_input and any((folder / name).exists() for name in _RESULT_NAMES)
