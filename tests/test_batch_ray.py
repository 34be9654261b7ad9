"""On a Ray cluster a batch gives the local engine's results, also when a node of it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from threading import Thread

import pytest

import batch_faults
from batch_faults import FaultySegmenter, HoldsOn, Silent, no_model, run_planned
from batch_results import results
from spinemets.batch import Limits, RayCluster, State, plan_batch
from spinemets.batch.ray_fleet import connected
from spinemets.batch.ray_nodes import BundleAddress, Site
from spinemets.bundles import load_bundle, reading_checksum
from spinemets.config import SegmentationConfig
from spinemets.errors import (
    ConfigError,
    DeviceUnavailableError,
    ModelNotFoundError,
    ModelNotTrustedError,
    WorkerError,
)
from standins import TruthSegmenter, write_scan

ray = pytest.importorskip("ray")

# A process of Ray takes a second or two to start, and much longer on a busy machine.
pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).resolve().parents[1]
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def scan(tmp_path_factory, truth):
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz", truth)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node with one processor; its processes find the stand-ins of the tests."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        path = [str(ROOT / "tests"), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # As it is, they give way to everything else on the machine, and hardly start on a busy one.
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def connection(cluster):
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()


def scans_named(folder: Path, scan: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.nii.gz").hardlink_to(scan)
    return folder


def test_node_that_dies_costs_nothing_but_time(connection, scan, truth, tmp_path):
    inputs = scans_named(tmp_path / "in", scan, "a", "b", "c", "d", "e")
    (inputs / "f.nii.gz").write_bytes(b"\x1f\x8b no image")
    doomed = connection.add_node(**NODE)
    mark = tmp_path / "held"

    def end_node():
        while not mark.exists():
            time.sleep(0.1)
        connection.remove_node(doomed, allow_graceful=False)

    killer = Thread(target=end_node, daemon=True)
    killer.start()
    watcher = Silent()
    records = run_planned(
        plan_batch([inputs]),
        tmp_path / "ray",
        HoldsOn(truth, doomed.node_id, mark),
        watcher=watcher,
        limits=RayCluster(Limits(0)),
    )
    assert mark.exists()
    killer.join(timeout=60)
    assert [record.state for record in records] == [State.DONE] * 5 + [State.FAILED]
    begun = [name for event, name in watcher.events if event == "network"]
    assert len(begun) > len(set(begun)) == 5
    run_planned(plan_batch([inputs]), tmp_path / "local", TruthSegmenter(truth))
    assert results(tmp_path / "ray") == results(tmp_path / "local")


@pytest.mark.usefixtures("connection")
def test_nodes_unpack_archives_and_leave_nothing(scan, truth, tmp_path):
    archives = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for archive in archives:
        with zipfile.ZipFile(archive, "w") as file:
            file.write(scan, f"exam/{scan.name}")
    segmenter = TruthSegmenter(truth)
    records = run_planned(plan_batch(archives), tmp_path / "ray", segmenter, limits=RayCluster(Limits(0)))
    assert [record.state for record in records] == [State.DONE] * 2
    run_planned(plan_batch(archives), tmp_path / "local", segmenter)
    assert results(tmp_path / "ray") == results(tmp_path / "local")
    assert list((tmp_path / "ray").glob(".*")) == []


class Clock:
    """Jumps far ahead when two studies hang, and nothing else can be under way."""

    def __init__(self, watcher: Silent) -> None:
        self._watcher = watcher

    def __call__(self) -> float:
        both = {("network", "b_stuck"), ("reading", "c_hung")} <= set(self._watcher.events)
        return time.monotonic() + 5000 * both


@pytest.mark.usefixtures("connection")
def test_hung_and_dying_processes_cost_their_studies_only(scan, truth, tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.batch.run.load", batch_faults.load)
    monkeypatch.setattr("spinemets.batch.ray_run._TRIES", 2)
    watcher = Silent()
    monkeypatch.setattr("spinemets.batch.ray_run.monotonic", Clock(watcher))
    inputs = scans_named(tmp_path / "in", scan, "a", "b_stuck", "c_hung", "d_killed", "e")
    records = run_planned(
        plan_batch([inputs]),
        tmp_path / "out",
        FaultySegmenter(truth),
        watcher=watcher,
        limits=RayCluster(Limits(0, timeout_s=2000.0)),
    )
    ends = [(record.state.value, record.error, record.stage and record.stage.value) for record in records]
    assert ends == [
        ("done", "", None),
        ("failed", "TimeLimitError", "network"),
        ("failed", "TimeLimitError", "reading"),
        ("failed", "WorkerError", "reading"),
        ("done", "", None),
    ]
    assert "lost 2 times" in records[3].reason
    assert (tmp_path / "out" / records[3].log).read_text()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.usefixtures("connection")
def test_run_without_a_model_or_a_gpu_says_why_and_records_nothing(scan, tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.batch.ray_fleet._STARTS", 1)
    inputs = scans_named(tmp_path / "in", scan, "a")
    with pytest.raises(ModelNotFoundError, match="on node"):
        run_planned(plan_batch([inputs]), tmp_path, None, limits=RayCluster(Limits(0)), load_models=no_model)
    with pytest.raises(DeviceUnavailableError, match="has no GPU"):
        run_planned(plan_batch([inputs]), tmp_path, None, limits=RayCluster(Limits(0), device="cuda"))
    assert not (tmp_path / "batch.jsonl").read_text()


def test_command_on_a_cluster_gives_the_files_of_the_local_engine(cluster, tmp_path):
    try:
        load_bundle()
    except ModelNotFoundError as error:
        pytest.skip(f"no default model: {error}")
    command = [Path(sys.executable).with_name("spinemets"), "detect", ROOT / "data_samples/nifti"]
    options = ["--device", "cpu", "--formats", "json,nifti", "--identifiers", "keep"]
    engine = ["--engine", "ray", "--ray-address", cluster.address]
    # As many threads as a network on a node of one processor has, so that sums have one order.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for out, more in ((tmp_path / "ray", engine), (tmp_path / "local", [])):
        done = subprocess.run(
            [*command, "-o", out, *options, *more], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    local = without_execution(tmp_path / "local")
    assert without_execution(tmp_path / "ray") == local
    assert {"batch.jsonl", "findings.csv", "index.html", "summary.csv"} <= set(local)
    assert len([name for name in local if name.endswith(".nii.gz")]) >= 3


def without_execution(out: Path) -> dict[str, object]:
    """Every file, times aside; how the network ran may depend on the memory that was free."""
    content = results(out)
    report = content["cervicothoracic_T2w/report.json"]
    for name in ("strategy", "passes", "parts", "fallbacks"):
        del report["provenance"][name]
    return content


def test_node_that_lacks_something_says_what(tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.batch.ray_nodes._SEEN_WITHIN_S", 0.0)
    mark = tmp_path / "mark"
    mark.touch()
    from spinemets import __version__

    Site(__version__, mark, None, 0).settle()
    for site, message in (
        (Site("0.0.1", mark, None, 0), "install the same version"),
        (
            Site(__version__, tmp_path / "elsewhere", None, 0),
            "output folder must be one that every node sees",
        ),
        (Site(__version__, mark, tmp_path / "elsewhere", 0), "pass absolute paths"),
    ):
        with pytest.raises(WorkerError, match=message):
            site.settle()


def test_model_that_a_node_has_not_or_has_in_another_version_is_refused(tmp_path):
    try:
        bundle = load_bundle()
    except ModelNotFoundError as error:
        pytest.skip(f"no default model: {error}")
    address = BundleAddress.of(bundle)
    assert address == BundleAddress(bundle.name, reading_checksum(bundle.path), bundle.sha256)
    with pytest.raises(ModelNotFoundError, match="on node"):
        BundleAddress(tmp_path / "gone", address.checksum, address.sha256).load(SegmentationConfig())
    with pytest.raises(ModelNotTrustedError, match="install the same version on every node"):
        BundleAddress(bundle.name, address.checksum, "0" * 64).load(SegmentationConfig())


@pytest.mark.parametrize(
    ("address", "message"), [("ray://localhost:10001", "client protocol"), ("localhost:9", "no Ray cluster")]
)
def test_cluster_that_cannot_be_used_is_refused(address, message, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=message), connected(address):
        pass


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"spinemets\[ray\]"), connected(None):
        pass
