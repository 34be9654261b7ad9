"""Prove what batches promise: every study ends, memory is flat, kills and shards change nothing, speed.

Each command writes small synthetic studies into a temporary folder, runs `spinemets detect` on
them in processes of its own, prints what it measured, and exits with 1 where a promise is broken.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import nibabel
import numpy as np

from batch_results import results
from memory_gauge import MemoryGauge
from spinemets.batch import read_records
from spinemets.benchmark.synthetic import CASES, write_study
from spinemets.exit_codes import DONE, PARTIAL

SHAPE = (12, 96, 96)
# What is wrong with a study, and how it must end: its state, its error, and where it was.
FAULTS: Mapping[str, tuple[str, str, str]] = {
    "truncated": ("failed", "UnreadableFileError", "reading"),
    "noimage": ("failed", "UnreadableFileError", "reading"),
    "fourdims": ("skipped", "UnsupportedInputError", "reading"),
    "fewslices": ("skipped", "NoUsableInputError", "reading"),
    "twice": ("failed", "ConfigError", "reading"),
    "killed": ("failed", "WorkerError", "reading"),
    "hung": ("failed", "TimeLimitError", "reading"),
    "stuck": ("failed", "TimeLimitError", "network"),
    "gpumemory": ("failed", "OutOfMemoryError", "network"),
    "diskfull": ("failed", "OSError", "writing"),
}
_FAULTY_DETECT = Path(__file__).with_name("faulty_detect.py")
_SPINEMETS = Path(sys.executable).with_name("spinemets")
_MEASURED_FROM = 50
_WORKERS = click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
_STAND_IN = click.option("--stand-in", is_flag=True, help="Something quick in the place of the networks.")


def make_studies(folder: Path, count: int, broken: bool) -> Path:
    """Write small scans, each of other noise, and a manifest of them; give the manifest.

    One in ten is broken if asked, in all ways in turn.
    """
    folder.mkdir()
    kinds = list(FAULTS)
    rows = ["study,path"]
    for number in range(count):
        kind = kinds[(number // 10) % len(kinds)] if broken and number % 10 == 7 else ""
        name = f"s{number:04d}{kind}"
        path = folder / f"{name}.nii.gz"
        _write_scan(path, number, kind)
        rows.append(f"{'s0000' if kind == 'twice' else name},{path}")
    manifest = folder.with_suffix(".csv")
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def _write_scan(path: Path, seed: int, kind: str) -> None:
    shape = {"fourdims": (*SHAPE, 3), "fewslices": (3, *SHAPE[1:])}.get(kind, SHAPE)
    image = np.random.default_rng(seed).normal(400, 60, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([4.0, 1.5, 1.5, 1.0])), path)
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if kind == "noimage":
        path.write_bytes(b"no image")


def _detect(
    inputs: Sequence[Path], out: Path, workers: int, stand_in: bool, options: Sequence[object] = ()
) -> list[str]:
    """The command line of a run on the CPU."""
    stands_in = ["--stand-in"] if stand_in else []
    plain = ["--device", "cpu", "--quiet", "--workers", workers]
    return [
        str(word)
        for word in (sys.executable, _FAULTY_DETECT, *stands_in, *inputs, "-o", out, *plain, *options)
    ]


@contextmanager
def _running(
    command: Sequence[str], surroundings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=surroundings) as process:
        yield process


def _ended(out: Path) -> int:
    records = out / "batch.jsonl"
    return records.read_bytes().count(b"\n") if records.is_file() else 0


@click.group()
def main() -> None:
    """Prove what batches promise; each command exits with 1 where a promise is broken."""


@main.command()
@click.option("--studies", default=300, show_default=True, type=click.IntRange(100))
@_WORKERS
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds before a hang ends.")
@_STAND_IN
def faults(studies: int, workers: int, timeout_s: float, stand_in: bool) -> None:
    """One study in ten is broken: every one must end as it should, in flat memory, with code 7."""
    with TemporaryDirectory() as folder:
        manifest, out = make_studies(Path(folder, "in"), studies, broken=True), Path(folder, "out")
        start = time.perf_counter()
        early: dict[str, int] = {}
        late: dict[str, int] = {}
        options = ["--timeout", timeout_s, "--formats", "json,nifti"]
        with _running(_detect([manifest], out, workers, stand_in, options)) as process:
            gauge = MemoryGauge(process.pid)
            while process.poll() is None:
                gauge.look()
                if not early and _ended(out) >= _MEASURED_FROM:
                    early = dict(gauge.peak_mb)
                # When all have ended, the main process makes the tables.
                if _ended(out) < studies:
                    late = dict(gauge.peak_mb)
                time.sleep(0.2)
        seconds = time.perf_counter() - start
        records = read_records(out).values()
    wrong = [
        record for record in records if not _is_as_expected(record.study, record.model_dump(mode="json"))
    ]
    for record in wrong:
        click.echo(f"WRONG {record.study}: {record.state.value} {record.error}: {record.reason}")
    states = Counter(record.state.value for record in records)
    click.echo(
        f"{len(records)} studies in {seconds:.0f} s: {dict(states)}; {len(wrong)} ended wrongly; "
        f"exit code {process.returncode}"
    )
    grown = [kind for kind, peak in late.items() if peak > 1.15 * early.get(kind, 0)]
    for kind, peak in late.items():
        click.echo(
            f"largest {kind}: {early.get(kind, 0)} MB after {_MEASURED_FROM} studies, {peak} MB after "
            f"{studies - 1}, {gauge.peak_mb[kind]} MB with the tables"
        )
    sys.exit(bool(wrong or grown) or len(records) != studies or process.returncode != PARTIAL)


def _is_as_expected(study: str, record: Mapping[str, object]) -> bool:
    kind = "twice" if "-row" in study else next((kind for kind in FAULTS if study.endswith(kind)), "")
    expected = FAULTS[kind] if kind else ("done", "", None)
    return (record["state"], record["error"], record["stage"]) == expected


@main.command()
@click.option("--studies", default=100, show_default=True, type=click.IntRange(2))
@click.option("--kills", default=20, show_default=True, type=click.IntRange(1))
@_WORKERS
@click.option("--seed", default=1, show_default=True)
@_STAND_IN
def kills(studies: int, kills: int, workers: int, seed: int, stand_in: bool) -> None:
    """Killed at random moments and started again, a run must end as an undisturbed one does."""
    moments = random.Random(seed)
    with TemporaryDirectory() as folder:
        inputs, whole, torn = (Path(folder, name) for name in ("in", "whole", "torn"))
        make_studies(inputs, studies, broken=False)
        salt = ["--salt", Path(folder, "salt")]
        subprocess.run(
            _detect([inputs], whole, workers, stand_in, salt), check=True, stdout=subprocess.DEVNULL
        )
        again = _detect([inputs], torn, workers, stand_in, salt)
        killed = 0
        while killed < kills:
            if not _killed(again, torn, moments, studies // kills):
                break
            killed += 1
        left = studies - _ended(torn)
        subprocess.run(again, check=True, stdout=subprocess.DEVNULL)
        same = results(torn) == results(whole)
    click.echo(
        f"{studies} studies, killed {killed} times, {left} left after the last: "
        f"results are {'the same' if same else 'NOT the same'}, none was done twice"
    )
    sys.exit(not same or killed < kills)


def _killed(command: list[str], out: Path, moments: random.Random, stride: int) -> bool:
    """Start a run and kill it after a few more studies, or none, and a moment more."""
    target = _ended(out) + moments.randint(0, max(stride - 1, 0))
    with _running(command) as process:
        while process.poll() is None and _ended(out) < target:
            time.sleep(0.01)
        try:
            process.wait(moments.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


@main.command()
@click.option("--studies", default=40, show_default=True, type=click.IntRange(4))
@click.option("--shards", default=4, show_default=True, type=click.IntRange(2))
@_WORKERS
@_STAND_IN
def shards(studies: int, shards: int, workers: int, stand_in: bool) -> None:
    """Shards merged must equal one whole run, broken studies among them."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        make_studies(root / "in", studies, broken=False)
        (root / "in" / "broken.nii.gz").write_bytes(b"no image")
        salt = ["--salt", root / "salt"]
        parts = [root / f"part{number}" for number in range(1, shards + 1)]
        _must_end([_detect([root / "in"], root / "whole", workers, stand_in, salt)])
        _must_end(
            [
                _detect([root / "in"], part, workers, stand_in, [*salt, "--shard", f"{number}/{shards}"])
                for number, part in enumerate(parts, start=1)
            ]
        )
        subprocess.run([_SPINEMETS, "merge", *parts, "-o", root / "all"], check=True)
        same = results(root / "all") == results(root / "whole")
        sizes = [_ended(part) for part in parts]
    click.echo(f"shards of {sizes} studies merged: {'the same' if same else 'NOT the same'} as one run")
    sys.exit(not same)


