"""Worker processes change nothing but the time a batch takes, and their faults cost one study each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import batch_faults
from batch_faults import Crowded, FaultySegmenter, LoadsOnce, Silent, run_planned
from batch_results import results
from spinemets.batch import Limits, RecordBook, SideBySide, State, plan_batch, read_records
from spinemets.batch.stages import LoadedStudy, segment
from spinemets.batch.workers import Worker, _context
from spinemets.errors import DeviceUnavailableError, OutputError, SpinemetsError
from standins import TruthSegmenter, models_for, write_scan

NAMES = [f"study{number:02d}" for number in range(10)]
# Workers beside one network, as for a GPU, and whole studies side by side, as on a CPU.
both_ways = pytest.mark.parametrize("beside", [None, SideBySide(2)], ids=["overlapping", "side by side"])


@pytest.fixture(scope="module")
def scans(tmp_path_factory, truth):
    folder = tmp_path_factory.mktemp("scans")
    source = write_scan(folder / f"{NAMES[0]}.nii.gz", truth)
    for name in NAMES[1:]:
        (folder / f"{name}.nii.gz").hardlink_to(source)
    (folder / "study99.nii.gz").write_bytes(b"\x1f\x8b no image")
    return folder


@pytest.fixture(scope="module")
def in_turn(scans, truth, tmp_path_factory):
    """The results of an undisturbed run without workers."""
    out = tmp_path_factory.mktemp("in_turn")
    run_planned(plan_batch([scans]), out, TruthSegmenter(truth))
    return results(out)


@both_ways
def test_workers_give_the_same_results_as_one_study_after_the_other(scans, truth, in_turn, tmp_path, beside):
    watcher = Silent()
    limits = Limits(2, side_by_side=beside)
    records = run_planned(
        plan_batch([scans]), tmp_path, TruthSegmenter(truth), watcher=watcher, limits=limits
    )
    assert [record.state for record in records] == [State.DONE] * 10 + [State.FAILED]
    assert results(tmp_path) == in_turn
    for name in NAMES:
        stages = [event for event, study in watcher.events if study == name]
        assert stages == ["reading", "network", "writing", "done"]


# By the word in a study's name: the error and the stage that its record names, and words of the reason.
FAULTS = {
    "killed": ("WorkerError", "reading", ""),
    "quits": ("WorkerError", "reading", ""),
    "hung": ("TimeLimitError", "reading", ""),
    "stuck": ("TimeLimitError", "network", "took longer than 10 s"),
    "full": ("OSError", "writing", ""),
    "murdered": ("WorkerError", "writing", ""),
    "crashes": ("WorkerError", "network", "exit code -11"),
    "shot": ("WorkerError", "network", "was killed"),
    "nomemory": ("OutOfMemoryError", "network", "has room"),
    "device": ("RuntimeError", "network", "illegal memory access"),
}


@both_ways
def test_every_fault_of_a_process_costs_its_study_only(scans, truth, tmp_path, monkeypatch, beside):
    monkeypatch.setattr("spinemets.batch.run.load", batch_faults.load)
    monkeypatch.setattr("spinemets.batch.run.finish", batch_faults.finish)
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    names = [f"{place}_{word}" for place, fault in enumerate(FAULTS) for word in (f"a_{fault}", "b")]
    for name in names:
        (inputs / f"{name}.nii.gz").hardlink_to(scans / f"{NAMES[0]}.nii.gz")
    limits = Limits(2, timeout_s=10, side_by_side=beside)
    records = run_planned(plan_batch([inputs]), out, FaultySegmenter(truth), limits=limits)
    assert [record.study for record in records] == names
    assert [record.state.value for record in records] == ["failed", "done"] * len(FAULTS)
    for record, (error, stage, words) in zip(records[::2], FAULTS.values(), strict=True):
        assert (record.error, record.stage.value) == (error, stage), record.study
        assert record.reason
        assert words in record.reason
        assert (out / record.log).read_text()
        assert not (out / record.study).exists()
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("beside", [None, SideBySide(1)], ids=["overlapping", "side by side"])
def test_run_ends_when_the_model_cannot_be_loaded_again_and_goes_on_later(scans, truth, tmp_path, beside):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for name in ("a", "b_device", "c"):
        (inputs / f"{name}.nii.gz").hardlink_to(scans / f"{NAMES[0]}.nii.gz")
    with pytest.raises(DeviceUnavailableError, match="no cuda:0"):
        run_planned(
            plan_batch([inputs]),
            out,
            None,
            limits=Limits(1, side_by_side=beside),
            load_models=LoadsOnce(truth, tmp_path / "mark"),
        )
    assert {record.study: record.state.value for record in read_records(out).values()} == {
        "a": "done",
        "b_device": "failed",
    }
    records = run_planned(plan_batch([inputs]), out, TruthSegmenter(truth), limits=Limits(1))
    assert [record.state.value for record in records] == ["done", "failed", "done"]


@pytest.mark.parametrize("workers", [0, 2])
def test_model_that_cannot_be_loaded_ends_the_run_with_its_own_error(scans, tmp_path, workers):
    (tmp_path / "mark").touch()
    with pytest.raises(DeviceUnavailableError, match="no cuda:0"):
        run_planned(
            plan_batch([scans]),
            tmp_path / "out",
            None,
            limits=Limits(workers),
            load_models=LoadsOnce(None, tmp_path / "mark"),
        )


@pytest.mark.parametrize("side_by_side", [False, True], ids=["overlapping", "side by side"])
def test_no_more_studies_are_under_way_than_memory_allows(scans, truth, tmp_path, side_by_side):
    class Counting(Silent):
        under_way = most = 0

        def moved(self, _study, stage):
            self.under_way += stage.value == "reading"
            self.most = max(self.most, self.under_way)

        def ended(self, _record, _lines):
            self.under_way -= 1

    planned = plan_batch([scans])[:5]
    one = planned[0].memory_bytes
    for memory, most in ((0.5 * one, 1), (2.5 * one, 2)):
        watcher = Counting()
        run_planned(
            planned,
            tmp_path / str(most),
            TruthSegmenter(truth),
            watcher=watcher,
            limits=Limits(2, None, memory, SideBySide(3, memory) if side_by_side else None),
        )
        assert watcher.most == most


def killed_when(out: Path, scans: Path, lines: int, beside: SideBySide | None) -> None:
    """Start a run and kill it when so many studies have ended."""
    process = _context().Process(target=batch_faults.run_slowly, args=(scans, out, beside))
    process.start()
    records = out / "batch.jsonl"
    while process.is_alive():
        if records.is_file() and records.read_bytes().count(b"\n") >= lines:
            process.kill()
            process.join()
            return
        time.sleep(0.01)
    assert process.exitcode == 0


@both_ways
def test_run_that_is_killed_thrice_ends_as_if_nothing_had_happened(scans, in_turn, tmp_path, beside):
    for lines in (1, 4, 7, 99):
        killed_when(tmp_path, scans, lines, beside)
    assert results(tmp_path) == in_turn


def test_half_written_record_is_dropped(scans, truth, tmp_path):
    planned = plan_batch([scans])[:2]
    run_planned(planned, tmp_path, TruthSegmenter(truth))
    book = tmp_path / "batch.jsonl"
    whole = book.read_bytes()
    book.write_bytes(whole[:-20])
    assert set(read_records(tmp_path)) == {planned[0].key}
    watcher = Silent()
    run_planned(planned, tmp_path, TruthSegmenter(truth), watcher=watcher)
    assert watcher.events[-1] == ("done", planned[1].key)
    assert len(book.read_text().splitlines()) == 2


def test_line_that_is_no_record_is_refused(tmp_path):
    (tmp_path / "batch.jsonl").write_text('{"study": "a"}\n')
    with pytest.raises(OutputError, match="line 1 is not a record"):
        RecordBook(tmp_path)


def test_second_run_in_one_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.locks._PATIENCE_S", 0.0)
    with RecordBook(tmp_path), pytest.raises(OutputError, match="another run"):
        RecordBook(tmp_path)


def test_interruption_writes_what_the_network_has_seen_and_drops_the_rest(scans, tmp_path, truth):
    class Interrupting(Silent):
        turns = 0

        def moved(self, study, stage):
            self.turns += stage.value == "network"
            if self.turns == 3:
                self.turns += 1
                raise KeyboardInterrupt
            super().moved(study, stage)

    with pytest.raises(KeyboardInterrupt):
        run_planned(
            plan_batch([scans]), tmp_path, TruthSegmenter(truth), watcher=Interrupting(), limits=Limits(2)
        )
    done = [record.study for record in read_records(tmp_path).values() if record.state is State.DONE]
    assert len(done) == 2
    assert sorted(
        path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "logs"
    ) == sorted(done)
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as a terminal has it: what is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interruption_side_by_side_begins_nothing_any_more(scans, tmp_path, truth):
    class Interrupting(Silent):
        def ended(self, record, lines):
            super().ended(record, lines)
            if sum(event == "done" for event, _ in self.events) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    limits = Limits(2, side_by_side=SideBySide(2))
    with pytest.raises(KeyboardInterrupt):
        run_planned(
            plan_batch([scans]), tmp_path, TruthSegmenter(truth), watcher=Interrupting(), limits=limits
        )
    done = [record.study for record in read_records(tmp_path).values() if record.state is State.DONE]
    assert 3 <= len(done) < len(NAMES)
    assert sorted(
        path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "logs"
    ) == sorted(done)
    assert not list(tmp_path.glob(".*"))


def test_a_study_without_memory_beside_others_is_done_alone_in_the_end(scans, truth, tmp_path):
    (tmp_path / "crowd").mkdir()
    limits = Limits(3, side_by_side=SideBySide(3))
    segmenter = Crowded(truth, tmp_path / "crowd")
    records = run_planned(plan_batch([scans])[:5], tmp_path / "out", segmenter, limits=limits)
    assert [record.state.value for record in records] == ["done"] * 5


def test_processes_side_by_side_are_renewed(scans, truth, in_turn, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("spinemets.batch.side_by_side.RENEWED_AFTER", 2)
    limits = Limits(2, side_by_side=SideBySide(2))
    run_planned(plan_batch([scans]), tmp_path, TruthSegmenter(truth), limits=limits)
    assert results(tmp_path) == in_turn
    assert "loaded again" not in caplog.text


def test_full_disk_for_the_records_themselves_stops_the_batch(scans, truth, tmp_path, monkeypatch):
    def no_room(*_):
        raise OutputError("batch.jsonl: cannot be written (No space left on device)")

    monkeypatch.setattr(RecordBook, "append", no_room)
    with pytest.raises(SpinemetsError, match="No space left"):
        run_planned(plan_batch([scans])[:4], tmp_path, TruthSegmenter(truth), limits=Limits(2))


class RemovesTheFolder(Silent):
    """After the first study, somebody tidies up."""

    def __init__(self, folder: Path, how: Callable[[Path], object]) -> None:
        super().__init__()
        self._folder, self._how = folder, how

    def ended(self, record, lines):
        super().ended(record, lines)
        if self._folder.exists():
            self._how(self._folder)


@pytest.mark.parametrize(
    "how",
    [partial(shutil.rmtree, ignore_errors=True), lambda folder: folder.rename(folder.with_name("moved"))],
    ids=["removed", "moved"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_folder_that_vanishes_stops_the_batch(scans, truth, tmp_path, how, workers):
    out = tmp_path / "out"
    watcher = RemovesTheFolder(out, how)
    with pytest.raises(OutputError, match=r"batch\.jsonl: is gone"):
        run_planned(
            plan_batch([scans])[:4], out, TruthSegmenter(truth), watcher=watcher, limits=Limits(workers)
        )
    assert [event for event, _ in watcher.events].count("done") == 1


class FillsTheDisk(Silent):
    """After two studies, another program takes all the room; after the next one, it gives it back."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self._ballast = disk / "ballast"

    def ended(self, record, lines):
        super().ended(record, lines)
        ended = sum(event in ("done", "failed") for event, _ in self.events)
        if ended == 2:
            with self._ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(4096))
        if ended == 3:
            self._ballast.unlink()


