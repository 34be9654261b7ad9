"""The engine below the segmenter: device, precision, and what to do out of memory.

Knows nothing of studies, spines or lesions: tensors in, tensors out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from spinemets.allocation import available_bytes, kept_bytes
from spinemets.errors import DeviceUnavailableError, OutOfMemoryError
from spinemets.execution import FusedNetwork, NetworkWeights, TrainedNetwork, part_count, peak_bytes
from spinemets.graphs import ReplayedNetwork
from spinemets.network import NetworkDefinition
from spinemets.segmented import NetworkExecution

__all__ = ["Engine", "EngineReport", "choose_device", "choose_precision", "usable_device"]

_log = logging.getLogger(__name__)

_AMPERE = 8  # NVIDIA's first generation that computes in bfloat16; AMD's number theirs from 9
_USABLE = 0.9  # of the free memory: the rest is for libraries
# What the C library holds for a pass, against what is in use at its peak: 1.1 to 2.2 were measured, for
# freed memory lies in pieces.
_HELD_PER_USED = 2.0
_SMALLEST_PART, _LARGEST_PART = 16 * 2**20, 2**30
# Of errors that say no more than RuntimeError. cuDNN names no engine where it has no room to work in.
_MEMORY_WORDS = ("allocate memory", "out of memory", "ALLOC_FAILED", "unable to find an engine")
_NO_ROOM = "neither the device nor the CPU has memory for this volume; close other programs"


def choose_device(name: str) -> torch.device:
    """The device that a name means: "auto" takes a CUDA GPU, else Apple's, else the CPU.

    Raises
    ------
    DeviceUnavailableError
        A device was named that is not there, or that is no device's name.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailableError(f"device {name!r}: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceUnavailableError(f"device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if cuda else 0
        raise DeviceUnavailableError(
            f"device {name}: this machine has {count} CUDA devices; use --device auto or cpu"
        )
    if device.type == "mps" and not mps:
        raise DeviceUnavailableError("device mps: this machine has none; use --device auto or cpu")
    return device


