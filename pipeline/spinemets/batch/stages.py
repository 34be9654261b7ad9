"""The stages of one study, as functions that any process can run: load, segment, finish.

Workers import this module, so it must not import torch.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from spinemets.assembly import NetworkSegmenter, assemble
from spinemets.atomic import atomic_folder
from spinemets.batch.deidentified import copied_study
from spinemets.batch.folders import refuse_foreign_folder, remove_scratch, scratch_folder
from spinemets.batch.privacy import identifier_key
from spinemets.batch.records import Stage
from spinemets.batch.redaction import redacted_logs, without_names, without_words
from spinemets.detection import interpret
from spinemets.errors import SpinemetsError
from spinemets.io import read_study, unpack_study
from spinemets.registration import Alignment, align
from spinemets.reporting import summary_lines
from spinemets.reporting.batch_page import write_thumbnail
from spinemets.reporting.tables import Row, finding_rows, report_row
from spinemets.results import write_results
from spinemets.segmented import NetworkMaps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spinemets.batch.planning import PlannedStudy
    from spinemets.config import DetectionConfig
    from spinemets.detection import Models
    from spinemets.findings import Provenance
    from spinemets.segmented import SpineSegmentation
    from spinemets.volume import Study

__all__ = [
    "Failure",
    "LoadedStudy",
    "SegmentedStudy",
    "StudyResult",
    "attempt",
    "carry_out",
    "failure_of",
    "finish",
    "load",
    "segment",
]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedStudy:
    """A study with its pixels, its series brought together."""

    images: Study
    alignment: Alignment
    reading_s: float
    aligning_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedStudy:
    """What the network has seen in a study.

    Attributes
    ----------
    segmentation
        Or the maps that it is still to be made of, which is left to a worker.
    provenance
        Holds the times so far.
    """

    segmentation: SpineSegmentation | NetworkMaps
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What is kept of a finished report: rows and lines, not arrays."""

    summary: Row
    findings: tuple[Row, ...]
    lines: tuple[str, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Failure:
    """What stopped a study, in a form that passes between processes.

    Attributes
    ----------
    error
        The name of the error's class.
    on_purpose
        Whether it is one that spinemets raises itself, with a message for the user.
    """

    error: str
    message: str
    stage: Stage
    traceback: str = ""
    on_purpose: bool = True


def failure_of(error: Exception, stage: Stage) -> Failure:
    """An error as a failure; one that was not raised on purpose says so."""
    kind = type(error).__name__
    on_purpose = isinstance(error, SpinemetsError | MemoryError)
    message = (str(error) or "out of memory") if on_purpose else f"unexpected {kind}: {error}"
    return Failure(kind, message, stage, "".join(traceback.format_exception(error)), on_purpose)


def carry_out(
    study: PlannedStudy,
    load: Callable[[PlannedStudy], LoadedStudy],
    models: Models,
    finish: Callable[[tuple[str, LoadedStudy, SegmentedStudy]], StudyResult],
    moved: Callable[[Stage], None] | None = None,
) -> StudyResult | Failure:
    """Every stage of one study, one after the other in this process; the first failure ends it.

    Parameters
    ----------
    load, finish
        This module's, told the configuration and the folder of the results.
    moved
        Told each stage as it begins.
    """
    tell = moved or _tell_nobody
    tell(Stage.READING)
    loaded = attempt(load, study, Stage.READING)
    if isinstance(loaded, Failure):
        return loaded
    tell(Stage.NETWORK)
    segmented = attempt(partial(segment, models=models), loaded, Stage.NETWORK)
    if isinstance(segmented, Failure):
        return segmented
    tell(Stage.WRITING)
    return attempt(finish, (study.key, loaded, segmented), Stage.WRITING)


def _tell_nobody(stage: Stage) -> None:
    """For those who do not ask where a study is."""


def attempt(function: Callable[[T], R], argument: T, stage: Stage) -> R | Failure:
    """What the function returns, or what it raised as a failure: no study stops the others."""
    try:
        return function(argument)
    except Exception as error:
        return failure_of(error, stage)


def load(study: PlannedStudy, config: DetectionConfig, out: Path) -> LoadedStudy:
    """Read a study's pixels and register its series, unless its result could not be written in the end.

    Raises
    ------
    InputError
        The study cannot be used.
    OutputError
        A folder of its name is there that is not a result.
    """
    if isinstance(study.found, SpinemetsError):
        raise study.found
    refuse_foreign_folder(out / study.key, study)
    start = perf_counter()
    found = study.found
    if config.deidentification.enabled:
        found = copied_study(found, out, study.key, config.deidentification)
    elif found.archive is not None:
        # What is written of DICOM files is made from them once more, in the last stage.
        remove_scratch(out, study.key)
        found = unpack_study(found, scratch_folder(out, study.key))
    if config.deidentification.enabled or config.report.identifiers == "keep":
        images = read_study(found, config.reading)
    else:
        with redacted_logs(study):
            images = without_words(read_study(without_names(found, study), config.reading), study)
    read = perf_counter()
    alignment = align(images, config.segmentation)
    return LoadedStudy(images, alignment, read - start, perf_counter() - read)


def segment(loaded: LoadedStudy, models: Models) -> SegmentedStudy:
    """Run the network on a study.

    Raises
    ------
    OutOfMemoryError
        Neither the device nor the CPU has room for the study.
    """
    start = perf_counter()
    segmenter = models.segmenter
    segmentation: SpineSegmentation | NetworkMaps
    if isinstance(segmenter, NetworkSegmenter):
        segmentation = segmenter.run_networks(loaded.alignment)
    else:
        segmentation = segmenter.segment(loaded.images)
    segmentation_s = loaded.aligning_s + perf_counter() - start
    timings_s = {"reading": loaded.reading_s, "segmentation": segmentation_s}
    return SegmentedStudy(segmentation, replace(models.provenance, timings_s=timings_s))


def finish(job: tuple[str, LoadedStudy, SegmentedStudy], config: DetectionConfig, out: Path) -> StudyResult:
    """Name the levels, describe the lesions and write everything into ``out/key``.

    Raises
    ------
    ConfigError
        An anchor contradicts what is seen.
    OutputError
        A file could not be written.
    """
    key, loaded, segmented = job
    try:
        segmentation, provenance = _assembled(loaded.alignment, segmented)
        report = interpret(loaded.images, segmentation, provenance, config)
        start = perf_counter()
        with atomic_folder(out / key) as temporary:
            report = write_results(report, temporary, config.report, identifier_key(out, config))
            write_thumbnail(temporary)
    finally:
        remove_scratch(out, key)
    return StudyResult(
        report_row(report),
        finding_rows(key, report),
        tuple(summary_lines(report)),
        {**report.provenance.timings_s, "writing": perf_counter() - start},
    )


def _assembled(alignment: Alignment, segmented: SegmentedStudy) -> tuple[SpineSegmentation, Provenance]:
    """The segmentation, and the provenance with the time that was still to be spent on it."""
    segmentation, provenance = segmented.segmentation, segmented.provenance
    if not isinstance(segmentation, NetworkMaps):
        return segmentation, provenance
    start = perf_counter()
    whole = assemble(alignment, segmentation)
    timings_s = dict(provenance.timings_s)
    timings_s["segmentation"] += perf_counter() - start
    return whole, replace(provenance, timings_s=timings_s)
