"""What this machine can do at most, measured now: arithmetic, memory traffic, memory in use."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch

__all__ = [
    "copy_gb_per_s",
    "forget_peak_memory",
    "matmul_gflop_per_s",
    "peak_memory_mb",
    "processor_name",
    "wait_for",
]

_MATRIX = 2048
_COPIED_BYTES = 512 * 2**20
_REPEATS = 4


def matmul_gflop_per_s(device: torch.device, precision: torch.dtype) -> float:
    """The best rate of a few large matrix products."""
    size = _MATRIX if device.type == "cpu" else 4 * _MATRIX
    matrix = torch.randn(size, size, device=device).to(precision)
    return 2 * size**3 / 1e9 / _best_s(lambda: matrix @ matrix, device)


def copy_gb_per_s(device: torch.device) -> float:
    """The best rate of a few large copies, what is read and what is written together."""
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / 1e9 / _best_s(lambda: target.copy_(source), device)


def wait_for(device: torch.device) -> None:
    """Return when the device has done all it was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak_memory(device: torch.device) -> None:
    """Begin to measure peak memory anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb(device: torch.device) -> float:
    """Most memory in use since it was last forgotten, or since the start: the GPU's, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 2**20


def processor_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _best_s(action: Callable[[], object], device: torch.device) -> float:
    times_s = []
    for _ in range(_REPEATS):
        start = perf_counter()
        action()
        wait_for(device)
        times_s.append(perf_counter() - start)
    return min(times_s)