def usable_device(name: str) -> torch.device:
    """The device that a name means, tried out; the CPU where "auto" finds a GPU that cannot compute.

    A driver also shows GPUs that this build of PyTorch has no kernels for, as it drops older ones,
    and those that other programs fill.

    Raises
    ------
    DeviceUnavailableError
        A device was named that is not there or cannot compute, or that is no device's name.
    """
    device = choose_device(name)
    fault = None if device.type == "cpu" else _fault_of(device)
    if fault is None:
        return device
    if name != "auto":
        raise DeviceUnavailableError(f"device {name} cannot compute ({fault}); use --device cpu")
    _log.warning("%s cannot compute (%s); the CPU is used", device, fault)
    return torch.device("cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic to run in: "auto" is bfloat16 where the device computes in it, else float32."""
    if name == "float16" and device.type == "cpu":
        # Hardly a processor has it: 7 times the time of float32 was measured, 14 times that of bfloat16.
        _log.warning("float16 is very slow on most processors; auto takes what this one is fast in")
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        # Older ones have bfloat16 too, but emulate it, and convolve in it without their libraries.
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= _AMPERE else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


@dataclass(slots=True)
class EngineReport:
    """What the engine did, for a report's provenance and cautions.

    Attributes
    ----------
    passes, parts
        Images that went through a network; pieces that the largest convolution was cut into.
    fallbacks
        One sentence for each, in order.
    """

    device: str
    precision: str
    strategy: str = "whole volume"
    passes: int = 0
    parts: int = 1
    fallbacks: list[str] = field(default_factory=list)

    def execution(self) -> NetworkExecution:
        """The same as a value, each sentence once."""
        fallbacks = tuple(dict.fromkeys(self.fallbacks))
        return NetworkExecution(
            self.device, self.precision, self.strategy, self.passes, self.parts, fallbacks
        )


class Engine:
    """Runs one network: over the whole volume where it fits, else on the GPU in parts, else on the CPU.

    The result is the same each way but for rounding.

    Parameters
    ----------
    network
        A ``SpineUNet`` or what a bundle holds of one. Its weights are copied.
    device, precision
        As ``choose_device`` and ``choose_precision`` give them.
    deterministic
        Same result bit by bit on every run, at some cost in speed.
    footprint_bytes_per_voxel
        Memory of one pass at its peak, as it was measured on a CPU in this precision; None: it is
        estimated from the network's shape.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        device: torch.device,
        precision: torch.dtype,
        deterministic: bool = False,
        footprint_bytes_per_voxel: float | None = None,
    ) -> None:
        if deterministic:
            # NVIDIA's cuBLAS repeats itself bit by bit only with a fixed workspace, and reads this once.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._network = FusedNetwork(network, device, precision)
        self._replayed = ReplayedNetwork(self._network.run) if device.type == "cuda" else None
        self._spare = NetworkWeights(network.definition, dict(network.named_parameters()))
        self._device = device
        self._precision = precision
        self._deterministic = deterministic
        self._footprint_bytes_per_voxel = footprint_bytes_per_voxel

    @property
    def definition(self) -> NetworkDefinition:
        """The network's shape."""
        return self._network.definition

    @property
    def device(self) -> torch.device:
        """Where inputs should be, and where outputs are."""
        return self._device

    def new_report(self) -> EngineReport:
        """An empty report of this engine, to be filled by ``run``."""
        return EngineReport(str(self._device), str(self._precision).removeprefix("torch."))

    @contextmanager
    def kernel_by_kernel(self) -> Iterator[None]:
        """Within it no recording is replayed: every operation is seen by whoever counts them."""
        replayed, self._replayed = self._replayed, None
        try:
            yield
        finally:
            self._replayed = replayed

    def run(self, image: Tensor, condition: Tensor, report: EngineReport) -> Tensor:
        """Logits of one image.

        Parameters
        ----------
        image
            (1, channels, slices, rows, columns); any size.
        condition
            (1, conditions).
        report
            Told the strategy, and of every fallback.

        Returns
        -------
        Tensor
            float32, (1, outputs, slices, rows, columns), on the engine's device or, after a
            fallback, the CPU.

        Raises
        ------
        OutOfMemoryError
            The CPU's memory has no room for the volume either.
        """
        with torch.inference_mode(), _determinism(self._deterministic):
            padded = _pad(image, self._network.definition.in_plane_multiple)
            logits = self._run_padded(padded, condition, report)
            return logits[..., : image.shape[3], : image.shape[4]]

    def _run_padded(self, image: Tensor, condition: Tensor, report: EngineReport) -> Tensor:
        voxels = image[0, 0].numel()
        report.passes += 1
        needed = self._needed_bytes(voxels)
        free = _free_bytes(self._device)
        if needed < _USABLE * free:
            try:
                return self._run_whole(image, condition)
            except OutOfMemoryError:
                if self._device.type == "cpu":
                    raise
                _log.warning("the volume does not fit the memory of %s; going on in parts", self._device)
        elif self._device.type == "cpu":
            raise OutOfMemoryError(
                f"a volume of {voxels / 1e6:.1f} million voxels needs about {needed / 2**30:.1f} GiB of "
                f"memory and {free / 2**30:.1f} GiB are free; close other programs"
            )
        return self._fall_back(image.cpu(), condition.cpu(), report)

    def _run_whole(self, image: Tensor, condition: Tensor) -> Tensor:
        """In one piece; on a GPU from a recording, where there is one."""
        if self._replayed is None:
            with _memory_errors():
                return self._network.run(image, condition)
        try:
            with _memory_errors():
                return self._replayed(image, condition)
        except OutOfMemoryError:
            if not self._replayed.forget():
                raise
            torch.cuda.empty_cache()
        with _memory_errors():
            return self._network.run(image, condition)

    def _fall_back(self, image: Tensor, condition: Tensor, report: EngineReport) -> Tensor:
        """Everything but the convolutions in main memory, then those as well; both say so."""
        part_bytes = self._part_bytes()
        try:
            with _memory_errors():
                logits = self._network.run(image, condition, part_bytes)
        except OutOfMemoryError:
            pass
        else:
            report.strategy = "parts"
            count = part_count(self.definition, image.shape, self._precision.itemsize, part_bytes)
            report.parts = max(report.parts, count)
            report.fallbacks.append(
                f"{self._device} has no room for the whole volume; it was computed in parts, which is slower"
            )
            return logits
        report.fallbacks.append(f"{self._device} ran out of memory; this study was computed on the CPU")
        report.device, report.precision = "cpu", "float32"
        spare = FusedNetwork(self._spare, torch.device("cpu"), torch.float32)
        with _memory_errors():
            return spare.run(image, condition)

    def _needed_bytes(self, voxels: int) -> float:
        """Memory to have free for one pass over so many voxels, padding included."""
        # A GPU computes the last layer for all slices at once, and its libraries lay other things aside.
        if self._footprint_bytes_per_voxel is None or self._device.type != "cpu":
            return peak_bytes(self.definition, voxels, self._precision.itemsize)
        return _HELD_PER_USED * self._footprint_bytes_per_voxel * voxels

    def _part_bytes(self) -> int:
        return max(_SMALLEST_PART, int(min(_LARGEST_PART, _USABLE * _free_bytes(self._device))))


def _fault_of(device: torch.device) -> str | None:
    """What PyTorch says when it cannot convolve on a device."""
    try:
        image = torch.ones((1, 1, 3, 3, 3), device=device)
        # The number is wanted, because a GPU tells of an error when it is waited for.
        F.conv3d(image, image).item()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def _pad(image: Tensor, multiple: int) -> Tensor:
    rows, columns = (-n % multiple for n in image.shape[3:])
    return F.pad(image, (0, columns, 0, rows)) if rows or columns else image


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn every way of saying that memory has run out into one error."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(_NO_ROOM) from error
    except RuntimeError as error:
        if not any(words in str(error) for words in _MEMORY_WORDS):
            raise
        raise OutOfMemoryError(_NO_ROOM) from error


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        # What PyTorch keeps from the last study is free for this one, though the driver counts it as used.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type == "cpu":
        return available_bytes() + kept_bytes()
    return float("inf")


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if before or not wanted:
        # Setting it imports PyTorch's compiler, which takes seconds, even where nothing changes.
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