def test_disk_that_is_full_for_a_while_costs_the_study_it_meets(scans, truth, small_disk):
    watcher = FillsTheDisk(small_disk)
    planned = plan_batch([scans / f"{name}.nii.gz" for name in NAMES[:5]])
    records = run_planned(planned, small_disk, TruthSegmenter(truth), watcher=watcher, limits=Limits(1))
    assert [record.state.value for record in records] == ["done", "done", "failed", "done", "done"]
    assert "No space left on device" in records[2].reason
    assert records[2].stage.value == "writing"
    assert not list(small_disk.glob(".*"))
    assert read_records(small_disk) == {record.study: record for record in records}
    assert (small_disk / "index.html").is_file()


def test_workers_import_no_network():
    code = "import sys, spinemets.batch.stages; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "monai"} & set(imported.stdout.split())


def test_workers_stand_back_for_the_network():
    worker = Worker(niceness=7)
    try:
        assert worker.call(os.nice, 0) == min(os.nice(0) + 7, 19)
    finally:
        worker.close()


def test_what_any_process_can_do_is_left_to_the_one_that_writes(truth):
    given, seen = object(), object()

    class Networks(TruthSegmenter):
        def run_networks(self, alignment):
            return seen if alignment is given else None

    segmented = segment(LoadedStudy(object(), given, 0.5, 0.25), models_for(Networks(truth)))
    assert segmented.segmentation is seen
    assert set(segmented.provenance.timings_s) == {"reading", "segmentation"}
    assert segmented.provenance.timings_s["segmentation"] >= 0.25
