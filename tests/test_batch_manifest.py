"""Batches from manifests, in shards, and merged again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from batch_faults import LEAN, Silent, run_planned
from batch_results import results
from spinemets.batch import Shard, State, manifest_text, merge_batches, plan_batch
from spinemets.batch.manifest import read_manifest
from spinemets.errors import ConfigError, NoUsableInputError, OutputError, SpinemetsError
from standins import TruthSegmenter, healthy_scan, table_rows, write_scan

NAMES = [f"case{number}" for number in range(8)]


@pytest.fixture(scope="module")
def scans(tmp_path_factory, truth):
    folder = tmp_path_factory.mktemp("scans")
    source = write_scan(folder / f"{NAMES[0]}.nii.gz", truth)
    for name in NAMES[1:]:
        (folder / f"{name}.nii.gz").hardlink_to(source)
    return folder


@pytest.fixture
def manifest(scans, tmp_path):
    lines = ["study,path,ward", *(f"{name.upper()},{scans / name}.nii.gz,w{name[-1]}" for name in NAMES)]
    path = tmp_path / "list.csv"
    path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_manifest_names_the_studies_and_its_columns_reach_the_summary(manifest, truth, tmp_path):
    planned = plan_batch([manifest])
    assert [study.key for study in planned] == [name.upper() for name in NAMES]
    run_planned(planned[:2], tmp_path / "out", TruthSegmenter(truth))
    summary = table_rows(tmp_path / "out/summary.csv")
    assert [(row["study"], row["ward"]) for row in summary] == [("CASE0", "w0"), ("CASE1", "w1")]


def test_parquet_manifest_and_tables_hold_what_the_csv_ones_do(manifest, truth, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {name: [row[name] for row in table_rows(manifest)[:2]] for name in ("path", "ward")}
    )
    table = table.append_column("study", [["ONE", "TWO"]])
    parquet.write_table(table, tmp_path / "list.parquet")
    planned = plan_batch([tmp_path / "list.parquet"])
    assert [(study.key, study.columns["ward"]) for study in planned] == [("ONE", "w0"), ("TWO", "w1")]
    run_planned(planned, tmp_path / "out", TruthSegmenter(truth))
    for name in ("summary", "findings"):
        typed = parquet.read_table(tmp_path / f"out/{name}.parquet").to_pylist()
        written = table_rows(tmp_path / f"out/{name}.csv")
        assert len(typed) == len(written) > 0
        for one, other in zip(typed, written, strict=True):
            assert {k: "" if v is None else str(v) for k, v in one.items()} == other


def test_parquet_tables_have_the_same_types_whatever_they_hold(scans, truth, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "none.csv").write_text("study,path\nnone,none.nii.gz\n")
    run_planned(plan_batch([tmp_path / "none.csv"]), tmp_path / "none", TruthSegmenter(truth))
    run_planned(plan_batch([scans / "case0.nii.gz"]), tmp_path / "one", TruthSegmenter(truth))
    for name in ("summary", "findings"):
        none, one = (parquet.read_schema(tmp_path / f"{run}/{name}.parquet") for run in ("none", "one"))
        assert none == one
        assert "null" not in map(str, one.types)
    assert str(one.field("instance_number").type) == "int64"
    assert str(one.field("needs_review").type) == "bool"


def test_relative_paths_are_those_beside_the_manifest(scans):
    path = scans / "relative.csv"
    path.write_text("path,study\ncase3.nii.gz,three\n")
    (study,) = plan_batch([path])
    path.unlink()
    assert study.source == scans / "case3.nii.gz"
    assert not isinstance(study.found, SpinemetsError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,path\na,b\n", "no column 'study'"),
        ("study,path,state\na,b,c\n", "'state' is one of summary.csv's own"),
        ("study,path\na,\n", "row 1 names no path"),
        ("study,path\n,a\n", "row 1 names no study"),
        ("study,path\na,b,c\n", "more values"),
        ("name;path\na;b\n", "no column 'study'"),
        ("study;path\na;b;c\n", "more values"),
        ("study,path\n", "lists no study"),
        ("study;path\n\n", "lists no study"),
        ("", "is empty"),
        ("\n", "is empty"),
    ],
)
def test_manifest_that_is_none_is_refused_with_its_fault(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_manifest(path)


@pytest.mark.parametrize("mark", [",", ";"])
def test_manifest_may_have_commas_or_semicolons(tmp_path, mark):
    path = tmp_path / "list.csv"
    path.write_text(
        mark.join(["study", "path", '"a,b;c"']) + "\n" + mark.join(["x", '"y,z;.nii"', "1"]) + "\n"
    )
    (row,) = read_manifest(path)
    assert (row.study, row.path, row.columns) == ("x", tmp_path / "y,z;.nii", {"a,b;c": "1"})


def test_parquet_manifest_without_rows_says_so(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        pyarrow.table({"study": pyarrow.array([], "string"), "path": pyarrow.array([], "string")}),
        tmp_path / "list.parquet",
    )
    with pytest.raises(ConfigError, match="lists no study"):
        read_manifest(tmp_path / "list.parquet")


def test_study_that_is_named_twice_costs_its_second_row_only(manifest, scans, truth, tmp_path):
    with manifest.open("a") as stream:
        stream.write(f"case0,{scans / 'case5.nii.gz'},w\n")
    planned = plan_batch([manifest])
    assert len({study.key.casefold() for study in planned}) == 9
    records = run_planned([planned[0], planned[-1]], tmp_path / "out", TruthSegmenter(truth))
    assert [record.state for record in records] == [State.DONE, State.FAILED]
    assert "a second time" in records[1].reason


def test_row_of_a_folder_takes_the_study_of_its_name(scans, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"study,path\ncase2,{scans}\nnobody,{scans}\nabsent,{scans / 'absent'}\n")
    two, nobody, absent = plan_batch([path])
    assert two.found.source == scans / "case2.nii.gz"
    assert isinstance(nobody.found, NoUsableInputError)
    assert isinstance(absent.found, NoUsableInputError)


def test_written_manifest_plans_the_same_studies(scans, tmp_path):
    from spinemets.batch_command import write_manifest

    planned = plan_batch([scans])
    write_manifest(tmp_path / "list.csv", planned, tmp_path / "out", "keep")
    again = plan_batch([tmp_path / "list.csv"])
    assert [(study.key, study.source) for study in again] == [(study.key, study.source) for study in planned]
    assert manifest_text(read_manifest(tmp_path / "list.csv")) == (tmp_path / "list.csv").read_text()


def test_bids_sessions_are_studies_named_by_subject_and_session(truth, tmp_path):
    for name in ("sub-01_ses-a_T1w", "sub-01_ses-a_T2w", "sub-01_ses-b_T1w", "sub-01_ses-b_T2w"):
        subject, session, _ = name.split("_")
        write_scan(tmp_path / f"bids/{subject}/{session}/anat/{name}.nii.gz", truth)
    assert {study.key for study in plan_batch([tmp_path / "bids"])} == {"sub-01_ses-a", "sub-01_ses-b"}


def test_shards_part_the_studies_the_same_way_for_folders_and_manifests(scans, manifest):
    whole = {study.key for study in plan_batch([scans])}
    parts = [{study.key for study in plan_batch([scans], shard=Shard(i, 3))} for i in (1, 2, 3)]
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    for number, part in enumerate(parts, start=1):
        held = {study.key for study in plan_batch([scans / "case0.nii.gz", scans], shard=Shard(number, 3))}
        assert held == part
    listed = [study.key for i in (1, 2) for study in plan_batch([manifest], shard=Shard(i, 2))]
    assert sorted(listed) == sorted(name.upper() for name in NAMES)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="shard"):
        Shard.parse(text)


def test_four_shards_merged_equal_one_whole_run(scans, truth, tmp_path):
    (scans / "broken.nii.gz").write_bytes(b"\x1f\x8b no image")
    run_planned(plan_batch([scans]), tmp_path / "whole", TruthSegmenter(truth))
    parts = [tmp_path / f"shard{i}" for i in (1, 2, 3, 4)]
    for number, part in enumerate(parts, start=1):
        run_planned(plan_batch([scans], shard=Shard(number, 4)), part, TruthSegmenter(truth))
    (scans / "broken.nii.gz").unlink()
    assert merge_batches(parts, tmp_path / "merged") == 9
    whole = results(tmp_path / "whole")
    assert results(tmp_path / "merged") == whole
    assert merge_batches([*parts, tmp_path / "merged"], tmp_path / "merged") == 9
    assert results(tmp_path / "merged") == whole


def test_merging_takes_up_what_was_done_since(scans, truth, tmp_path):
    broken = tmp_path / "in/late.nii.gz"
    broken.parent.mkdir()
    broken.write_bytes(b"\x1f\x8b no image")
    run_planned(plan_batch([broken]), tmp_path / "part", TruthSegmenter(truth))
    merge_batches([tmp_path / "part"], tmp_path / "merged")
    broken.unlink()
    broken.hardlink_to(scans / "case0.nii.gz")
    run_planned(plan_batch([broken]), tmp_path / "part", TruthSegmenter(truth))
    merge_batches([tmp_path / "part"], tmp_path / "merged")
    (row,) = table_rows(tmp_path / "merged/summary.csv")
    assert row["state"] == "done"
    assert json.loads((tmp_path / "merged/late/report.json").read_text())["findings"]


def test_merging_two_studies_of_one_name_is_refused(truth, tmp_path):
    for name, write in (("a", write_scan), ("b", healthy_scan)):
        scan = write(tmp_path / name / "T2.nii.gz", truth)
        run_planned(plan_batch([scan]), tmp_path / f"out_{name}", TruthSegmenter(truth))
    with pytest.raises(OutputError, match="another place"):
        merge_batches([tmp_path / "out_a", tmp_path / "out_b"], tmp_path / "merged")


def test_folder_without_records_is_not_merged(tmp_path):
    with pytest.raises(NoUsableInputError, match=r"holds no batch\.jsonl"):
        merge_batches([tmp_path], tmp_path / "merged")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("nothing", ""),
        ("input", "another input"),
        ("model", "another model"),
        ("settings", "other settings"),
        ("device", ""),
        ("folder", "its results are gone"),
        ("again", "asked for"),
    ],
)
def test_only_what_changed_is_done_again_and_the_reason_is_told(truth, tmp_path, caplog, change, why):
    scan = write_scan(tmp_path / "in/anna.nii", truth)
    run_planned(plan_batch([scan]), tmp_path / "out", TruthSegmenter(truth))
    config, options = LEAN, {}
    if change == "input":
        content = bytearray(scan.read_bytes())
        content[-1] ^= 1
        scan.write_bytes(content)
    elif change == "model":
        options["sha256"] = "1" * 64
    elif change == "settings":
        config = LEAN.model_copy(update={"lesions": LEAN.lesions.model_copy(update={"threshold": 0.123})})
    elif change == "device":
        config = LEAN.model_copy(
            update={"segmentation": LEAN.segmentation.model_copy(update={"device": "cuda:3"})}
        )
    elif change == "folder":
        (tmp_path / "out/anna").rename(tmp_path / "elsewhere")
    elif change == "again":
        options["again"] = "all"
    watcher = Silent()
    with caplog.at_level("INFO", logger="spinemets.batch"):
        run_planned(plan_batch([scan]), tmp_path / "out", TruthSegmenter(truth), config, watcher, **options)
    assert bool(watcher.events) == bool(why)
    assert (f"anna: {why}" in caplog.messages) == bool(why)


def test_failed_study_is_taken_up_again_only_when_asked(truth, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8b no image")
    for again, tried in (("changed", True), ("changed", False), ("failed", True)):
        watcher = Silent()
        records = run_planned(
            plan_batch([broken]), tmp_path / "out", TruthSegmenter(truth), watcher=watcher, again=again
        )
        assert bool(watcher.events) == tried
        assert [record.state for record in records] == [State.FAILED]


def test_slurm_task_runs_its_shard_with_a_worker_less_than_its_processors(tmp_path):
    stub = tmp_path / "bin/spinemets"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "4"}
    given = {"MANIFEST": "my list.csv", "OUT": "out", "SPINEMETS_OPTIONS": "--timeout 60"}
    path = {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    script = Path(__file__).resolve().parents[1] / "scripts/slurm/detect_array.sbatch"
    done = subprocess.run(
        ["bash", script], env=task | given | path, capture_output=True, text=True, check=True
    )
    told = "detect my list.csv -o out/shards/3 --shard 3/8 --salt out/private/salt --workers 3 --timeout 60\n"
    assert done.stdout == told
