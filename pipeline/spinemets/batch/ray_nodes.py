"""What happens on the nodes of a Ray cluster: the three stages of a study, and the resident network.

A stage is a stream of three values: the node's name as soon as it begins, so that its time limit
runs from there; what it made, which stays in the object store until the next stage wants it; and
its verdict, small enough to be looked at by the process that directs the run.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from spinemets import __version__
from spinemets.batch.records import Stage
from spinemets.batch.resident import Packed, finish_packed, load_packed
from spinemets.batch.stages import (
    Failure,
    LoadedStudy,
    SegmentedStudy,
    StudyResult,
    attempt,
    segment,
)
from spinemets.bundles import Bundle, bundles_folder, load_bundle, reading_checksum
from spinemets.errors import ModelNotFoundError, ModelNotTrustedError, SpinemetsError, WorkerError

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy
    from spinemets.config import SegmentationConfig
    from spinemets.detection import Models

__all__ = ["BundleAddress", "Network", "Site", "Verdict", "complaint_of", "read_on_node", "write_on_node"]

# A network file system may show a new file late.
_SEEN_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Site:
    """What every node must have in common with the process that directs the run.

    Attributes
    ----------
    version
        Of spinemets.
    mark
        An absolute path of a file in the output folder, to tell that the folder is shared; it is
        there as long as the run.
    start
        The folder that relative paths start from; None where there are none.
    log_level
        Of the logger "spinemets".
    """

    version: str
    mark: Path
    start: Path | None
    log_level: int

    def settle(self) -> None:
        """Make sure that this node can take part.

        Raises
        ------
        WorkerError
            It cannot; the message says what is missing.
        """
        here = socket.gethostname()
        if self.version != __version__:
            raise WorkerError(
                f"node {here} has spinemets {__version__}, the run was started with {self.version}; "
                "install the same version on every node"
            )
        if self.start is not None and Path.cwd() != self.start:
            try:
                os.chdir(self.start)
            except OSError as error:
                raise WorkerError(
                    f"node {here} has no folder {self.start}, where the relative paths of this run start; "
                    "pass absolute paths that every node sees"
                ) from error
        deadline = time.monotonic() + _SEEN_WITHIN_S
        while not self.mark.exists():
            if time.monotonic() > deadline:
                raise WorkerError(
                    f"node {here} does not see what is in {self.mark.parent}; the output folder must "
                    "be one that every node sees under the same path, and no other run may use it"
                )
            time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a stage ended, without any array.

    Attributes
    ----------
    outcome
        None where what was made goes on to the next stage.
    messages
        What was logged, to be shown where the terminal is.
    """

    outcome: StudyResult | Failure | None
    messages: tuple[logging.LogRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class BundleAddress:
    """Where each node finds a model bundle, and how it knows that it is the right one.

    Attributes
    ----------
    place
        The name of a bundle that comes with spinemets, or a folder that every node sees.
    checksum
        ``reading_checksum`` of the bundle that the run was started with.
    sha256
        Of its weights.
    """

    place: str | Path
    checksum: str
    sha256: str

    @staticmethod
    def of(bundle: Bundle) -> BundleAddress:
        """The address of a bundle that is trusted here."""
        comes_with_it = bundle.path.parent == bundles_folder().resolve()
        place = bundle.name if comes_with_it else bundle.path
        return BundleAddress(place, reading_checksum(bundle.path), bundle.sha256)

    def load(self, config: SegmentationConfig) -> Models:
        """Load the networks on this node, onto the GPU that Ray has assigned or else the CPU.

        Raises
        ------
        ModelNotFoundError, ModelNotTrustedError
            The bundle is not on this node, or it is another one.
        ModelIncompatibleError, DeviceUnavailableError
            As for ``detection.load_models``.
        """
        import ray

        from spinemets.detection import load_models

        here = socket.gethostname()
        try:
            bundle = load_bundle(self.place, self.checksum)
        except (ModelNotFoundError, ModelNotTrustedError) as error:
            raise type(error)(f"on node {here}: {error}") from error
        if bundle.sha256 != self.sha256:
            raise ModelNotTrustedError(
                f"on node {here}: the model bundle {bundle.path} has the weights {bundle.sha256[:12]}, "
                f"the run was started with {self.sha256[:12]}; install the same version on every node"
            )
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        return load_models(bundle, config.model_copy(update={"device": device}))


def complaint_of(site: Site) -> str:
    """Why this node cannot take part; empty where it can."""
    try:
        site.settle()
    except WorkerError as error:
        return str(error)
    return ""


def read_on_node(
    site: Site, load: Callable[[PlannedStudy], LoadedStudy], study: PlannedStudy
) -> Iterator[object]:
    """The reading of a study, as a stream."""
    yield from _stream(site, partial(load_packed, study, load))


def write_on_node(
    site: Site,
    finish: Callable[[tuple[str, LoadedStudy, SegmentedStudy]], StudyResult],
    key: str,
    loaded: Packed,
    segmented: Packed,
) -> Iterator[object]:
    """The writing of a study, as a stream."""
    yield from _stream(site, partial(finish_packed, (key, loaded, segmented), finish))


class Network:
    """The model, loaded once in a process of its own and used for one study after the other."""

    def __init__(self, site: Site, load_models: Callable[[], Models]) -> None:
        self._site, self._load_models = site, load_models
        self._models: Models | None = None

    def open(self) -> Iterator[object]:
        """Load the model: the node's name, then None or the error that prevented it."""
        yield _this_node()
        try:
            self._site.settle()
            self._models = self._load_models()
        except (SpinemetsError, MemoryError) as error:
            yield error
        else:
            yield None

    def segment(self, loaded: Packed) -> Iterator[object]:
        """A study's way through the network, as a stream."""
        yield from _stream(self._site, partial(self._segment, loaded))

    def _segment(self, loaded: Packed) -> Packed | Failure:
        def unpack_and_segment(loaded: Packed) -> SegmentedStudy:
            if self._models is None:
                raise WorkerError("the model is not loaded in this process")
            return segment(loaded.value(), self._models)

        outcome = attempt(unpack_and_segment, loaded, Stage.NETWORK)
        return outcome if isinstance(outcome, Failure) else Packed.of(outcome)


def _stream(site: Site, work: Callable[[], Packed | StudyResult | Failure]) -> Iterator[object]:
    yield _this_node()
    site.settle()
    with _collected(site.log_level) as messages:
        outcome = work()
    if isinstance(outcome, Packed):
        yield outcome
        yield Verdict(None, tuple(messages))
    else:
        yield None
        yield Verdict(outcome, tuple(messages))


def _this_node() -> str:
    import ray

    name: str = ray.get_runtime_context().get_node_id()
    return name


@contextmanager
def _collected(level: int) -> Iterator[list[logging.LogRecord]]:
    """What is logged meanwhile, made picklable; it is complete when the block has ended."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logger = logging.getLogger("spinemets")
    logger.propagate = False
    logger.setLevel(level)
    logger.handlers[:] = [QueueHandler(queue)]
    messages: list[logging.LogRecord] = []
    yield messages
    while not queue.empty():
        messages.append(queue.get())
