"""The analysis of one received study, in a process that may die without harm to the server.

The model is loaded once in a process. Imported by workers: it must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets.batch.planning import PlannedStudy
from spinemets.batch.records import Stage
from spinemets.batch.redaction import redact
from spinemets.batch.stages import Failure, StudyResult, attempt, carry_out, finish, load
from spinemets.errors import NoUsableInputError
from spinemets.io import discover, private_words

if TYPE_CHECKING:
    from spinemets.bundles import Bundle
    from spinemets.config import DetectionConfig
    from spinemets.detection import Models

__all__ = ["AnalysisJob", "analyse", "warm_up"]


@dataclass(frozen=True, slots=True, eq=False)
class AnalysisJob:
    """A study to analyse.

    Attributes
    ----------
    key
        The name of its folder in ``out``.
    source
        The folder of its files.
    """

    key: str
    source: Path
    out: Path
    bundle: Bundle
    config: DetectionConfig


_loaded: dict[str, Models] = {}


def warm_up(job: AnalysisJob) -> Failure | None:
    """Load the model of the jobs to come; why it cannot be, or nothing."""
    outcome = attempt(_models, job, Stage.NETWORK)
    return outcome if isinstance(outcome, Failure) else None


def analyse(job: AnalysisJob) -> StudyResult | Failure:
    """Analyse a study and write its results into ``out/key``; failures name no patient."""
    planned = attempt(_plan, job, Stage.READING)
    if isinstance(planned, Failure):
        return planned
    models = attempt(_models, job, Stage.NETWORK)
    if isinstance(models, Failure):
        outcome: StudyResult | Failure = models
    else:
        read = partial(load, config=job.config, out=job.out)
        write = partial(finish, config=job.config, out=job.out)
        outcome = carry_out(planned, read, models, write)
    if isinstance(outcome, Failure):
        return replace(
            outcome,
            message=redact(outcome.message, planned.private),
            traceback=redact(outcome.traceback, planned.private),
        )
    return outcome


def _plan(job: AnalysisJob) -> PlannedStudy:
    listings = discover(job.source, job.config.reading)
    if len(listings) != 1:
        raise NoUsableInputError(f"{job.key}: holds {len(listings)} studies, expected one")
    (listing,) = listings
    return PlannedStudy(job.key, job.source, listing, private=private_words(listing))


def _models(job: AnalysisJob) -> Models:
    from spinemets.detection import load_models

    name = f"{job.bundle.sha256} {job.config.segmentation.model_dump_json()}"
    if name not in _loaded:
        _loaded[name] = load_models(job.bundle, job.config.segmentation)
    return _loaded[name]
