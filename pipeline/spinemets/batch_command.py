"""What ``spinemets detect`` does with its planned studies: run, tell, and decide the exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from spinemets.allocation import available_bytes
from spinemets.atomic import atomic_write_text
from spinemets.batch import (
    RECORDS_NAME,
    SUMMARY_NAME,
    Again,
    BatchRecord,
    Limits,
    ManifestRow,
    ModelSource,
    PlannedStudy,
    RayCluster,
    RecordBook,
    SideBySide,
    Stage,
    Stamp,
    State,
    Tally,
    Todo,
    conceal,
    manifest_text,
    read_records,
    run_batch,
    settle_names,
    stamp_of,
    usable_processors,
    what_to_do,
)
from spinemets.batch.deidentified import check_linkage, disguise, refuse_identified
from spinemets.batch.planning import study_mark
from spinemets.batch.privacy import refuse_other_names
from spinemets.batch.ray_nodes import BundleAddress
from spinemets.batch.redaction import redact_message
from spinemets.errors import ConfigError, SpinemetsError
from spinemets.exit_codes import DONE, PARTIAL, code_of, common_code
from spinemets.terminal import LiveProgress, has_terminal

if TYPE_CHECKING:
    from spinemets.bundles import Bundle
    from spinemets.config import DetectionConfig
    from spinemets.detection import Models

__all__ = ["carry_out", "show_plan", "write_manifest"]

_log = logging.getLogger(__name__)

# A few studies are done before worker processes have started.
_WORKERS_PAY_FROM = 4
_MOST_WORKERS_UNASKED = 4
_PLAIN_EVERY_S = 30.0
# As measured with one to three sequences, see docs/scaling.md: the main process, each worker, the network.
_PROCESS_GIB, _NETWORK_GIB = 0.35, 1.5
# A process that does everything, with a study of a whole spine.
_WHOLE_GIB = 2.25
_DEIDENTIFYING = ("deid_retain", "deid_key", "deid_linkage")


def carry_out(
    studies: Sequence[PlannedStudy],
    out: Path,
    bundle: Bundle,
    config: DetectionConfig,
    options: Mapping[str, Any],
) -> int:
    """Do what is missing of a plan, say what came of it, and give the exit code."""
    _refuse_contradictions(config, options)
    again = _again(options)
    with RecordBook(out) as book:
        stamp: Callable[[PlannedStudy], Stamp] = partial(stamp_of, model_sha256=bundle.sha256, config=config)
        if config.deidentification.enabled:
            refuse_identified(book.records, out)
            studies, stamp = disguise(studies, stamp, out, config.deidentification, options["deid_linkage"])
        else:
            studies = settle_names(studies, book, config.report.identifiers, options["salt"])
        todo = what_to_do(studies, book.records, out, stamp, again)
        pending = [entry for entry in todo if entry.why]
        for entry in todo if options["progress"] != "json" else ():
            _say_what_stands(entry.study.key, entry.why, entry.record, out)
        limits = _on_ray(config, options) if _is_ray(options) else _limits(len(pending), options)
        model = ModelSource(bundle.sha256, _loader(bundle, config, options))
        tally = Tally(len(pending))
        try:
            with _announcer(tally, out, options) as announcer:
                records = run_batch(todo, book, model, config, announcer, limits)
        except KeyboardInterrupt:
            if len(studies) > 1:
                _complain(
                    f"{tally.count} of {len(pending)} studies have ended; the same command goes on from here"
                )
            raise
    if len(records) > 1 and options["progress"] != "json":
        _tell(_tally(records, out))
    return _exit_code(records)


def show_plan(
    studies: Sequence[PlannedStudy],
    out: Path,
    bundle: Bundle,
    config: DetectionConfig,
    options: Mapping[str, Any],
) -> int:
    """Print what a run would do, study by study; nothing is written."""
    records = read_records(out) if (out / RECORDS_NAME).is_file() else {}
    stamp: Callable[[PlannedStudy], Stamp] = partial(stamp_of, model_sha256=bundle.sha256, config=config)
    if config.deidentification.enabled:
        if options["deid_linkage"] is not None:
            check_linkage(options["deid_linkage"], out)
        refuse_identified(records, out)
        studies, stamp = disguise(studies, stamp, out, config.deidentification)
    else:
        hashed = config.report.identifiers == "hash"
        refuse_other_names(records, out, hashed=hashed)
        studies = conceal(studies, out, options["salt"], write=False) if hashed else studies
    todo = what_to_do(studies, records, out, stamp, _again(options))
    for entry in todo:
        click.echo(_planned_line(entry))
    count = sum(bool(entry.why) for entry in todo)
    click.echo(f"{len(todo)} studies, {count} to be done, {len(todo) - count} as they are")
    return DONE


def write_manifest(
    path: Path, studies: Sequence[PlannedStudy], out: Path, identifiers: str, salt: Path | None = None
) -> None:
    """Write the planned studies as a manifest; inputs that are no study are left out.

    Raises
    ------
    ConfigError
        The output folder has another salt than the one given.
    OutputError
        The file or the salt cannot be written.
    """
    named = conceal(studies, out, salt) if identifiers == "hash" else studies
    rows = [
        ManifestRow(study.key, study.source, study.columns, study_mark(study.found, study.key))
        for study in named
        if not isinstance(study.found, SpinemetsError)
    ]
    atomic_write_text(path, manifest_text(rows))


def _planned_line(entry: Todo) -> str:
    study = entry.study
    if not entry.why:
        state = entry.record.state.value if entry.record else ""
        return f"{study.key}: stays {state}"
    if isinstance(study.found, SpinemetsError):
        return f"{study.key}: will fail: {redact_message(str(study.found), study)}"
    used = sum(series.kept for series in study.found.series)
    source = "" if study.hidden_source else f", {study.source}"
    return f"{study.key}: {entry.why}: {used} of {len(study.found.series)} series{source}"


def _again(options: Mapping[str, Any]) -> Again:
    return "all" if options["rerun"] else "failed" if options["retry_failed"] else "changed"


def _refuse_contradictions(config: DetectionConfig, options: Mapping[str, Any]) -> None:
    if options["workers"] == 0 and _is_ray(options):
        raise ConfigError("--workers 0: on a Ray cluster at least one process reads and writes")
    if config.deidentification.enabled and _is_ray(options):
        raise ConfigError("--deidentify needs its key on every machine, so it is not for --engine ray")
    if options["workers"] == 0 and options["timeout"] is not None:
        raise ConfigError("--timeout needs processes that can be ended; pass --workers 1 or more")
    if options["ray_address"] is not None and not _is_ray(options):
        raise ConfigError("--ray-address is for --engine ray")
    idle = [f"--{name.replace('_', '-')}" for name in _DEIDENTIFYING if options[name]]
    if idle and not config.deidentification.enabled:
        raise ConfigError(f"{' and '.join(idle)}: nothing is de-identified without --deidentify; pass it too")
    needs_pdf = [name for name in config.report.formats if name in ("pdf", "dicom-pdf")]
    if needs_pdf and find_spec("weasyprint") is None:
        raise ConfigError(
            f"formats {','.join(needs_pdf)}: a PDF needs WeasyPrint; install the extra with "
            "pip install 'spinemets[pdf]', or leave the format out"
        )
    device = config.segmentation.device
    if _is_ray(options) and device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"device {device}: Ray deals out the devices; use auto, cpu or cuda with --engine ray"
        )


def _is_ray(options: Mapping[str, Any]) -> bool:
    return bool(options["engine"] == "ray")


def _on_ray(config: DetectionConfig, options: Mapping[str, Any]) -> RayCluster:
    memory = options["max_memory"]
    limits = Limits(options["workers"] or 0, options["timeout"], None if memory is None else memory * 2**30)
    device: Any = config.segmentation.device
    return RayCluster(limits, options["ray_address"], device)


def _loader(bundle: Bundle, config: DetectionConfig, options: Mapping[str, Any]) -> Callable[[], Models]:
    from spinemets import detection

    if _is_ray(options):
        return partial(BundleAddress.of(bundle).load, config.segmentation)
    return partial(detection.load_models, bundle, config.segmentation)


def _limits(pending: int, options: Mapping[str, Any]) -> Limits:
    workers, memory = options["workers"], options["max_memory"]
    side_by_side = _side_by_side(workers or usable_processors(), memory)
    if workers is None:
        asked = options["timeout"] is not None or memory is not None
        enough = max(1, min(_MOST_WORKERS_UNASKED, usable_processors() // 2))
        workers = enough if pending >= _WORKERS_PAY_FROM or asked else 0
    return Limits(workers, options["timeout"], _array_bytes(memory, workers), side_by_side)


def _side_by_side(processes: int, memory_gib: float | None) -> SideBySide:
    """As many processes as are wanted, or as the memory has room for networks and a study each.

    >>> _side_by_side(16, memory_gib=8).processes
    3
    """
    room_gib = available_bytes() / 2**30 if memory_gib is None else memory_gib
    processes = max(1, min(processes, int(room_gib / _WHOLE_GIB)))
    if memory_gib is None:
        return SideBySide(processes)
    arrays_gib = memory_gib - (_NETWORK_GIB + _PROCESS_GIB) * processes
    return SideBySide(processes, max(0.0, arrays_gib) * 2**30)


def _array_bytes(memory_gib: float | None, workers: int) -> float | None:
    """What a limit for the whole run leaves for the arrays of studies beside its processes.

    >>> _array_bytes(8, workers=4) / 2**30
    4.75
    >>> _array_bytes(1, workers=4)
    0.0
    """
    if memory_gib is None:
        return None
    # One study goes on in any case.
    return max(0.0, memory_gib - _NETWORK_GIB - _PROCESS_GIB * (workers + 1)) * 2**30


def _say_what_stands(key: str, why: str, record: BatchRecord | None, out: Path) -> None:
    """Say what is not done again and how it could be, and why something is."""
    if record is None:
        return
    if why:
        _tell(f"{key}: again: {why}")
    elif record.state is State.DONE:
        _tell(f"{key}: done before; --rerun does it again. Results: {main_file(out, key)}")
    else:
        hint = "--retry-failed tries again" if record.state is State.FAILED else "--rerun tries again"
        _complain(f"{key}: {record.state.value} before ({hint}): {record.reason}")


def main_file(out: Path, key: str) -> Path:
    """What a reader opens first: the HTML report, or the folder where there is none."""
    page = out / key / "report.html"
    return page if page.is_file() else out / key


class _Announcer:
    """Prints what became of each study as soon as it is known."""

    def __init__(self, tally: Tally, out: Path, show: Callable[[Tally], None]) -> None:
        self._tally, self._out, self._show = tally, out, show

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        self._tally.moved(study.key, stage)
        self._show(self._tally)

    def ended(self, record: BatchRecord, lines: tuple[str, ...]) -> None:
        self._tally.ended(record.study, record.state)
        self._show(self._tally)
        if record.state is not State.DONE:
            _complain(f"{record.study}: {record.state.value}: {record.reason}")
            return
        text = [f"{record.study}  ({sum(record.seconds.values()):.1f} s)", *(f"  {line}" for line in lines)]
        _tell("\n".join([*text, f"  Results: {main_file(self._out, record.study)}"]))


class _JsonAnnouncer:
    """Prints every event as a line of JSON."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        self._tally.moved(study.key, stage)
        self._print(event="stage", study=study.key, stage=stage.value)

    def ended(self, record: BatchRecord, _lines: tuple[str, ...]) -> None:
        self._tally.ended(record.study, record.state)
        left_s = self._tally.left_s
        self._print(
            event="ended",
            study=record.study,
            state=record.state.value,
            reason=record.reason,
            seconds=record.seconds,
            lesions=record.summary.get("lesions"),
            ended=self._tally.count,
            planned=self._tally.studies,
            left_s=None if left_s is None else round(left_s, 1),
        )

    def _print(self, **event: object) -> None:
        _tell(json.dumps(event))


