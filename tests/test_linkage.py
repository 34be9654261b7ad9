"""The file that tells which pseudonym stands for which study: it grows, and never gives up a row."""

from __future__ import annotations

import csv
import stat
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from planted import KEY
from spinemets.batch.deidentified import write_linkage
from spinemets.batch.planning import PlannedStudy
from spinemets.cli import main
from spinemets.errors import ConfigError, NoUsableInputError
from standins import lumbar_truth, write_scan

PROBLEM = NoUsableInputError("nothing")


def add(path: Path, *numbers: int, source: str = "in") -> None:
    """Write a linkage as a run of some studies does."""
    old = [PlannedStudy(f"anna{number}", Path(source, f"anna{number}"), PROBLEM) for number in numbers]
    new = [PlannedStudy(f"study-{number}", Path(f"study-{number}"), PROBLEM) for number in numbers]
    write_linkage(path, old, new, path.parent / "out")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_rows_of_earlier_runs_stay(tmp_path):
    path = tmp_path / "keep/link.csv"
    add(path, 1, 2)
    add(path, 2, 3, source="moved")
    assert rows(path) == [
        ["study", "source", "name"],
        ["study-1", "in/anna1", "anna1"],
        ["study-2", "moved/anna2", "anna2"],
        ["study-3", "moved/anna3", "anna3"],
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["link.csv"]


def test_runs_at_the_same_time_lose_no_row(tmp_path):
    processes = [
        get_context("spawn").Process(target=add, args=(tmp_path / "link.csv", 2 * number, 2 * number + 1))
        for number in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(row[0] for row in rows(tmp_path / "link.csv")[1:]) == [f"study-{n}" for n in range(6)]


@pytest.mark.parametrize("content", [b"study,path\na,b\n", b"\n", b"\xff\xfe", b"study,source,name\na\n"])
def test_file_of_another_kind_is_not_replaced(tmp_path, content):
    path = tmp_path / "link.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no linkage"):
        add(path, 1)
    assert path.read_bytes() == content


@pytest.mark.parametrize("command", [("plan",), ("detect", "--dry-run")])
def test_plan_writes_no_linkage(tmp_path, monkeypatch, command):
    monkeypatch.setenv("SPINEMETS_DEID_KEY", KEY)
    monkeypatch.setattr("spinemets.bundles.load_bundle", lambda *_: SimpleNamespace(sha256="0" * 64))
    monkeypatch.setattr("spinemets.detect_command.keep_quiet", lambda: None)
    write_scan(tmp_path / "in/anna.nii.gz", lumbar_truth())
    path = tmp_path / "link.csv"
    add(path, 1)
    before = path.read_bytes()
    words = [*command, tmp_path / "in", "-o", tmp_path / "out", "--deidentify", "--deid-linkage", path]
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0, printed.getvalue()
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()
