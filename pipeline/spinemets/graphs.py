"""A network's work recorded once for each shape of image, and replayed, on an NVIDIA GPU.

A fast GPU is done with a kernel before Python has started the next one. A CUDA graph starts all
of them at once. Images are padded to a few shapes (``NetworkDefinition.in_plane_multiple``), so
that studies of a batch share their recordings.

A recording is used only if its first replay gives what the plain run gave; whatever goes wrong
with it, the plain run is what remains. Knows nothing of studies and spines.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["CudaRecording", "Recorder", "ReplayedNetwork"]

_log = logging.getLogger(__name__)

Run = Callable[[Tensor, Tensor], Tensor]
Recorder = Callable[[Run, Tensor, Tensor], Run]

_KEPT = 6  # recordings at once; each keeps its inputs and its logits on the device
# Of the spread of the logits: kernels may be chosen anew while recording, and round differently.
_SAME = 0.05


class CudaRecording:
    """One run as a CUDA graph, with inputs and logits at fixed places.

    Recordings on one GPU share the memory they work in, and so must not be replayed at the same time.

    Parameters
    ----------
    run
        From image and condition to logits, on the device throughout and without waiting for it.
    image, condition
        What to record it with; only their shapes matter.

    Raises
    ------
    RuntimeError
        The run cannot be recorded, or there is no memory for it.
    """

    # Of all recordings on one GPU: their memory, whose type is private to PyTorch, and the stream that
    # they are made on. A stream records only what runs on its own GPU.
    _places: ClassVar[dict[torch.device, tuple[Any, torch.cuda.Stream]]] = {}

    def __init__(self, run: Run, image: Tensor, condition: Tensor) -> None:
        self._image, self._condition = image.clone(), condition.clone()
        with torch.cuda.device(image.device):
            self._record(run)

    def __call__(self, image: Tensor, condition: Tensor) -> Tensor:
        """Logits of another image of the same shape."""
        self._image.copy_(image, non_blocking=True)
        self._condition.copy_(condition, non_blocking=True)
        self._graph.replay()
        # The next replay of any recording may write where these logits lie.
        return self._logits.clone()

    def _record(self, run: Run) -> None:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            # Libraries choose kernels and take workspaces on a first run, which cannot be recorded.
            run(self._image, self._condition)
        torch.cuda.current_stream().wait_stream(aside)
        place = self._image.device
        if place not in self._places:
            self._places[place] = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        pool, stream = self._places[place]
        self._graph = torch.cuda.CUDAGraph()
        recording: AbstractContextManager[None] = torch.cuda.graph(
            self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
        )
        with recording:
            self._logits = run(self._image, self._condition)


class ReplayedNetwork:
    """A run that is recorded when a shape comes for the second time, and replayed from then on.

    Parameters
    ----------
    run
        From image and condition to logits.
    record
        Makes a recording; a ``RuntimeError`` means that it cannot.

    Attributes
    ----------
    recorded
        How often something was recorded.
    """

    def __init__(self, run: Run, record: Recorder = CudaRecording) -> None:
        self._run, self._record = run, record
        self._recordings: OrderedDict[tuple[int, ...], Run] = OrderedDict()
        self._seen: set[tuple[int, ...]] = set()
        self._refused = False
        self.recorded = 0

    def __call__(self, image: Tensor, condition: Tensor) -> Tensor:
        """Logits of an image, as the plain run gives them."""
        shape = tuple(image.shape)
        recording = self._recordings.get(shape)
        if recording is not None:
            self._recordings.move_to_end(shape)
            return recording(image, condition)
        logits = self._run(image, condition)
        if shape in self._seen and not self._refused:
            self._keep(image, condition, logits)
        self._seen.add(shape)
        return logits

    def forget(self) -> bool:
        """Give the recordings' memory back; whether there were any."""
        had_any = bool(self._recordings)
        self._recordings.clear()
        return had_any

    def _keep(self, image: Tensor, condition: Tensor, logits: Tensor) -> None:
        """Record this shape, unless the recording does not give the logits that are wanted."""
        while len(self._recordings) >= _KEPT:
            self._recordings.popitem(last=False)
        try:
            # Of another image: what gives back what it gave while it was recorded would pass for sound.
            blank = [torch.zeros_like(one.to(logits.device)) for one in (image, condition)]
            recording = self._record(self._run, *blank)
            replayed = recording(image, condition)
            difference = float((replayed - logits).abs().max())
        except RuntimeError as error:
            _log.warning("the network cannot be recorded, and runs kernel by kernel: %s", error)
            self._refused = True
            return
        if not difference <= _SAME * float(logits.std()):
            _log.warning("a recording of the network gave other logits (by %.3g) and is not used", difference)
            self._refused = True
            return
        self._recordings[tuple(image.shape)] = recording
        self.recorded += 1
