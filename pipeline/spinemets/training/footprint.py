"""How much memory one pass of a network takes at its peak, for each voxel: measured, on the CPU.

A process of its own lays out memory so that what it holds is what is in use: arrays are mapped one
by one and given back when freed (``spinemets.allocation``). The growth of its peak resident memory
over one pass of ``FusedNetwork`` then counts every tensor and what libraries lay aside. Measured so
for two sizes of volume, it gives a line; its slope repeats from run to run to about one per cent,
whatever the number of threads. The same growth in a process that keeps what it frees depends on
where pieces happen to lie in memory and varied by a factor of two.

Weights do not matter, only their shapes: they are random. Knows nothing of bundles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from spinemets.allocation import give_back_freed_memory, hold_no_freed_memory
from spinemets.benchmark.machine import forget_peak_memory, peak_memory_mb
from spinemets.execution import FusedNetwork, NetworkWeights, parameter_shapes
from spinemets.network import NetworkDefinition

__all__ = ["measure_footprints", "peak_growth_bytes"]

# Slices, rows and columns, before rows and columns are rounded up to what the network takes. Where
# channels × slices × rows is 20480 or less, PyTorch unfolds float32 images into columns and takes up to
# seven times as much for each voxel: some 250 MB, on volumes too small to run out of memory.
_SIZES = ((16, 256, 256), (12, 512, 512))
_WARM_UP = (8, 128, 128)  # enough work that every thread has its own memory before the first measurement
_CPU = torch.device("cpu")


def measure_footprints(definitions: Mapping[str, NetworkDefinition]) -> dict[str, dict[str, float]]:
    """Bytes per voxel that one pass takes at its peak, the weights aside.

    Voxels are those of the padded image, whose own memory is counted. bfloat16 is measured where
    the processor computes in it.

    Parameters
    ----------
    definitions
        Networks by name.

    Returns
    -------
    dict
        By name and precision ("float32", "bfloat16"): the steeper of the line through two sizes
        and the larger size's mean, so that neither a constant part nor a curve makes it too small.
        Empty on systems other than Linux with the GNU C library.
    """
    precisions = ["float32"] + ["bfloat16"] * torch.cpu._is_avx512_bf16_supported()
    peaks = peak_growth_bytes([(shape, p) for shape in definitions.values() for p in precisions], _SIZES)
    if peaks is None:
        return {}
    found = iter(peaks)
    return {
        name: {precision: _per_voxel(definition, *next(found)) for precision in precisions}
        for name, definition in definitions.items()
    }


def peak_growth_bytes(
    networks: Sequence[tuple[NetworkDefinition, str]], sizes: Sequence[tuple[int, int, int]]
) -> list[list[int]] | None:
    """Growth of a fresh process's peak memory over one pass, by network and size; None if not known.

    Parameters
    ----------
    networks
        What each is built with, and the precision that it computes in.
    sizes
        Slices, rows and columns; rows and columns are rounded up to ``in_plane_multiple``.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(_measured, tuple(networks), tuple(sizes)).result()


def _per_voxel(definition: NetworkDefinition, small_bytes: int, large_bytes: int) -> float:
    small, large = (_voxels(definition, size) for size in _SIZES)
    slope = (large_bytes - small_bytes) / (large - small)
    return round(max(slope, large_bytes / large), 1)


def _measured(
    networks: tuple[tuple[NetworkDefinition, str], ...], sizes: tuple[tuple[int, int, int], ...]
) -> list[list[int]] | None:
    if not Path("/proc/self/clear_refs").exists() or not hold_no_freed_memory():
        return None
    return [_peaks(definition, precision, sizes) for definition, precision in networks]


def _peaks(
    definition: NetworkDefinition, precision: str, sizes: tuple[tuple[int, int, int], ...]
) -> list[int]:
    shapes = parameter_shapes(definition)
    weights = {name: torch.randn(shape) * 0.05 for name, shape in shapes.items()}
    network = FusedNetwork(NetworkWeights(definition, weights), _CPU, getattr(torch, precision))
    _growth_bytes(network, _WARM_UP)
    return [_growth_bytes(network, size) for size in sizes]


def _growth_bytes(network: FusedNetwork, size: tuple[int, int, int]) -> int:
    definition = network.definition
    give_back_freed_memory()
    forget_peak_memory(_CPU)
    before_mb = peak_memory_mb(_CPU)
    with torch.inference_mode():
        # Numbers, not zeros: pages of zeros take no memory before they are written.
        image = torch.randn(1, definition.image_channels, *_rounded(definition, size))
        network.run(image, torch.zeros(1, definition.conditions))
    return int((peak_memory_mb(_CPU) - before_mb) * 2**20)


def _rounded(definition: NetworkDefinition, size: tuple[int, int, int]) -> tuple[int, int, int]:
    multiple = definition.in_plane_multiple
    slices, rows, columns = size
    return slices, rows + -rows % multiple, columns + -columns % multiple


def _voxels(definition: NetworkDefinition, size: tuple[int, int, int]) -> int:
    slices, rows, columns = _rounded(definition, size)
    return slices * rows * columns
