"""Many studies in one run: each ends as done, failed or skipped, and none stops the others.

A study's files go to a temporary folder and get their name in one step, so a result folder
is complete or not there. Knows nothing of how a study is analysed.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from spinemets.atomic import atomic_folder, atomic_write_text
from spinemets.detection import detect
from spinemets.errors import NoUsableInputError, OutputError, SpinemetsError, UnsupportedInputError
from spinemets.io import StudyListing, discover, read_study
from spinemets.reporting import summary_lines
from spinemets.reporting.tables import (
    FINDING_COLUMNS,
    REPORT_COLUMNS,
    Row,
    csv_text,
    finding_rows,
    report_row,
)
from spinemets.results import MAP_NAMES, write_results

if TYPE_CHECKING:
    from spinemets.config import DetectionConfig, ReadingConfig
    from spinemets.detection import Models
    from spinemets.findings import StudyReport

__all__ = [
    "PlannedStudy",
    "Result",
    "State",
    "StudyOutcome",
    "Watcher",
    "plan_batch",
    "run_batch",
    "study_key",
]

_log = logging.getLogger(__name__)

SUMMARY_NAME = "summary.csv"
FINDINGS_NAME = "findings.csv"
_SUMMARY_COLUMNS = ("study", "state", "reason", *REPORT_COLUMNS, "seconds", "source")
_IMAGE_SUFFIX = re.compile(r"(\.nii|\.nii\.gz|\.mha|\.mhd|\.nrrd|\.nhdr|\.dcm|\.ima|\.zip)$", re.IGNORECASE)
_RESULT_NAMES = ("report.json", "report.html", "levels.nii.gz", "overview.png")
_LONGEST_KEY = 80


class State(Enum):
    """How a study ended; skipped means that nothing in it is a spine MRI to analyse."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """One study to analyse, or an input that gave none.

    Attributes
    ----------
    key
        Unique in its batch; the name of its result folder.
    found
        The study's listing, or why the input cannot be read.
    """

    key: str
    source: Path
    found: StudyListing | SpinemetsError


@dataclass(frozen=True, slots=True)
class Result:
    """What is kept of a finished report: rows and lines, not arrays.

    Attributes
    ----------
    main_file
        What a reader opens first: the HTML report, or the folder where there is none.
    """

    main_file: Path
    row: Row
    findings: tuple[Row, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """How one study ended.

    Attributes
    ----------
    reason
        A sentence for a study that failed or was skipped.
    error
        What stopped it, where it failed.
    """

    study: PlannedStudy
    state: State
    reason: str = ""
    error: Exception | None = None
    result: Result | None = None
    seconds: float = 0.0


class Watcher(Protocol):
    """Whoever wants to know how a batch proceeds."""

    def started(self, study: PlannedStudy) -> None:
        """Work on a study begins."""

    def finished(self, outcome: StudyOutcome) -> None:
        """A study has ended, in whatever state."""


def plan_batch(inputs: Sequence[Path], config: ReadingConfig | None = None) -> tuple[PlannedStudy, ...]:
    """Find every study of every input; an input that cannot be read is planned as a problem."""
    found: list[PlannedStudy] = []
    for path in inputs:
        try:
            listings = [listing for listing in discover(path, config) if not _is_own_result(listing.source)]
            if not listings:
                raise NoUsableInputError(
                    f"{path}: holds results of spinemets only; pass the scans themselves"
                )
        except SpinemetsError as error:
            found.append(PlannedStudy(study_key(path), path, error))
        else:
            found += [
                PlannedStudy(study_key(listing.source), listing.source, listing) for listing in listings
            ]
    return _with_unique_keys(found)


def run_batch(
    studies: Sequence[PlannedStudy], out: Path, models: Models, config: DetectionConfig, watcher: Watcher
) -> tuple[StudyOutcome, ...]:
    """Analyse studies one after the other and write what was found.

    Writes ``out/<key>/`` for every study that is done, and ``summary.csv`` and
    ``findings.csv`` for the batch, also when it is interrupted.

    Raises
    ------
    OutputError
        The folder ``out`` cannot be written to.
    """
    outcomes: list[StudyOutcome] = []
    _write_tables(out, outcomes)
    try:
        for study in studies:
            watcher.started(study)
            outcomes.append(_run_study(study, out / study.key, models, config))
            watcher.finished(outcomes[-1])
    finally:
        _write_tables(out, outcomes)
    return tuple(outcomes)


def _is_own_result(source: Path) -> bool:
    """Whether this is a map from an earlier run whose output lies among its inputs."""
    return source.name in MAP_NAMES and (source.parent / "report.json").is_file()


def study_key(source: Path) -> str:
    """A folder name for a study, from the name of the file or folder it came from.

    >>> study_key(Path("scans/sub-01 (T2).nii.gz"))
    'sub-01_T2'
    """
    return _safe_name(_IMAGE_SUFFIX.sub("", source.name or source.resolve().name)) or "study"


def _safe_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    return name[:_LONGEST_KEY].rstrip("._-")


def _with_unique_keys(studies: Sequence[PlannedStudy]) -> tuple[PlannedStudy, ...]:
    """Each study once; those of one place are told apart by their description, or by a hash."""
    distinct = {_identity(study): study for study in studies}
    for extended in (_described_key, _hashed_key):
        # File systems that ignore case must not merge two studies.
        count = Counter(study.key.casefold() for study in distinct.values())
        distinct = {
            identity: replace(study, key=extended(study)) if count[study.key.casefold()] > 1 else study
            for identity, study in distinct.items()
        }
    return tuple(distinct.values())


def _described_key(study: PlannedStudy) -> str:
    description = "" if isinstance(study.found, SpinemetsError) else _safe_name(study.found.description)
    return _safe_name(f"{study.key}_{description}") if description != study.key else study.key


def _hashed_key(study: PlannedStudy) -> str:
    return f"{study.key}-{_identity(study)[:8]}"


def _identity(study: PlannedStudy) -> str:
    """The same for the same study in the same place, whatever else is in the batch."""
    parts = [str(study.source.resolve())]
    if not isinstance(study.found, SpinemetsError):
        # Copies of one image have one UID, and files of one folder may be several studies.
        parts += [study.found.study_uid, study.found.description]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _run_study(study: PlannedStudy, folder: Path, models: Models, config: DetectionConfig) -> StudyOutcome:
    start = perf_counter()
    try:
        result = _analyse(study, folder, models, config)
    except (NoUsableInputError, UnsupportedInputError) as error:
        # An input that was named and gave nothing at all is a mistake, not a study to pass over.
        state = State.FAILED if error is study.found else State.SKIPPED
        return StudyOutcome(study, state, str(error), error, seconds=perf_counter() - start)
    except SpinemetsError as error:
        _log.info("%s failed", study.key, exc_info=True)
        return StudyOutcome(study, State.FAILED, str(error), error, seconds=perf_counter() - start)
    except Exception as error:
        _log.exception("%s failed unexpectedly", study.key)
        reason = f"unexpected {type(error).__name__}: {error}"
        return StudyOutcome(study, State.FAILED, reason, error, seconds=perf_counter() - start)
    return StudyOutcome(study, State.DONE, result=result, seconds=perf_counter() - start)


def _analyse(study: PlannedStudy, folder: Path, models: Models, config: DetectionConfig) -> Result:
    """Read, detect and write one study."""
    if isinstance(study.found, SpinemetsError):
        raise study.found
    _refuse_foreign_folder(folder)
    start = perf_counter()
    images = read_study(study.found, config.reading)
    reading_s = perf_counter() - start
    report = _with_timing(detect(images, models, config), "reading", reading_s)
    with atomic_folder(folder) as temporary:
        write_results(report, temporary, config.report)
    main_file = folder / "report.html" if "html" in config.report.formats else folder
    return Result(
        main_file, report_row(report), finding_rows(study.key, report), tuple(summary_lines(report))
    )


def _with_timing(report: StudyReport, stage: str, seconds: float) -> StudyReport:
    timings_s = {stage: seconds, **report.provenance.timings_s}
    return replace(report, provenance=replace(report.provenance, timings_s=timings_s))


def _refuse_foreign_folder(folder: Path) -> None:
    """Only an earlier result may be replaced: the name may be that of the input itself."""
    if (
        folder.exists()
        and any(folder.iterdir())
        and not any((folder / name).exists() for name in _RESULT_NAMES)
    ):
        raise OutputError(
            f"{folder} exists and is not a result of spinemets, so it is not replaced; "
            "choose another output folder"
        )


def _write_tables(out: Path, outcomes: Sequence[StudyOutcome]) -> None:
    rows = [
        {
            "study": outcome.study.key,
            "state": outcome.state.value,
            "reason": outcome.reason,
            **(outcome.result.row if outcome.result else {}),
            "seconds": round(outcome.seconds, 2),
            "source": str(outcome.study.source),
        }
        for outcome in outcomes
    ]
    findings = [row for outcome in outcomes if outcome.result for row in outcome.result.findings]
    atomic_write_text(out / SUMMARY_NAME, csv_text(_SUMMARY_COLUMNS, rows))
    atomic_write_text(out / FINDINGS_NAME, csv_text(FINDING_COLUMNS, findings))
