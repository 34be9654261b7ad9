"""The whole benchmark as plain data, ready for JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from spinemets import __version__
from spinemets.benchmark.machine import copy_gb_per_s, matmul_gflop_per_s, processor_name, wait_for
from spinemets.benchmark.peers import agreement, monai_networks, sliding_window_s
from spinemets.benchmark.stages import CaseTimes, TimedEngine, count_work, time_case
from spinemets.benchmark.synthetic import CASES, write_study
from spinemets.bundles import Bundle
from spinemets.channels import Channel
from spinemets.config import DetectionConfig
from spinemets.inference import Engine
from spinemets.segmentation import CascadeSegmenter, load_segmenter

__all__ = ["BenchmarkPlan", "run_benchmark"]

JsonMap = dict[str, object]

_PEER_CASE = "lumbar"
_SCALING_SLICES, _SCALING_COLUMNS = 15, 320
_SCALING_ROWS = (32, 64, 128, 256, 384)


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """What to measure.

    Attributes
    ----------
    cases
        Names of ``CASES``.
    studies
        Files or folders of one study each, measured as well.
    repeats
        Measured runs of each case, after one that is not; medians are given.
    peers
        Whether MONAI's sliding windows are measured beside the case "lumbar", or else the first.
    """

    cases: tuple[str, ...] = tuple(CASES)
    studies: tuple[Path, ...] = ()
    repeats: int = 3
    peers: bool = True


def run_benchmark(
    bundle: Bundle, config: DetectionConfig, plan: BenchmarkPlan, tell: Callable[[str], None]
) -> JsonMap:
    """Measure, and tell what is being measured.

    Raises
    ------
    DeviceUnavailableError
        This machine does not have the device.
    ModelIncompatibleError
        The weights do not fit the networks that the bundle describes.
    NoUsableInputError
        A path holds no study, or more than one.
    """
    segmenter = load_segmenter(bundle, config.segmentation, TimedEngine)
    device, precision = segmenter.device, getattr(torch, segmenter.provenance.execution.precision)
    tell("peak of this machine")
    peak = {
        "matmul_gflop_per_s": matmul_gflop_per_s(device, precision),
        "copy_gb_per_s": copy_gb_per_s(device),
    }
    times = _time_all(segmenter, config, plan, tell)
    result: JsonMap = {
        "format": 1,
        "machine": {
            "processor": processor_name(device),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "software": {"spinemets": __version__, "torch": torch.__version__},
        "model": {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256},
        "precision": segmenter.provenance.execution.precision,
        "repeats": plan.repeats,
        "peak": peak,
        "cases": {name: _case(case, peak) for name, case in times.items()},
    }
    if plan.peers and times:
        peer = _PEER_CASE if _PEER_CASE in times else next(iter(times))
        tell(f"MONAI's sliding windows on {peer}")
        result |= _beside(bundle, peer, times[peer])
    tell("growth with the size of the volume")
    result["scaling"] = _scaling(segmenter.engines[0], plan.repeats)
    return result


def _time_all(
    segmenter: CascadeSegmenter, config: DetectionConfig, plan: BenchmarkPlan, tell: Callable[[str], None]
) -> dict[str, CaseTimes]:
    times: dict[str, CaseTimes] = {}
    for name in plan.cases:
        tell(name)
        with TemporaryDirectory() as folder:
            write_study(CASES[name], Path(folder))
            times[name] = time_case(Path(folder), segmenter, config, plan.repeats)
    for path in plan.studies:
        tell(str(path))
        times[str(path)] = time_case(path, segmenter, config, plan.repeats)
    return times


def _case(times: CaseTimes, peak: Mapping[str, float]) -> JsonMap:
    work, seconds = count_work(times.runs), times.typical_s()
    rate, traffic = work.gflop / seconds["network"], work.gbytes / seconds["network"]
    return {
        "network_shapes": [list(run.image.shape[2:]) for run in times.runs],
        "seconds": seconds,
        "peak_memory_mb": times.peak_memory_mb,
        "gflop": work.gflop,
        "gflop_per_s": rate,
        "share_of_matmul_peak": rate / peak["matmul_gflop_per_s"],
        "gbytes": work.gbytes,
        "share_of_copy_peak": traffic / peak["copy_gb_per_s"],
        "floor_s": {
            "arithmetic": work.gflop / peak["matmul_gflop_per_s"],
            "memory": work.gbytes / peak["copy_gb_per_s"],
        },
    }


def _beside(bundle: Bundle, name: str, times: CaseTimes) -> JsonMap:
    networks = monai_networks(bundle, times.runs[0].image.device)
    seconds = sliding_window_s(networks, times.runs)
    agreed = agreement(networks, times.runs)
    return {
        "peers": {"case": name, "seconds": {"monai_sliding_window": seconds}},
        "ratios": {"monai_sliding_window": seconds / times.typical_s()["network"]},
        "agreement_with_float32": {
            "argmax": agreed.argmax,
            "dice": {Channel(label).name.lower(): value for label, value in agreed.dice.items()},
        },
    }


def _scaling(engine: Engine, repeats: int) -> JsonMap:
    """Seconds of the anatomy network over a twelvefold range of sizes, and the fitted exponent."""
    voxels, seconds = [], []
    condition = torch.zeros(1, engine.definition.conditions)
    for rows in _SCALING_ROWS:
        image = torch.randn(1, 1, _SCALING_SLICES, rows, _SCALING_COLUMNS, device=engine.device)
        runs = []
        for _ in range(repeats + 1):
            start = perf_counter()
            Engine.run(engine, image, condition, engine.new_report())
            wait_for(engine.device)
            runs.append(perf_counter() - start)
        voxels.append(image.numel())
        seconds.append(min(runs[1:]))
    exponent = np.polyfit(np.log(voxels), np.log(seconds), 1)[0]
    return {"voxels": voxels, "seconds": seconds, "exponent": float(exponent)}