@contextmanager
def _announcer(tally: Tally, out: Path, options: Mapping[str, Any]) -> Iterator[_Announcer | _JsonAnnouncer]:
    """Whoever tells the user, in the way that was asked for or that suits where stderr goes."""
    way = options["progress"]
    if way == "auto":
        way = "rich" if has_terminal() else "plain"
    if way == "json":
        yield _JsonAnnouncer(tally)
    elif options["quiet"] or tally.studies == 0:
        yield _Announcer(tally, out, lambda _: None)
    elif way == "rich":
        with LiveProgress(tally.studies) as live:
            yield _Announcer(tally, out, live.show)
    else:
        yield _Announcer(tally, out, _PlainProgress().show)


class _PlainProgress:
    """A line on stderr now and then, for a log."""

    def __init__(self) -> None:
        self._last_s = monotonic()

    def show(self, tally: Tally) -> None:
        if monotonic() - self._last_s >= _PLAIN_EVERY_S and tally.studies > 1:
            self._last_s = monotonic()
            _tell(tally.line(), err=True)


def _complain(message: str) -> None:
    _tell(f"spinemets: {message}", err=True)


def _tell(text: str, *, err: bool = False) -> None:
    """Print; whoever has stopped reading, or a log without room, does not end a batch."""
    try:
        click.echo(text, err=err)
    except OSError as error:
        _log.warning("nothing more is printed (%s)", error.strerror)
        stream = sys.stderr if err else sys.stdout
        # What waits in its buffer would fail once more when Python ends.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _exit_code(records: Sequence[BatchRecord]) -> int:
    """0 if no study failed; a skipped study counts only where none was done."""
    states = {record.state for record in records}
    if not states:
        # A shard of a small batch may be empty.
        return DONE
    if State.DONE in states:
        return PARTIAL if State.FAILED in states else DONE
    return common_code(code_of(record.error) for record in records)


def _tally(records: Sequence[BatchRecord], out: Path) -> str:
    count = Counter(record.state for record in records)
    counts = ", ".join(f"{count[state]} {state.value}" for state in State)
    return f"{len(records)} studies: {counts}. Table: {out / SUMMARY_NAME}"
