"""Spines, scans and queues that tests share; a missing tool is a failure where tools are required."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from phantoms import Phantom, draw_phantom
from queue_steps import Clock
from spinemets.segmented import SpineSegmentation
from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.settings import LimitSettings
from spinemets.serving.study_queue import StudyQueue
from standins import lumbar_truth, write_scan
from tool_requirement import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def whole_spine() -> Phantom:
    """C2 to the sacrum in thick sagittal slices."""
    return draw_phantom(seed=1)


@pytest.fixture(scope="session")
def lumbar_spine() -> Phantom:
    """T11 to the sacrum, with the conus at L1."""
    return draw_phantom(highest="T11", spacing_mm=(4.0, 1.2, 1.2), seed=1)


@pytest.fixture(scope="session")
def neck() -> Phantom:
    """C2 to T2."""
    return draw_phantom(lowest="T2", spacing_mm=(4.0, 1.2, 1.2), seed=1)


@pytest.fixture(scope="session")
def chest() -> Phantom:
    """T3 to T10: neither C2 nor the sacrum nor the conus in view."""
    return draw_phantom(highest="T3", lowest="T10", spacing_mm=(4.0, 1.2, 1.2), seed=1)


@pytest.fixture(scope="module")
def truth() -> SpineSegmentation:
    """What the scans that ``standins.write_scan`` writes show."""
    return lumbar_truth()


@pytest.fixture
def scan(tmp_path: Path, truth: SpineSegmentation) -> Path:
    """A scan with this truth, alone in its folder."""
    return write_scan(tmp_path / "in/anna.nii.gz", truth)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for a few studies."""
    if shutil.which("mount") is None:
        pytest.skip("tool missing: mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("tool missing: a small disk cannot be mounted here, which takes root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; nothing else is."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers that say nothing are ended within seconds."""
    for module in ("receiver", "connections"):
        monkeypatch.setattr(f"spinemets.serving.{module}.ASKING_S", 2.0)
        monkeypatch.setattr(f"spinemets.serving.{module}.SILENT_S", 5.0)


@pytest.fixture
def clock() -> Clock:
    """The time of the queue."""
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[StudyQueue]:
    """What waits in a server's folder."""
    with closing(StudyQueue(Folders(tmp_path).queue, clock)) as opened:
        yield opened


@pytest.fixture
def inbox(tmp_path: Path, queue: StudyQueue) -> Inbox:
    """Where a server puts what it receives."""
    return Inbox(Folders(tmp_path), queue, LimitSettings(free_gib=0))
