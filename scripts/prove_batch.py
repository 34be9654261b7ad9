"""Prove on small synthetic studies that a batch ends every study, keeps its memory and survives kills.

`faults` runs 300 studies, one in ten of them broken in ten ways. `kills` runs 100 sound ones, kills
the run with SIGKILL at 20 random moments, and compares what comes out with an undisturbed run.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import nibabel
import numpy as np

from spinemets.batch import (
    BatchRecord,
    Limits,
    ModelSource,
    PlannedStudy,
    RecordBook,
    Stage,
    plan_batch,
    run_batch,
    stages,
    stamp_of,
    what_to_do,
)
from spinemets.config import DetectionConfig, ReportConfig
from spinemets.detection import Models
from spinemets.errors import OutOfMemoryError
from spinemets.findings import Provenance, SpineSegmentation
from spinemets.volume import Study

SHAPE = (12, 96, 96)
CONFIG = DetectionConfig(report=ReportConfig(formats=("json", "nifti", "png")))
# What is wrong with a study, and how it must end.
FAULTS: Mapping[str, tuple[str, str]] = {
    "truncated": ("failed", "UnreadableFileError"),
    "noimage": ("failed", "UnreadableFileError"),
    "empty": ("failed", "UnreadableFileError"),
    "fourdims": ("skipped", "UnsupportedInputError"),
    "constant": ("skipped", "UnsupportedInputError"),
    "fewslices": ("skipped", "NoUsableInputError"),
    "killed": ("failed", "WorkerError"),
    "hung": ("failed", "TimeLimitError"),
    "diskfull": ("failed", "OSError"),
    "gpumemory": ("failed", "OutOfMemoryError"),
}


class StandIn:
    """Takes a moment and finds a sac; fails for studies that are marked so by their first voxel."""

    def segment(self, study: Study) -> SpineSegmentation:
        """A made-up segmentation of the right size."""
        time.sleep(0.02)
        grid = study.reference.grid
        if study.reference.intensities.flat[0] == 4321:
            raise OutOfMemoryError("neither the device nor the CPU has memory")
        anatomy = np.zeros(grid.shape, dtype=np.uint8)
        anatomy[5:7, 40:50, 10:-10] = 4
        empty = np.zeros(grid.shape, dtype=np.uint8)
        return SpineSegmentation(grid, anatomy, empty, empty.astype(np.float32), (), study.volumes)


def load(study: PlannedStudy, config: DetectionConfig, out: Path) -> stages.LoadedStudy:
    """As ``stages.load``; two kinds of studies kill or hang the process that reads them."""
    if "killed" in study.key:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hung" in study.key:
        time.sleep(1000)
    return stages.load(study, config, out)


def finish(job: tuple[str, stages.SegmentedStudy], config: DetectionConfig, out: Path) -> stages.StudyResult:
    """As ``stages.finish``; the disk is full for one kind of studies."""
    if "diskfull" in job[0]:
        raise OSError(errno.ENOSPC, "No space left on device")
    return stages.finish(job, config, out)


class Watcher:
    """Counts, and notes the largest memory of this process and of any worker so far."""

    def __init__(self) -> None:
        self.ended_count = 0
        self.main_mb: list[float] = []
        self.worker_mb: list[float] = []

    def moved(self, study: PlannedStudy, stage: Stage) -> None:
        """A stage of a study begins."""

    def ended(self, _record: BatchRecord, _lines: tuple[str, ...]) -> None:
        """A study has its record."""
        self.ended_count += 1
        if self.ended_count % 5:
            # Looking at every process takes longer than such a small study.
            return
        self.main_mb.append(_resident_mb(os.getpid()))
        children = [pid for pid in _processes() if _parent(pid) in (os.getpid(), *_children(os.getpid()))]
        self.worker_mb.append(max((_resident_mb(pid) for pid in children), default=0.0))


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def _children(pid: int) -> list[int]:
    return [other for other in _processes() if _parent(other) == pid]


def _resident_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def make_studies(folder: Path, count: int, broken: bool) -> None:
    """Write small scans, each of other noise; one in ten is broken if asked, in all ways in turn."""
    kinds = list(FAULTS)
    for number in range(count):
        kind = kinds[(number // 10) % len(kinds)] if broken and number % 10 == 7 else ""
        _write_scan(folder / f"s{number:04d}{kind}.nii.gz", number, kind)


def _write_scan(path: Path, seed: int, kind: str) -> None:
    shape = {"fourdims": (*SHAPE, 3), "fewslices": (3, *SHAPE[1:])}.get(kind, SHAPE)
    image = np.random.default_rng(seed).normal(400, 60, shape).astype(np.int16)
    if kind == "constant":
        image[:] = 7
    if kind == "gpumemory":
        image.flat[0] = 4321
    nibabel.save(nibabel.Nifti1Image(image, np.diag([4.0, 1.5, 1.5, 1.0])), path)
    if kind in ("truncated", "noimage", "empty"):
        content = path.read_bytes()
        path.write_bytes({"truncated": content[: len(content) // 2], "noimage": b"no image"}.get(kind, b""))


def run(inputs: Path, out: Path, workers: int, timeout_s: float, watcher: Watcher) -> tuple[BatchRecord, ...]:
    """One run over a folder, as the command line does it, with the stand-in for the network."""
    provenance = Provenance("0.0.0", "stand-in", "1.0.0", "0" * 64)
    model = ModelSource("0" * 64, partial(Models, StandIn(), provenance))
    with RecordBook(out) as book:
        todo = what_to_do(
            plan_batch([inputs]), book.records, out, lambda study: stamp_of(study, model.sha256, CONFIG)
        )
        return run_batch(todo, book, model, CONFIG, watcher, Limits(workers, timeout_s))


def results(out: Path) -> dict[str, object]:
    """Everything in an output folder, times and the runs' names aside.

    Raises
    ------
    ValueError
        A study has two records: it was done twice.
    """
    content: dict[str, object] = {}
    for path in sorted(file for file in out.rglob("*") if file.is_file() and file.suffix != ".parquet"):
        name = path.relative_to(out).as_posix()
        if path.name == "report.json":
            document = json.loads(path.read_text())
            del document["provenance"]["timings_s"]
            content[name] = document
        elif path.name == "summary.csv":
            rows = csv.DictReader(io.StringIO(path.read_text()))
            content[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif path.name == "batch.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            twice = [study for study, count in Counter(line["study"] for line in lines).items() if count > 1]
            if twice:
                raise ValueError(f"done twice: {', '.join(twice)}")
            content[name] = {
                line["study"]: {k: v for k, v in line.items() if k not in ("seconds", "run", "ended")}
                for line in lines
            }
        elif path.parent.name == "logs":
            content[name] = path.read_text().splitlines()[-1]
        else:
            content[name] = path.read_bytes()
    return content


@click.group()
def main() -> None:
    """Prove what batches promise; each command exits with 1 where a promise is broken."""


@main.command()
@click.option("--studies", default=300, show_default=True, type=click.IntRange(60))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--timeout", "timeout_s", default=10.0, show_default=True, help="Seconds before a hang ends.")
def faults(studies: int, workers: int, timeout_s: float) -> None:
    """One study in ten is broken: every one must end as it should, in flat memory."""
    from spinemets.batch import run as batch

    # Workers find these two by this script's name.
    vars(batch).update(load=load, finish=finish)
    watcher = Watcher()
    with TemporaryDirectory() as folder:
        inputs, out = Path(folder, "in"), Path(folder, "out")
        inputs.mkdir()
        make_studies(inputs, studies, broken=True)
        start = time.perf_counter()
        records = run(inputs, out, workers, timeout_s, watcher)
        seconds = time.perf_counter() - start
    wrong = [record for record in records if (record.state.value, record.error) != _expected(record.study)]
    for record in wrong:
        click.echo(f"WRONG {record.study}: {record.state.value} {record.error}: {record.reason}")
    states = Counter(record.state.value for record in records)
    click.echo(f"{len(records)} studies in {seconds:.0f} s: {dict(states)}; {len(wrong)} ended wrongly")
    grew = [_growth(name, peak) for name, peak in (("main", watcher.main_mb), ("worker", watcher.worker_mb))]
    sys.exit(bool(wrong) or any(grew) or len(records) != studies)


def _expected(study: str) -> tuple[str, str]:
    return next((end for kind, end in FAULTS.items() if kind in study), ("done", ""))


def _growth(name: str, memory_mb: list[float]) -> bool:
    early, late = max(memory_mb[:10]), max(memory_mb)
    click.echo(f"largest {name} process: {early:.0f} MB after 50 studies, {late:.0f} MB in the end")
    return late > 1.15 * early


@main.command()
@click.option("--studies", default=100, show_default=True, type=click.IntRange(2))
@click.option("--kills", default=20, show_default=True, type=click.IntRange(1))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=1, show_default=True)
def kills(studies: int, kills: int, workers: int, seed: int) -> None:
    """Killed at random moments and started again, a run must end as an undisturbed one does."""
    moments = random.Random(seed)
    with TemporaryDirectory() as folder:
        inputs, whole, torn = (Path(folder, name) for name in ("in", "whole", "torn"))
        inputs.mkdir()
        make_studies(inputs, studies, broken=False)
        command = [sys.executable, __file__, "once", str(inputs), "--workers", str(workers)]
        subprocess.run([*command, str(whole)], check=True)
        killed = sum(_killed([*command, str(torn)], torn, moments, studies // kills) for _ in range(kills))
        subprocess.run([*command, str(torn)], check=True)
        same = results(torn) == results(whole)
    click.echo(
        f"{studies} studies, killed {killed} times: results are {'the same' if same else 'NOT the same'}"
    )
    sys.exit(not same)


def _killed(command: list[str], out: Path, moments: random.Random, stride: int) -> bool:
    """Start a run and kill it after a few more studies, or none, and a moment more."""
    target = _ended(out) + moments.randint(0, stride)
    with subprocess.Popen(command) as process:
        while process.poll() is None and _ended(out) < target:
            time.sleep(0.01)
        try:
            process.wait(moments.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


def _ended(out: Path) -> int:
    records = out / "batch.jsonl"
    return records.read_bytes().count(b"\n") if records.is_file() else 0


@main.command(hidden=True)
@click.argument("inputs", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--workers", default=2)
def once(inputs: Path, out: Path, workers: int) -> None:
    """One run, to be killed."""
    run(inputs, out, workers, 60.0, Watcher())


if __name__ == "__main__":
    main()
