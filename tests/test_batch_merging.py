"""Output folders joined: the newest record counts, and nothing from outside of a folder comes along."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest

from batch_faults import Fails, run_listed, run_planned
from spinemets.batch import State, merge_batches, plan_batch, read_records
from spinemets.errors import OutputError, UnsupportedInputError
from standins import TruthSegmenter, healthy_scan, table_rows


def test_merging_gives_the_state_of_the_newest_record(scan, truth, tmp_path):
    part, merged = tmp_path / "part", tmp_path / "merged"
    run_planned(plan_batch([scan]), part, TruthSegmenter(truth))
    merge_batches([part], merged)
    run_planned(plan_batch([scan]), part, Fails(), sha256="1" * 64)
    merge_batches([part], merged)
    assert table_rows(merged / "summary.csv")[0]["state"] == "failed"
    assert not (merged / "anna").exists()
    assert json.loads((merged / "earlier/anna/report.json").read_text())["findings"]
    assert read_records(merged) == read_records(part)
    run_planned(plan_batch([scan]), part, TruthSegmenter(truth), sha256="1" * 64, again="failed")
    merge_batches([part], merged)
    assert table_rows(merged / "summary.csv")[0]["state"] == "done"
    assert (merged / "anna/report.json").is_file()
    assert not (merged / "earlier").exists()


def test_merge_onto_a_full_disk_says_so_in_a_sentence_and_goes_on_later(scan, truth, tmp_path, small_disk):
    part, merged = tmp_path / "part", small_disk / "merged"
    run_planned(plan_batch([scan]), part, TruthSegmenter(truth))
    merged.mkdir()
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))
    with pytest.raises(OutputError, match=r"the first: .*No space left on device") as told:
        merge_batches([part], merged)
    assert str(told.value).count("No space left") == 1
    assert not list(merged.glob(".*"))
    ballast.unlink()
    merge_batches([part], merged)
    assert read_records(merged) == read_records(part)


def test_newest_record_counts_whatever_folder_is_merged_first(scan, truth, tmp_path):
    run_planned(plan_batch([scan]), tmp_path / "old", TruthSegmenter(truth))
    run_planned(plan_batch([scan]), tmp_path / "new", Fails())
    for number, order in enumerate((("old", "new"), ("new", "old"))):
        merged = tmp_path / f"merged{number}"
        merge_batches([tmp_path / name for name in order], merged)
        assert table_rows(merged / "summary.csv")[0]["state"] == "failed"
        assert not (merged / "anna").exists()


def test_study_that_moved_and_was_done_again_is_merged_again(scan, truth, tmp_path):
    part, merged = tmp_path / "part", tmp_path / "merged"
    run_planned(plan_batch([scan]), part, TruthSegmenter(truth))
    merge_batches([part], merged)
    shutil.copytree(part, tmp_path / "old")
    (tmp_path / "elsewhere").mkdir()
    moved = scan.rename(tmp_path / "elsewhere" / scan.name)
    run_planned(plan_batch([moved]), part, TruthSegmenter(truth), sha256="1" * 64)
    for source in (part, tmp_path / "old"):
        merge_batches([source], merged)
        assert read_records(merged) == read_records(part)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("study", "../precious"),
        ("study", "precious/../../precious"),
        ("study", ".."),
        ("study", ""),
        ("study", ".hidden"),
        ("study", "private"),
        ("study", "Logs"),
        ("study", "..\\precious"),
        ("log", "../../precious/thesis.txt"),
        ("log", "/etc/hostname"),
        ("log", "logs/../../precious/thesis.txt"),
        ("log", "logs"),
        ("log", "private/salt"),
        ("earlier", "../precious"),
        ("earlier", "earlier/.."),
        ("earlier", "logs/anna"),
        ("ended", "yesterday"),
    ],
)
def test_record_that_leads_out_of_its_folder_is_not_merged(scan, truth, tmp_path, field, value):
    part, out = tmp_path / "in/part", tmp_path / "merged"
    run_planned(plan_batch([scan]), part, TruthSegmenter(truth))
    for folder in (tmp_path, tmp_path / "in"):
        (folder / "precious").mkdir()
        (folder / "precious/thesis.txt").write_text(folder.name)
    record = json.loads((part / "batch.jsonl").read_text())
    state = "done" if field in ("study", "ended") else "failed"
    with (part / "batch.jsonl").open("a") as file:
        file.write(json.dumps(record | {"study": "bert", "source": "b", "state": state, field: value}) + "\n")
    with pytest.raises(OutputError, match=rf"batch\.jsonl: line 2 is not a record \({field}\)"):
        merge_batches([part], out)
    assert not out.exists()
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["thesis.txt"]
    assert (tmp_path / "precious/thesis.txt").read_text() == tmp_path.name


def test_record_of_a_name_in_other_letters_is_merged(scan, tmp_path):
    """spinemets makes no such names itself; whoever calls it from Python may."""
    planned = [replace(plan_batch([scan])[0], key="Петров Иван")]
    run_planned(planned, tmp_path / "part", Fails())
    assert merge_batches([tmp_path / "part"], tmp_path / "merged") == 1
    assert read_records(tmp_path / "merged") == read_records(tmp_path / "part")
    assert (tmp_path / "merged/logs/Петров Иван.log").is_file()


def test_study_that_moved_is_merged_with_what_it_was_and_with_what_it_becomes(scan, truth, tmp_path):
    part, merged = tmp_path / "part", tmp_path / "merged"
    path = tmp_path / "moved/anna.nii.gz"
    run_planned(plan_batch([scan]), part, TruthSegmenter(truth))
    merge_batches([part], merged)
    scan.parent.rename(path.parent)
    for _ in range(2):
        (record,) = run_planned(plan_batch([path]), part, TruthSegmenter(truth))
        assert record.state is State.DONE
        merge_batches([part], merged)
        assert read_records(merged) == read_records(part)
        healthy_scan(path, truth)


@pytest.mark.parametrize(
    "place",
    ["anna", "anna/report.json", "anna/bids", "earlier", "logs", "logs/bert.log", "private", "private/salt",
     "private/studies.csv", "batch.jsonl"],
)  # fmt: skip
def test_link_within_a_folder_is_not_merged(scan, truth, tmp_path, place):
    part, out, secret = tmp_path / "part", tmp_path / "merged", tmp_path / "secret"
    run_listed({"anna": scan, "bert": tmp_path / "none"}, part, TruthSegmenter(truth))
    (part / "earlier/bert").mkdir(parents=True)
    (part / "anna/bids").mkdir()
    lines = (part / "batch.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    changed[1]["earlier"] = "earlier/bert"
    (part / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    # What lies behind the link is what lay there, so that nothing else is amiss, and a word more.
    (part / place).rename(secret)
    if secret.is_dir():
        (secret / "thesis.txt").write_text("secret")
    (part / place).symlink_to(secret)
    with pytest.raises(UnsupportedInputError, match=rf"{place}: is a symbolic link"):
        merge_batches([part], out)
    assert not list(out.rglob("*thesis*"))
    assert not [path for path in out.rglob("*") if path.is_symlink() or path.name.endswith(".part")]


def test_result_folder_that_holds_no_plain_files_is_not_merged(scan, truth, tmp_path):
    part = tmp_path / "part"
    run_planned(plan_batch([scan]), part, TruthSegmenter(truth))
    os.mkfifo(part / "anna/pipe")
    with pytest.raises(UnsupportedInputError, match=r"anna/pipe: is no plain file"):
        merge_batches([part], tmp_path / "merged")


def test_folder_without_the_log_of_a_failure_is_merged(scan, tmp_path):
    part = tmp_path / "part"
    run_planned(plan_batch([scan]), part, Fails())
    shutil.rmtree(part / "logs")
    assert merge_batches([part], tmp_path / "merged") == 1
    assert read_records(tmp_path / "merged")["anna"].log == ""
