"""One study from its files to its report, with the time of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from spinemets.benchmark.machine import forget_peak_memory, peak_memory_mb, wait_for
from spinemets.config import DetectionConfig, ReportConfig
from spinemets.detection import interpret
from spinemets.errors import NoUsableInputError
from spinemets.inference import Engine, EngineReport
from spinemets.io import discover, read_study
from spinemets.results import write_results
from spinemets.segmentation import CascadeSegmenter
from spinemets.volume import Study

__all__ = ["STAGES", "CaseTimes", "NetworkRun", "NetworkWork", "TimedEngine", "count_work", "time_case"]

STAGES = ("read", "preprocess", "network", "postprocess", "write")
_WITHOUT_PICTURES = ReportConfig(formats=("json", "nifti"))


@dataclass(frozen=True, slots=True, eq=False)
class NetworkRun:
    """One image through one network, from when to when (seconds of ``perf_counter``)."""

    engine: Engine
    image: Tensor
    condition: Tensor
    start: float
    end: float


class TimedEngine(Engine):
    """An engine that keeps what went through it, and when, until ``forget``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.runs: list[NetworkRun] = []

    def run(self, image: Tensor, condition: Tensor, report: EngineReport) -> Tensor:
        """As ``Engine.run``."""
        wait_for(self.device)
        start = perf_counter()
        logits = super().run(image, condition, report)
        wait_for(self.device)
        self.runs.append(NetworkRun(self, image, condition, start, perf_counter()))
        return logits

    def forget(self) -> list[NetworkRun]:
        """What has been kept."""
        runs, self.runs = self.runs, []
        return runs


@dataclass(frozen=True, slots=True)
class NetworkWork:
    """What the networks do for one study: GFLOP, and gigabytes that their operations read and write."""

    gflop: float
    gbytes: float


@dataclass(slots=True, eq=False)
class CaseTimes:
    """Seconds of each stage, repeat by repeat; ``runs`` are those of the last one."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    runs: list[NetworkRun] = field(default_factory=list)
    peak_memory_mb: float = 0.0

    def typical_s(self) -> dict[str, float]:
        """The median of each stage, and of the whole."""
        totals = [sum(run) for run in zip(*self.seconds.values(), strict=True)]
        return {**{stage: median(runs) for stage, runs in self.seconds.items()}, "total": median(totals)}


def time_case(source: Path, segmenter: CascadeSegmenter, config: DetectionConfig, repeats: int) -> CaseTimes:
    """Analyse the study of a folder or file once unmeasured, then ``repeats`` times.

    Raises
    ------
    NoUsableInputError
        There is no study, or more than one.
    """
    times = CaseTimes()
    _run_once(source, segmenter, config, CaseTimes())
    forget_peak_memory(segmenter.device)
    for _ in range(repeats):
        _run_once(source, segmenter, config, times)
    times.peak_memory_mb = peak_memory_mb(segmenter.device)
    return times


def count_work(runs: Sequence[NetworkRun]) -> NetworkWork:
    """Repeat runs and count."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as operations, traffic:
        for run in runs:
            with run.engine.kernel_by_kernel():
                Engine.run(run.engine, run.image, run.condition, run.engine.new_report())
    return NetworkWork(operations.get_total_flops() / 1e9, traffic.bytes / 1e9)


def _run_once(source: Path, segmenter: CascadeSegmenter, config: DetectionConfig, times: CaseTimes) -> None:
    with _timed(times, "read"):
        study = _only_study(source, config)
    start = perf_counter()
    segmentation = segmenter.segment(study)
    runs = [run for engine in segmenter.engines if isinstance(engine, TimedEngine) for run in engine.forget()]
    runs.sort(key=lambda run: run.start)
    network_s = sum(run.end - run.start for run in runs)
    # Before and between the networks, images are prepared for them.
    times.seconds["preprocess"].append(runs[-1].end - start - network_s)
    times.seconds["network"].append(network_s)
    report = interpret(study, segmentation, segmenter.provenance, config)
    times.seconds["postprocess"].append(perf_counter() - runs[-1].end)
    with TemporaryDirectory() as folder, _timed(times, "write"):
        write_results(report, Path(folder), _WITHOUT_PICTURES)
    times.runs = runs


def _only_study(source: Path, config: DetectionConfig) -> Study:
    listings = discover(source, config.reading)
    if len(listings) != 1:
        raise NoUsableInputError(f"{source}: holds {len(listings)} studies; a benchmark takes one by one")
    return read_study(listings[0], config.reading)


@contextmanager
def _timed(times: CaseTimes, stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    times.seconds[stage].append(perf_counter() - start)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that go into and come out of every operation but views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        inputs = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        outputs = [value for value in tree_flatten(result)[0] if isinstance(value, torch.Tensor)]
        places = {value.untyped_storage().data_ptr() for value in inputs}
        in_place = func._schema.is_mutable
        if in_place or any(value.untyped_storage().data_ptr() not in places for value in outputs):
            self.bytes += sum(value.nbytes for value in (*inputs, *outputs))
        return result