def _must_end(commands: Sequence[Sequence[str]]) -> None:
    for command in commands:
        code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
        if code not in (DONE, PARTIAL, 3):
            raise click.ClickException(f"a run ended with code {code}: {' '.join(command)}")


@main.command()
@click.option("--studies", default=24, show_default=True, type=click.IntRange(4))
@click.option("--alone", default=4, show_default=True, type=click.IntRange(1), help="Studies by themselves.")
@click.option("--case", default="lumbar", show_default=True, type=click.Choice(tuple(CASES)))
@click.option("--formats", default="json,html,nifti,png", show_default=True)
@click.option("-d", "--device", default="cpu", show_default=True)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(0))
@click.option(
    "--shards",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Batches side by side, with as many threads for each network as processors are for each.",
)
def throughput(
    studies: int, alone: int, case: str, formats: str, device: str, workers: int, shards: int
) -> None:
    """Compare a batch with one process for each study, and with what the network alone allows."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(studies):
            (root / f"in/exam{number:03d}").mkdir(parents=True)
            write_study(CASES[case], root / f"in/exam{number:03d}")
        exams = sorted((root / "in").iterdir())
        plain = ["--device", device, "--quiet", "--formats", formats]
        measured = ["--no-peers", "--device", device, "--quiet", "--json", root / "speed.json"]
        _seconds([_SPINEMETS, "benchmark", exams[0], *measured])
        (stages,) = json.loads((root / "speed.json").read_text())["cases"].values()
        one_s = [
            _seconds([_SPINEMETS, "detect", exam, "-o", root / f"alone{n}", *plain])
            for n, exam in enumerate(exams[:alone])
        ]
        outs = [root / f"batch{number}" for number in range(1, shards + 1)]
        batch = [_SPINEMETS, "detect", root / "in", *plain, "--workers", str(workers)]
        commands = [
            [*batch, "-o", out, "--shard", f"{number}/{shards}"] for number, out in enumerate(outs, start=1)
        ]
        start = time.perf_counter()
        ended_s = _ends(commands, outs)
        batch_s = (time.perf_counter() - start) / studies
        segmentation_s = [
            record.seconds["segmentation"] for out in outs for record in read_records(out).values()
        ]
    alone_s = sum(one_s) / len(one_s)
    # Shards may hold unlike numbers of studies: what counts is the time when all of them run.
    together = sorted(end for one in ended_s for end in one if end <= min(map(max, ended_s)))
    late = together[len(together) // 4 :]
    steady_s = (late[-1] - late[0]) / (len(late) - 1)
    seconds = stages["seconds"]
    network_s = seconds["preprocess"] + seconds["network"]
    click.echo(
        f"{case}, {studies} studies, {shards} x {workers} workers, {formats}; seconds per study\n"
        f"one process each        {alone_s:.2f} (from {alone})\n"
        f"batch, start included   {batch_s:.2f}: {alone_s / batch_s:.2f} times as fast (promised 1.6)\n"
        f"batch, once it runs     {steady_s:.2f}\n"
        f"benchmark's network     {seconds['network']:.2f}, prepared {network_s:.2f}, "
        f"all stages {seconds['total']:.2f} (without pictures)\n"
        f"the network's stage within the batch {sum(segmentation_s) / studies:.2f}\n"
        f"share of the network-bound rate {network_s / steady_s:.0%} (promised 90 %)"
    )
    sys.exit(alone_s / batch_s < 1.6 or network_s / steady_s < 0.9)


def _seconds(command: Sequence[object]) -> float:
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _ends(commands: Sequence[Sequence[object]], outs: Sequence[Path]) -> list[list[float]]:
    """Run batches side by side, and note when the studies of each ended."""
    threads = str(max(1, (os.cpu_count() or 1) // len(commands)))
    surroundings = {**os.environ, "OMP_NUM_THREADS": threads} if len(commands) > 1 else None
    ended: list[list[float]] = [[] for _ in outs]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_running([str(word) for word in command], surroundings))
            for command in commands
        ]
        while any(process.poll() is None for process in processes):
            for ends, out in zip(ended, outs, strict=True):
                ends += [time.perf_counter()] * (_ended(out) - len(ends))
            time.sleep(0.02)
    for process in processes:
        if process.returncode != DONE:
            raise click.ClickException(f"a batch ended with code {process.returncode}")
    return ended


if __name__ == "__main__":
    main()
