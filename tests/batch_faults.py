"""Stages that misbehave for studies of certain names, and a run to be killed, for the batch's tests."""

from __future__ import annotations

import errno
import os
import signal
import time
from functools import partial
from pathlib import Path

from spinemets.atomic import atomic_folder
from spinemets.batch import (
    BatchRecord,
    Limits,
    ModelSource,
    RecordBook,
    SideBySide,
    Stage,
    plan_batch,
    run_batch,
    settle_names,
    stages,
    stamp_of,
    what_to_do,
)
from spinemets.config import DetectionConfig, ReportConfig
from spinemets.errors import DeviceUnavailableError, ModelNotFoundError, OutOfMemoryError, WorkerError
from standins import TruthSegmenter, lumbar_truth, models_for

LEAN = DetectionConfig(report=ReportConfig(formats=("json", "nifti"), identifiers="keep"))
"""Without pictures and pages, which have tests of their own, and hashes, which differ between folders."""


class Silent:
    """A watcher that remembers the order of events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def moved(self, study, stage: Stage) -> None:
        self.events.append((stage.value, study.key))

    def ended(self, record: BatchRecord, _lines: tuple[str, ...]) -> None:
        self.events.append((record.state.value, record.study))


def load(study, config, out):
    """As ``stages.load``, but a study may kill its process, hang or end it by its name."""
    if "killed" in study.key:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hung" in study.key:
        time.sleep(100)
    if "quits" in study.key:
        os._exit(3)
    return stages.load(study, config, out)


def finish(job, config, out):
    """As ``stages.finish``, but the disk may be full, or the process killed while it writes."""
    key = job[0]
    if "full" in key:
        raise OSError(errno.ENOSPC, "No space left on device")
    if "murdered" in key:
        with atomic_folder(out / key) as temporary:
            (temporary / "report.json").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    return stages.finish(job, config, out)


class FaultySegmenter(TruthSegmenter):
    """Hangs, dies or fails for studies of certain names."""

    broken = False

    def segment(self, study):
        name = study.reference.series.source.name
        if "stuck" in name:
            time.sleep(1000)
        if "crashes" in name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "shot" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "nomemory" in name:
            raise OutOfMemoryError("neither the device nor the CPU has room")
        self.broken |= "device" in name
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().segment(study)


class Fails:
    """A network that never ends well."""

    def segment(self, _study):
        raise WorkerError("killed")


class Crowded(TruthSegmenter):
    """Has no memory for any study as long as others are being done beside it."""

    def __init__(self, truth, folder: Path) -> None:
        super().__init__(truth)
        self._folder = folder

    def segment(self, study):
        mine = self._folder / study.reference.series.source.name
        mine.touch()
        time.sleep(0.3)
        crowd = len(list(self._folder.iterdir()))
        mine.unlink()
        if crowd > 1:
            raise OutOfMemoryError("neither the device nor the CPU has room")
        return super().segment(study)


class LoadsOnce:
    """Loads a faulty model the first time; then the device is gone."""

    def __init__(self, truth, mark: Path) -> None:
        self._truth, self._mark = truth, mark

    def __call__(self):
        if self._mark.exists():
            raise DeviceUnavailableError("no cuda:0 here")
        self._mark.touch()
        return models_for(FaultySegmenter(self._truth))


class HoldsOn(TruthSegmenter):
    """On one node of a Ray cluster it never ends; on others it waits until a study is held there."""

    def __init__(self, truth, node: str, mark: Path) -> None:
        super().__init__(truth)
        self._node, self._mark = node, mark

    def segment(self, study):
        import ray

        if ray.get_runtime_context().get_node_id() == self._node:
            self._mark.touch()
            time.sleep(1000)
        while not self._mark.exists():
            time.sleep(0.1)
        return super().segment(study)


def no_model():
    """In the place of a model's loading."""
    raise ModelNotFoundError("on node here: there is no model bundle")


class SlowSegmenter(TruthSegmenter):
    """Takes its time, so that a run can be killed in the middle of it."""

    def segment(self, study):
        time.sleep(0.15)
        return super().segment(study)


def run_planned(
    planned,
    out,
    segmenter,
    config=LEAN,
    watcher=None,
    limits=None,
    again="changed",
    sha256="0" * 64,
    load_models=None,
):
    """Plan, sort out and run, as the command line does."""
    with RecordBook(out) as book:
        todo = what_to_do(planned, book.records, out, lambda study: stamp_of(study, sha256, config), again)
        source = ModelSource(sha256, load_models or partial(models_for, segmenter))
        return run_batch(todo, book, source, config, watcher or Silent(), limits or Limits(0))


def run_listed(rows: dict[str, Path], out: Path, segmenter) -> list[BatchRecord]:
    """Run a manifest with hashed names, as the command does."""
    manifest = out.with_suffix(".csv")
    manifest.write_text("study,path\n" + "".join(f"{name},{path}\n" for name, path in rows.items()))
    config = LEAN.model_copy(update={"report": LEAN.report.model_copy(update={"identifiers": "hash"})})
    with RecordBook(out) as book:
        studies = settle_names(plan_batch([manifest]), book, "hash")
        todo = what_to_do(studies, book.records, out, lambda study: stamp_of(study, "0" * 64, config))
        model = ModelSource("0" * 64, lambda: models_for(segmenter))
        return list(run_batch(todo, book, model, config, Silent()))


def run_slowly(scans: Path, out: Path, beside: SideBySide | None) -> None:
    """A run that can be killed in the middle."""
    run_planned(
        plan_batch([scans]), out, SlowSegmenter(lumbar_truth()), limits=Limits(2, side_by_side=beside)
    )
