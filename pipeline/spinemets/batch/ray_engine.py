"""The three stages of a batch on a Ray cluster, directed from one process that sees no array.

What is read and what the network makes of it stays in the cluster's object store.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spinemets import __version__
from spinemets.atomic import atomic_write_text
from spinemets.batch.engine import Limits, Observer, Stages
from spinemets.batch.ray_fleet import Fleet, connected, vet
from spinemets.batch.ray_nodes import Site
from spinemets.batch.ray_run import RayRun

if TYPE_CHECKING:
    from spinemets.batch.planning import PlannedStudy

__all__ = ["RayCluster", "run_on_ray"]

_MARK = ".ray-"


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A Ray cluster to run on, and how much of it may be used.

    Attributes
    ----------
    limits
        ``workers``: how many studies are read or written at once; 0 for as many as there are
        processors for. ``memory_bytes``: for the studies in the object stores, four fifths of
        which are the limit anyway.
    address
        As ``ray.init`` takes it; None for ``RAY_ADDRESS``, or a cluster on this machine alone.
    device
        "auto" means the GPUs where the cluster has any.
    """

    limits: Limits
    address: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run_on_ray(
    studies: Sequence[PlannedStudy], stages: Stages, cluster: RayCluster, observer: Observer, out: Path
) -> None:
    """Take studies through the stages on a cluster.

    When it is interrupted, what is being read or in the network is dropped and what the network
    has seen is still written; a second interruption drops that too.

    Parameters
    ----------
    out
        The output folder, which every node must see under the same path.

    Raises
    ------
    ConfigError
        Ray is not installed, there is no such cluster, or a node of it cannot take part.
    DeviceUnavailableError
        GPUs are asked for and the cluster has none.
    SpinemetsError, MemoryError
        The model can be loaded on no node, no node is left, or no record can be kept.
    """
    with connected(cluster.address), _marked(out.resolve()) as mark:
        is_relative = not out.is_absolute() or any(not study.source.is_absolute() for study in studies)
        level = logging.getLogger("spinemets").getEffectiveLevel()
        site = Site(__version__, mark, Path.cwd() if is_relative else None, level)
        fleet = Fleet(site, stages.load_models, cluster.device)
        vet(site, fleet.nodes.values())
        run = RayRun(studies, stages, site, fleet, cluster.limits, observer)
        try:
            run.go()
        finally:
            run.end()


@contextmanager
def _marked(out: Path) -> Iterator[Path]:
    """A file that tells whether a node sees the folder, and that this run is still on."""
    for stale in out.glob(f"{_MARK}*"):
        stale.unlink()
    mark = out / f"{_MARK}{uuid.uuid4().hex[:12]}"
    atomic_write_text(mark, "")
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
