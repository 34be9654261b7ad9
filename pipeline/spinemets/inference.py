"""The engine below the segmenter: device, precision, one pass or tiles, and what to do out of memory.

Knows nothing of studies, spines or lesions: tensors in, tensors out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from spinemets.errors import DeviceUnavailableError, OutOfMemoryError
from spinemets.network import SpineUNet

__all__ = ["Engine", "EngineReport", "choose_device", "choose_precision"]

_log = logging.getLogger(__name__)

# Peak working memory of one pass, bytes per voxel of the padded image and byte of precision:
# on the CPU 62 in float32 and 85 in bfloat16 for the anatomy network's size, 117 for the lesion
# network's eight channels; rounded up.
_ACTIVATION_BYTES_PER_VOXEL = 120
_TILE_OVERLAP = 0.25
_NO_ROOM = "neither the device nor the CPU has memory for one tile; close other programs"


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


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic to run in: "auto" is bfloat16 where the device computes in it, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


@dataclass(slots=True)
class EngineReport:
    """What the engine did, for a report's provenance and cautions."""

    device: str
    precision: str
    strategy: str = "whole volume"
    cautions: list[str] = field(default_factory=list)


class Engine:
    """Runs one network, over the whole volume where it fits and over tiles where it does not.

    Parameters
    ----------
    network
        Moved to the device; run without gradients.
    device, precision
        As ``choose_device`` and ``choose_precision`` give them.
    deterministic
        Same result bit by bit on every run, at some cost in speed.
    """

    def __init__(
        self, network: SpineUNet, device: torch.device, precision: torch.dtype, deterministic: bool = False
    ) -> None:
        self._network = network.to(device).eval()
        self._device = device
        self._precision = precision
        self._deterministic = deterministic

    @property
    def device(self) -> torch.device:
        """Where inputs should be, and where outputs are."""
        return self._device

    def new_report(self) -> EngineReport:
        """An empty report of this engine, to be filled by ``run``."""
        return EngineReport(str(self._device), str(self._precision).removeprefix("torch."))

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
            Not even one tile fits into the CPU's memory.
        """
        with torch.inference_mode(), _determinism(self._deterministic):
            padded = _pad(image, self._network.definition.in_plane_multiple)
            logits = self._run_padded(padded, condition, report)
            return logits[..., : image.shape[3], : image.shape[4]].float()

    def _run_padded(self, image: Tensor, condition: Tensor, report: EngineReport) -> Tensor:
        needed = image[0, 0].numel() * _ACTIVATION_BYTES_PER_VOXEL * self._precision.itemsize
        if needed < 0.9 * _free_bytes(self._device):
            try:
                with _memory_errors():
                    return self._whole(image.to(self._device), condition.to(self._device))
            except OutOfMemoryError:
                _log.warning(
                    "the whole volume does not fit the memory of %s; going on in tiles", self._device
                )
        return self._fall_back(image, condition, report)

    def _fall_back(self, image: Tensor, condition: Tensor, report: EngineReport) -> Tensor:
        try:
            with _memory_errors():
                logits = self._tiled(image.to(self._device), condition.to(self._device))
        except OutOfMemoryError:
            if self._device.type == "cpu":
                raise
        else:
            report.strategy = "tiles"
            report.cautions.append(
                f"{self._device} has no room for the whole volume; this study was computed in tiles"
            )
            return logits
        report.cautions.append(f"{self._device} ran out of memory; this study was computed on the CPU")
        report.device, report.precision, report.strategy = "cpu", "float32", "tiles"
        spare = Engine(self._network, torch.device("cpu"), torch.float32, self._deterministic)
        try:
            with _memory_errors():
                return spare._tiled(image.cpu(), condition.cpu())
        finally:
            self._network.to(self._device)

    def _whole(self, image: Tensor, condition: Tensor) -> Tensor:
        autocast = (
            nullcontext()
            if self._precision == torch.float32
            else torch.autocast(self._device.type, dtype=self._precision)
        )
        with autocast:
            logits: Tensor = self._network(image, condition)
        return logits

    def _tiled(self, image: Tensor, condition: Tensor) -> Tensor:
        from monai.inferers.utils import sliding_window_inference

        multiple = self._network.definition.in_plane_multiple
        tile = (min(image.shape[2], 16), *(min(n, 8 * multiple) for n in image.shape[3:]))
        logits = sliding_window_inference(
            image,
            tile,
            1,
            lambda patch: self._whole(patch, condition).float(),
            _TILE_OVERLAP,
            mode="gaussian",
        )
        return torch.as_tensor(logits)


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
        # PyTorch's CPU allocator has no exception of its own.
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise OutOfMemoryError(_NO_ROOM) from error


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        # What PyTorch keeps from the last study is free for this one, though the driver counts it as used.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        # Cached files count as free: the kernel gives them up, so look at MemAvailable first.
        return _available_on_linux() or float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def _available_on_linux() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0.0)


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
