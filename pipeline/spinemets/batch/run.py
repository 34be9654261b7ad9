"""A batch: what is missing is done, and every study ends in a record."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from spinemets.atomic import atomic_write_text, remove_leftovers
from spinemets.batch.engine import Limits, Stages, StudyEnd, run_in_turn, run_overlapping
from spinemets.batch.folders import forget_earlier, remove_scratch, set_aside
from spinemets.batch.planning import place_of
from spinemets.batch.privacy import note_names
from spinemets.batch.ray_engine import RayCluster, run_on_ray
from spinemets.batch.records import LOGS_NAME, BatchRecord, RecordBook, Stage, Stamp, State
from spinemets.batch.redaction import redact, redact_message
from spinemets.batch.resident import ResidentModel
from spinemets.batch.side_by_side import run_side_by_side
from spinemets.batch.stages import Failure, StudyResult, finish, load
from spinemets.batch.tables import write_tables
from spinemets.errors import ConfigError, OutputError, SpinemetsError

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy
    from spinemets.config import DetectionConfig
    from spinemets.detection import Models

__all__ = ["Again", "ModelSource", "Todo", "Watcher", "run_batch", "what_to_do"]

_log = logging.getLogger(__name__)

_NOT_A_SPINE = ("NoUsableInputError", "UnsupportedInputError")

Again = Literal["changed", "failed", "all"]
"""Which studies that have a record are taken up again: those of which input, model, settings or
version changed; those that failed, too; or all."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that is loaded when the first study needs it.

    Attributes
    ----------
    sha256
        Of its weights.
    load
        Picklable where there are workers: the model then lives in a process of its own.
    """

    sha256: str
    load: Callable[[], Models]


@dataclass(frozen=True, slots=True)
class Todo:
    """A planned study with the reason to analyse it, or none.

    Attributes
    ----------
    why
        "new", "another model", ...; empty where its record stands.
    record
        Of an earlier run; None where there is none.
    """

    study: PlannedStudy
    stamp: Stamp
    why: str
    record: BatchRecord | None = None


class Watcher(Protocol):
    """Whoever wants to know how a batch proceeds; told by one thread at a time."""

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        """A stage of a study begins."""

    def ended(self, record: BatchRecord, lines: tuple[str, ...]) -> None:
        """A study has its record; the lines say what was found."""


def what_to_do(
    studies: Sequence[PlannedStudy],
    records: Mapping[str, BatchRecord],
    out: Path,
    stamp: Callable[[PlannedStudy], Stamp],
    again: Again = "changed",
) -> tuple[Todo, ...]:
    """Compare the planned studies with what is there already; in the order of the plan.

    A study whose name stands for another one there is planned as a problem, under another name.
    """
    todo = []
    for planned in studies:
        now = stamp(planned)
        study = _renamed_if_taken(planned, records.get(planned.key), now)
        record = records.get(study.key)
        why = "new" if record is None else _why(record, now, (out / study.key).is_dir(), again)
        todo.append(Todo(study, now, why, record))
    return tuple(todo)


def _renamed_if_taken(study: PlannedStudy, record: BatchRecord | None, now: Stamp) -> PlannedStudy:
    """The study, or a problem in its place where its name is that of a study from elsewhere.

    A study that only moved has its content still, and one whose content changed its place.
    """
    if record is None or record.stamp.input == now.input or _is_from(study, record.source):
        return study
    place = study.hidden_source or place_of(study.source)
    problem = ConfigError(
        f"its name is taken by the study from {record.source}; give it another one in a manifest"
    )
    # What is recorded of the problem must not take the place of the other study's record.
    key = f"{study.key}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    return replace(study, key=key, found=problem)


def _is_from(study: PlannedStudy, source: str) -> bool:
    """Whether a recorded source is the place where a study lies."""
    if study.hidden_source:
        # A name that is hashed follows from the place; one that the user gave does not.
        return not study.name or study.hidden_source == source
    return place_of(Path(source)) == place_of(study.source)


def _source_of(study: PlannedStudy, config: DetectionConfig) -> str:
    """What a record says of where a study comes from; of a de-identified one it is a pseudonym."""
    if study.hidden_source or config.deidentification.enabled:
        return study.hidden_source or str(study.source)
    return place_of(study.source)


def _why(record: BatchRecord, now: Stamp, has_folder: bool, again: Again) -> str:
    if again == "all":
        return "asked for"
    if again == "failed" and record.state is State.FAILED:
        return "failed before"
    if record.state is State.DONE and not has_folder:
        return "its results are gone"
    return now.difference(record.stamp)


def run_batch(
    todo: Sequence[Todo],
    book: RecordBook,
    model: ModelSource,
    config: DetectionConfig,
    watcher: Watcher,
    limits: Limits | RayCluster | None = None,
) -> tuple[BatchRecord, ...]:
    """Analyse what is missing, and write results, records and tables into the book's folder.

    Parameters
    ----------
    limits
        None, or no workers, to do one study after the other in this process; a Ray cluster to do
        them there.

    Returns
    -------
    tuple of BatchRecord
        One for each planned study, of this run or an earlier one, in the order of the plan.

    Raises
    ------
    OutputError
        The folder cannot be written to, so that no record can be kept.
    """
    out = book.folder
    pending = [entry for entry in todo if entry.why]
    for entry in pending:
        _log.info("%s: %s", entry.study.key, entry.why)
    hidden = [entry.study for entry in todo if entry.study.hidden_source]
    if hidden:
        note_names(hidden, out)
    _note_moves(todo, book, config)
    remove_leftovers(out)
    try:
        if pending:
            stages = Stages(
                partial(load, config=config, out=out), model.load, partial(finish, config=config, out=out)
            )
            stamps = {entry.study.key: entry.stamp for entry in pending}
            registrar = _Registrar(book, stamps, watcher, config)
            waiting = [entry.study for entry in pending]
            if isinstance(limits, RayCluster):
                run_on_ray(waiting, stages, limits, registrar, out)
            elif limits is None or limits.workers == 0:
                run_in_turn(waiting, stages, registrar)
            else:
                _run_in_processes(waiting, stages, limits, registrar, book.lock_descriptor)
    finally:
        remove_leftovers(out)
        book.release_reserve()
        _write_tables(book)
    return tuple(book.records[entry.study.key] for entry in todo)


def _note_moves(todo: Sequence[Todo], book: RecordBook, config: DetectionConfig) -> None:
    """Let the records of studies that only moved say where they lie now.

    Found by their content this time, they are found by their place when that changes.
    """
    for entry in todo:
        if entry.why or entry.record is None or isinstance(entry.study.found, SpinemetsError):
            continue
        source = _source_of(entry.study, config)
        if entry.record.source != source:
            book.append(entry.record.model_copy(update={"source": source}))


def _run_in_processes(
    studies: Sequence[PlannedStudy],
    stages: Stages,
    limits: Limits,
    registrar: _Registrar,
    lock_descriptor: int | None,
) -> None:
    """Side by side where the model is on the CPU and that is wanted, else beside one network."""
    network = ResidentModel(stages.load_models, limits.timeout_s, lock_descriptor)
    try:
        device = network.start()
        run = run_side_by_side if device == "cpu" and limits.side_by_side else run_overlapping
        run(studies, stages, limits, registrar, network, lock_descriptor)
    except BaseException:
        network.kill()
        raise
    finally:
        network.close()


def _write_tables(book: RecordBook) -> None:
    try:
        write_tables(book.folder, book.records)
    except OutputError as error:
        raise OutputError(
            f"{error}. All records are whole; the tables are made from them by: "
            f"spinemets merge {book.folder} -o {book.folder}"
        ) from error


class _Registrar:
    """Turns the end of each study into its record."""

    def __init__(
        self, book: RecordBook, stamps: Mapping[str, Stamp], watcher: Watcher, config: DetectionConfig
    ) -> None:
        self._book, self._stamps, self._watcher, self._config = book, stamps, watcher, config
        self._run = uuid.uuid4().hex[:12]

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        self._watcher.moved(study, stage)

    def ended(self, end: StudyEnd) -> None:
        study, outcome = end.study, end.outcome
        record = BatchRecord(
            study=study.key,
            state=State.DONE,
            source=_source_of(study, self._config),
            stamp=self._stamps[study.key],
            columns={name: redact(value, study.private) for name, value in study.columns.items()},
            run=self._run,
            ended=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        if isinstance(outcome, StudyResult):
            record = record.model_copy(update=_result_fields(outcome))
        else:
            record = record.model_copy(update=self._failure_fields(study, outcome))
        self._book.append(record)
        remove_scratch(self._book.folder, study.key)
        if record.state is State.DONE:
            forget_earlier(self._book.folder, study.key)
        lines = outcome.lines if isinstance(outcome, StudyResult) else ()
        self._watcher.ended(record, tuple(redact_message(line, study) for line in lines))

    def _failure_fields(self, study: PlannedStudy, failure: Failure) -> dict[str, object]:
        # An input that was named and gave nothing at all is a mistake, not a study to pass over.
        named = isinstance(study.found, SpinemetsError)
        traceback = redact_message(failure.traceback, study)
        # Whoever watches is told the reason; the traceback is kept in a file.
        _log.debug("%s: stopped while %s\n%s", study.key, failure.stage.value, traceback)
        earlier = set_aside(study, self._book.folder)
        skipped = failure.error in _NOT_A_SPINE and failure.stage is Stage.READING and not named
        return {
            "state": State.SKIPPED if skipped else State.FAILED,
            "reason": redact_message(failure.message, study)
            + (f" (its result of an earlier run is in {earlier})" if earlier else ""),
            "error": failure.error,
            "stage": failure.stage,
            "earlier": earlier,
            "log": "" if skipped else self._write_log(study.key, traceback),
        }

    def _write_log(self, key: str, traceback: str) -> str:
        name = f"{LOGS_NAME}/{key}.log"
        try:
            atomic_write_text(self._book.folder / name, traceback)
        except OutputError:
            _log.warning("%s: no room for its traceback", key)
            return ""
        return name


def _result_fields(result: StudyResult) -> dict[str, object]:
    return {
        # With hashed names nothing in a row is a person's: its words are the report's own, and what
        # its cautions say of files and headers was hidden when the study was read.
        "summary": dict(result.summary),
        "findings": tuple(dict(row) for row in result.findings),
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
    }
