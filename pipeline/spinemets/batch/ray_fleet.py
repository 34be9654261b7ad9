"""A Ray cluster as a batch sees it: its nodes, what they have room for, and a network on each device."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spinemets.batch.ray_nodes import Network, Site, complaint_of
from spinemets.errors import ConfigError, DeviceUnavailableError, WorkerError

if TYPE_CHECKING:
    from spinemets.detection import Models

__all__ = ["Device", "Fleet", "Node", "connected", "networks_of", "on_node", "vet"]

_log = logging.getLogger(__name__)

# Of a node without a GPU: half of these compute one network, half read and write for it.
_CPUS_PER_NETWORK = 4
_STARTS = 3
_PATIENCE_S = 300.0
_VETTING_S = 300.0
_KNOCKING_S = 10.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive.

    Attributes
    ----------
    name
        Ray's, unique.
    address
        For people.
    """

    name: str
    address: str
    cpus: int
    gpus: int
    store_bytes: float


@dataclass(slots=True, eq=False)
class Device:
    """A network that is loaded, or being loaded, on a device of a node."""

    node: str
    actor: Any
    cpus: int
    is_free: bool = False


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster: the one at the address or in ``RAY_ADDRESS``, or one started for this.

    A process that is connected already stays so, whatever the address.

    Raises
    ------
    ConfigError
        Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"--engine ray needs Ray ({error}); install the extra with pip install 'spinemets[ray]'"
        ) from error
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise ConfigError(
            f"{address}: Ray's client protocol cannot be used; start the run on a node of the cluster with "
            "--ray-address auto, or hand it in with `ray job submit`"
        )
    # Ray reports on its use to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it Ray warns that it hides GPUs from what asks for none, which is as it should be.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster can be used at {address} ({error}); start one with `ray start --head`, "
            "or leave --ray-address out for one on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether anyone listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCKING_S).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what the process does when it is asked to end; Ray would replace it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def on_node(name: str, *, if_it_lives: bool = False) -> Any:
    """A request to Ray to run something on a node; elsewhere if the node is gone and that may be."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(name, soft=if_it_lives)


def _nodes() -> dict[str, Node]:
    """The nodes that are alive and have processors, by name."""
    import ray

    found = {}
    for entry in ray.nodes():
        has = entry["Resources"]
        if entry["Alive"] and has.get("CPU", 0) >= 1:
            found[entry["NodeID"]] = Node(
                entry["NodeID"],
                entry["NodeManagerHostname"],
                int(has["CPU"]),
                int(has.get("GPU", 0)),
                has.get("object_store_memory", 0.0),
            )
    return found


def vet(site: Site, nodes: Iterable[Node]) -> None:
    """Ask every node whether it can take part.

    Raises
    ------
    ConfigError
        Some cannot, with the reason for each.
    """
    import ray

    check = ray.remote(complaint_of)
    asked = {
        check.options(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node.name)).remote(site): node
        for node in nodes
    }
    if not asked:
        return
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_VETTING_S)
    complaints = [complaint for ref in answered if (complaint := _answer(ref, asked[ref]))]
    if complaints:
        raise ConfigError("; ".join(sorted(complaints)))
    for ref in silent:
        _log.warning("node %s has not answered within %g s", asked[ref].address, _VETTING_S)


def _answer(ref: Any, node: Node) -> str:
    import ray

    try:
        complaint: str = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # It could not even import the question.
        return (
            f"node {node.address}: {str(error.cause or error).splitlines()[-1]}; "
            "install the same versions of Python, Ray and spinemets on every node"
        )
    except ray.exceptions.RayError as error:
        _log.warning("node %s went away: %s", node.address, type(error).__name__)
        return ""
    return complaint


def networks_of(node: Node, device: Literal["auto", "cpu", "cuda"], any_gpu: bool) -> tuple[int, int]:
    """How many networks a node runs, and how many processors each of them takes from the others' tasks.

    One for each GPU. Where the whole cluster has none, or on the CPU by request, one for every
    four processors and at least one, on half of them.

    >>> networks_of(Node("a", "a", cpus=16, gpus=0, store_bytes=0.0), "auto", any_gpu=False)
    (4, 2)
    >>> networks_of(Node("a", "a", cpus=16, gpus=2, store_bytes=0.0), "auto", any_gpu=True)
    (2, 0)
    >>> networks_of(Node("a", "a", cpus=1, gpus=0, store_bytes=0.0), "cpu", any_gpu=True)
    (1, 0)
    """
    if device == "cuda" or (device == "auto" and any_gpu):
        return node.gpus, 0
    count = max(1, node.cpus // _CPUS_PER_NETWORK)
    return count, node.cpus // count // 2


class Fleet:
    """A network on every device of the cluster, whichever nodes come and go.

    Parameters
    ----------
    load_models
        Picklable; called once in the process of each network.
    device
        "auto" means the GPUs where the cluster has any.

    Raises
    ------
    DeviceUnavailableError
        GPUs are asked for and the cluster has none.
    """

    def __init__(
        self, site: Site, load_models: Callable[[], Models], device: Literal["auto", "cpu", "cuda"]
    ) -> None:
        self._site, self._load_models, self._device = site, load_models, device
        self._devices: list[Device] = []
        self._failures: Counter[str] = Counter()
        self._last_error: Exception | None = None
        self._alone_since: float | None = None
        self.nodes = _nodes()
        if device == "cuda" and not any(node.gpus for node in self.nodes.values()):
            raise DeviceUnavailableError(
                f"device cuda: the Ray cluster has no GPU on its {len(self.nodes)} nodes; "
                "use --device auto or cpu, or start its nodes with --num-gpus"
            )

    @property
    def store_bytes(self) -> float:
        """The size of all object stores."""
        return sum(node.store_bytes for node in self.nodes.values())

    @property
    def task_slots(self) -> int:
        """How many studies can be read or written at once."""
        cpus = sum(node.cpus for node in self.nodes.values())
        return max(1, cpus - sum(device.cpus for device in self._devices))

    def __len__(self) -> int:
        return len(self._devices)

    def refresh(self) -> Sequence[Device]:
        """Look at the cluster again; give the networks that were started for it.

        Raises
        ------
        SpinemetsError, MemoryError
            No network can be loaded any more: the last reason.
        WorkerError
            For minutes, no node was there that could run one.
        """
        self.nodes = _nodes()
        self._devices = [device for device in self._devices if device.node in self.nodes]
        running = Counter(device.node for device in self._devices)
        any_gpu = any(node.gpus for node in self.nodes.values())
        able = []
        started = []
        for node in self.nodes.values():
            count, cpus = networks_of(node, self._device, any_gpu)
            able += [node.name] if count else []
            if self._failures[node.name] < _STARTS:
                started += [self._start(node, cpus) for _ in range(count - running[node.name])]
        self._devices += started
        self._check_hope(able)
        return started

    def _start(self, node: Node, cpus: int) -> Device:
        import ray

        is_gpu = self._device != "cpu" and node.gpus > 0
        actor = ray.remote(Network).options(
            num_cpus=cpus,
            num_gpus=1 if is_gpu else 0,
            max_restarts=0,
            scheduling_strategy=on_node(node.name),
        )
        return Device(node.name, actor.remote(self._site, self._load_models), cpus)

    def _check_hope(self, able: Sequence[str]) -> None:
        if self._devices:
            self._alone_since = None
            return
        if self._last_error is not None and able and all(self._failures[name] >= _STARTS for name in able):
            raise self._last_error
        now = time.monotonic()
        self._alone_since = now if self._alone_since is None else self._alone_since
        if now - self._alone_since > _PATIENCE_S:
            raise WorkerError(
                f"for {_PATIENCE_S:g} s the Ray cluster has had no node that can run the network; "
                "the same command goes on from here when it has"
            )

    def opened(self, device: Device) -> None:
        """Its model is loaded."""
        self._failures[device.node] = 0
        device.is_free = True

    def failed_to_open(self, device: Device, error: Exception) -> None:
        """Its model cannot be loaded; after a few failures in a row its node is left alone."""
        self._failures[device.node] += 1
        self._last_error = error
        _log.warning("the model cannot be loaded on node %s: %s", self.address(device.node), error)
        self.kill(device)

    def free(self, home: str, shunned: frozenset[str]) -> Device | None:
        """A network without work: on the study's own node if there is one, and on no shunned node.

        Only where every network is on a shunned node may it be one of those.
        """
        elsewhere = [device for device in self._devices if device.node not in shunned]
        candidates = [device for device in elsewhere or self._devices if device.is_free]
        return min(candidates, key=lambda device: device.node != home, default=None)

    def kill(self, device: Device) -> None:
        """End a network's process; the next refresh starts another in its place."""
        import ray

        if device in self._devices:
            self._devices.remove(device)
        ray.kill(device.actor)

    def close(self) -> None:
        """End all of them."""
        for device in list(self._devices):
            self.kill(device)

    def address(self, name: str) -> str:
        """A node's name for people."""
        node = self.nodes.get(name)
        return node.address if node else "that is gone"

    def other_node(self, shunned: frozenset[str]) -> str | None:
        """Any node that is not shunned; None where there is none."""
        return next((name for name in self.nodes if name not in shunned), None)
