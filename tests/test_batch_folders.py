"""What a batch does with results that lie in its output folder: whose they are, and which still stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_faults import LEAN, Fails, Silent, run_listed, run_planned
from planted import planted_truth, write_planted_study
from spinemets.batch import BatchRecord, State, plan_batch, read_records
from standins import TruthSegmenter, healthy_scan, table_rows, write_scan


def test_result_of_an_earlier_run_is_set_aside_when_it_cannot_be_made_anew(scan, truth, tmp_path, caplog):
    out = tmp_path / "out"
    run_planned(plan_batch([scan]), out, TruthSegmenter(truth))
    before = (out / "anna/report.json").read_bytes()
    for again in ("changed", "failed"):
        (record,) = run_planned(plan_batch([scan]), out, Fails(), sha256="1" * 64, again=again)
        assert (record.state, record.earlier) == (State.FAILED, "earlier/anna")
        assert not (out / "anna").exists()
        assert (out / "earlier/anna/report.json").read_bytes() == before
    assert (
        table_rows(out / "summary.csv")[0]["reason"]
        == "killed (its result of an earlier run is in earlier/anna)"
    )
    assert caplog.text.count("the result of an earlier run is now in") == 1
    (record,) = run_planned(plan_batch([scan]), out, TruthSegmenter(truth), sha256="1" * 64, again="failed")
    assert (record.state, record.earlier) == (State.DONE, "")
    assert (out / "anna/report.json").is_file()
    assert not (out / "earlier").exists()


@pytest.mark.parametrize("again", ["changed", "failed", "all"])
def test_study_whose_name_is_that_of_another_one_takes_nothing_of_it(scan, truth, tmp_path, again):
    out = tmp_path / "out"
    run_planned(plan_batch([scan]), out, TruthSegmenter(truth))
    report, record = (out / "anna/report.json").read_bytes(), read_records(out)["anna"]
    other = healthy_scan(tmp_path / "other/anna.nii.gz", truth)
    third = healthy_scan(tmp_path / "other/bert.nii.gz", truth)
    for _ in range(2):
        taken, done = run_planned(plan_batch([other, third]), out, TruthSegmenter(truth), again=again)
        assert (taken.state, taken.error, done.state) == (State.FAILED, "ConfigError", State.DONE)
        assert (
            taken.reason == f"its name is taken by the study from {scan}; give it another one in a manifest"
        )
        assert taken.source == str(other)
        assert (out / "anna/report.json").read_bytes() == report
        assert read_records(out)["anna"] == record
        assert not (out / "earlier").exists()
    watcher = Silent()
    run_planned(plan_batch([scan]), out, TruthSegmenter(truth), watcher=watcher)
    assert watcher.events == []
    (tmp_path / "list.csv").write_text(f"study,path\nanna,{other}\nanna2,{other}\n")
    listed = run_planned(plan_batch([tmp_path / "list.csv"]), out, TruthSegmenter(truth), again=again)
    assert [(one.study.startswith("anna"), one.state) for one in listed] == [
        (True, State.FAILED), (True, State.DONE),
    ]  # fmt: skip
    assert (out / "anna/report.json").read_bytes() == report


def test_studies_of_one_name_are_told_apart_wherever_the_runs_are_started(scan, truth, tmp_path, monkeypatch):
    other = healthy_scan(tmp_path / "other/anna.nii.gz", truth)
    monkeypatch.chdir(scan.parent)
    (first,) = run_planned(plan_batch([Path(scan.name)]), tmp_path / "out", TruthSegmenter(truth))
    assert first.source == str(scan)
    monkeypatch.chdir(other.parent)
    (second,) = run_planned(plan_batch([Path(other.name)]), tmp_path / "out", TruthSegmenter(truth))
    assert (second.state, "name is taken" in second.reason) == (State.FAILED, True)


@pytest.mark.parametrize("change", ["moved", "changed", "reached by another way"])
def test_study_that_moved_or_changed_keeps_its_name(scan, truth, tmp_path, monkeypatch, change):
    run_planned(plan_batch([scan]), tmp_path / "out", TruthSegmenter(truth))
    if change == "moved":
        scan.parent.rename(tmp_path / "moved")
        path = tmp_path / "moved" / scan.name
    elif change == "changed":
        path = healthy_scan(scan, truth)
    else:
        healthy_scan(scan, truth)
        (tmp_path / "link").symlink_to(scan.parent)
        monkeypatch.chdir(tmp_path / "link")
        path = Path("../link/anna.nii.gz")
    watcher = Silent()
    (record,) = run_planned(plan_batch([path]), tmp_path / "out", TruthSegmenter(truth), watcher=watcher)
    assert (record.study, record.state) == ("anna", State.DONE)
    assert bool(watcher.events) == (change != "moved")


def test_input_in_the_place_of_a_result_is_never_moved_or_replaced(truth, tmp_path):
    scan = write_scan(tmp_path / "anna/dicom/anna.nii.gz", truth)
    (tmp_path / "list.csv").write_text(f"study,path\nanna,{scan}\n")
    (record,) = run_planned(plan_batch([tmp_path / "list.csv"]), tmp_path, TruthSegmenter(truth))
    assert (record.state, record.error, record.earlier) == (State.FAILED, "OutputError", "")
    assert scan.is_file()


def test_results_within_the_input_change_no_study(tmp_path):
    truth = planted_truth()
    write_planted_study(tmp_path / "in", truth)
    (before,) = plan_batch([tmp_path / "in"])
    formats = ("json", "nifti", "dicom-seg", "dicom-sr")
    config = LEAN.model_copy(update={"report": LEAN.report.model_copy(update={"formats": formats})})
    out = tmp_path / "in/out"
    run_planned([before], out, TruthSegmenter(truth), config)
    watcher = Silent()
    (again,) = plan_batch([tmp_path / "in"])
    assert (again.key, again.source) == (before.key, before.source)
    run_planned([again], out, TruthSegmenter(truth), config, watcher)
    assert watcher.events == []
    # Objects that come back without the batch's records, as from an archive.
    (out / "batch.jsonl").unlink()
    (again,) = plan_batch([tmp_path / "in"])
    assert (again.key, again.source) == (before.key, before.source)


def test_name_given_beside_hashed_ones_stays_with_its_study(scan, truth, tmp_path):
    out = tmp_path / "out"
    (first,) = run_listed({"case1": scan}, out, TruthSegmenter(truth))
    report = (out / "case1/report.json").read_bytes()
    other = healthy_scan(tmp_path / "other/scan.nii.gz", truth)
    (taken,) = run_listed({"case1": other}, out, TruthSegmenter(truth))
    assert (taken.state, taken.error) == (State.FAILED, "ConfigError")
    assert "its name is taken by the study from source-" in taken.reason
    assert taken.study.startswith("case1-")
    assert (out / "case1/report.json").read_bytes() == report
    assert read_records(out)["case1"] == first
    sources = {row["study"]: row["path"] for row in table_rows(out / "private/studies.csv")}
    assert sources == {"case1": str(scan), taken.study: str(other)}


@pytest.mark.parametrize("names", ["kept", "hashed"])
def test_study_that_moved_and_changes_later_keeps_its_name(scan, truth, tmp_path, names):
    out = tmp_path / "out"

    def run(path: Path) -> BatchRecord:
        if names == "hashed":
            return run_listed({"anna": path}, out, TruthSegmenter(truth))[0]
        return run_planned(plan_batch([path]), out, TruthSegmenter(truth))[0]

    first = run(scan)
    path = tmp_path / "moved/anna.nii.gz"
    scan.parent.rename(path.parent)
    moved = run(path)
    assert (moved.run, moved.ended, moved.state) == (first.run, first.ended, State.DONE)
    assert moved.source != first.source
    lines = (out / "batch.jsonl").read_bytes()
    assert run(path) == moved
    assert (out / "batch.jsonl").read_bytes() == lines
    healthy_scan(path, truth)
    changed = run(path)
    assert (changed.study, changed.state, changed.source) == ("anna", State.DONE, moved.source)
