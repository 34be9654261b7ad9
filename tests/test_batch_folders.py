"""What a batch leaves in its output folder: no archive's files, and no result of a run that failed."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from batch_faults import LEAN, Silent, run_planned
from dicom_files import noise, write_classic
from planted import planted_truth, write_planted_study
from spinemets.batch import (
    BatchRecord,
    Limits,
    ModelSource,
    RecordBook,
    State,
    merge_batches,
    plan_batch,
    read_records,
    run_batch,
    settle_names,
    stamp_of,
    what_to_do,
)
from spinemets.batch.folders import scratch_folder
from spinemets.batch.planning import PlannedStudy
from spinemets.batch.redaction import redact_message
from spinemets.errors import (
    NoUsableInputError,
    OutOfMemoryError,
    OutputError,
    UnsupportedInputError,
    WorkerError,
)
from standins import TruthSegmenter, models_for, table_rows, without_lesions, write_scan


class Fails:
    """A network that never ends well."""

    def segment(self, _study):
        raise WorkerError("killed")


class Looks(TruthSegmenter):
    """Remembers what lies hidden in the output folder when a study is segmented."""

    def __init__(self, truth, out: Path, error: Exception | None = None) -> None:
        super().__init__(truth)
        self._out, self._error = out, error
        self.seen: list[int] = []

    def segment(self, study):
        self.seen.append(len(list(self._out.glob(".*.part"))))
        if self._error is not None:
            raise self._error
        return super().segment(study)


@pytest.fixture
def scan(tmp_path, truth):
    return write_scan(tmp_path / "in/anna.nii.gz", truth)


def pack(path: Path, *files: Path, below: str = "exam") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, f"{below}/{file.name}")
    return path


@pytest.fixture
def archives(tmp_path, scan):
    return [pack(tmp_path / f"zip{number}.zip", scan) for number in range(3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_archive_is_unpacked_for_its_own_study_only(archives, truth, tmp_path, temporary, workers):
    out = tmp_path / "out"
    segmenter = Looks(truth, out)
    records = run_planned(plan_batch(archives), out, segmenter, limits=Limits(workers))
    assert [record.state for record in records] == [State.DONE] * 3
    if workers == 0:
        assert segmenter.seen == [1, 1, 1]
    assert list(temporary.glob("spinemets-*")) == []
    assert list(out.glob(".*")) == []
    watcher = Silent()
    run_planned(plan_batch(archives), out, segmenter, watcher=watcher)
    assert watcher.events == [], "an archive that has not changed is not done again"


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_of_an_archive_is_left_when_its_study_fails(archives, truth, tmp_path, temporary, workers):
    out = tmp_path / "out"
    segmenter = Looks(truth, out, OutOfMemoryError("no room"))
    records = run_planned(plan_batch(archives), out, segmenter, limits=Limits(workers))
    assert [record.state for record in records] == [State.FAILED] * 3
    if workers == 0:
        assert segmenter.seen == [1, 1, 1], "one study's files at a time"
    assert list(temporary.glob("spinemets-*")) == []
    assert list(out.glob(".*")) == []


def test_nothing_of_an_archive_is_left_when_the_run_is_interrupted(archives, truth, tmp_path, temporary):
    with pytest.raises(KeyboardInterrupt):
        run_planned(plan_batch(archives), tmp_path / "out", Looks(truth, tmp_path, KeyboardInterrupt()))
    assert list(temporary.glob("spinemets-*")) == []
    assert list((tmp_path / "out").glob(".*")) == []


def test_what_a_killed_run_left_of_an_archive_is_removed_by_the_next(archives, truth, tmp_path):
    out = tmp_path / "out"
    (scratch_folder(out, "zip0") / "exam").mkdir(parents=True)
    (scratch_folder(out, "zip1") / "exam").mkdir(parents=True)
    run_planned(plan_batch(archives[:1]), out, TruthSegmenter(truth))
    assert list(out.glob(".*")) == []


def test_an_archive_whose_content_changed_is_done_again(archives, scan, truth, tmp_path):
    run_planned(plan_batch(archives), tmp_path / "out", TruthSegmenter(truth))
    content = bytearray(scan.read_bytes())
    content[4] ^= 1  # The time in gzip's head: the same image, another file.
    scan.write_bytes(content)
    pack(archives[1], scan)
    watcher = Silent()
    run_planned(plan_batch(archives), tmp_path / "out", TruthSegmenter(truth), watcher=watcher)
    assert [study for _, study in watcher.events] == ["zip1"] * 4


def test_dicom_objects_are_written_of_an_archived_study(tmp_path):
    truth = planted_truth()
    study = write_planted_study(tmp_path / "in", truth)
    path = pack(tmp_path / "study.zip", *sorted(file for file in study.rglob("*.dcm")))
    config = LEAN.model_copy(update={"report": LEAN.report.model_copy(update={"formats": ("dicom-seg",)})})
    (record,) = run_planned(plan_batch([path]), tmp_path / "out", TruthSegmenter(truth), config)
    assert record.state is State.DONE, record.reason
    assert (tmp_path / "out" / record.study / "dicom/levels.seg.dcm").is_file()


def test_folders_within_an_archive_are_hidden_in_messages(tmp_path, scan):
    path = pack(tmp_path / "e.zip", scan, below="DOE JANE 1960/T2")
    with RecordBook(tmp_path / "out") as book:
        (study,) = settle_names(plan_batch([path]), book, "hash")
    place = scratch_folder(tmp_path / "out", study.key)
    told = redact_message(f"[Errno 2] No such file: '{place}/DOE JANE 1960/T2/anna.nii.gz'", study)
    assert not any(word in told for word in ("DOE", "JANE", "1960", "anna"))


def test_names_of_dicom_files_are_hidden_in_messages(tmp_path):
    paths = write_classic(tmp_path / "in", noise(), tags={"PatientName": "Li^Wei", "PatientID": "8"})
    named = [path.rename(path.with_name(f"LiWei_1.2.840.7.{place}.dcm")) for place, path in enumerate(paths)]
    with RecordBook(tmp_path / "out") as book:
        (study,) = settle_names(plan_batch([tmp_path / "in"]), book, "hash")
    told = redact_message(f"{named[3].name}: its pixels cannot be decoded; 3 of 15 slices", study)
    assert told == "[hidden]: its pixels cannot be decoded; 3 of 15 slices"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("ct", "modality CT; only MR is analysed", None),
        ("L5", "largest at L5", None),
        ("T2_sag", "no T2_sag", "no [hidden]"),
        ("T2", "second T2 series; series 3 (T2 sagittal) is used", None),
        ("series", "no sagittal series: the axial one is used", None),
        ("ct", "ct: no usable series (2 slices; at least 5 are needed)", "[hidden]: no usable series (2 sl"),
        ("ct", "NoUsableInputError: ct: no usable series", "NoUsableInputError: [hidden]: no usable"),
        ("ct", "no image is in ct.zip or 'ct'", "no image is in [hidden].zip or '[hidden]'"),
        ("Li", "Li: modality CT; as Li says, only MR", "[hidden]: modality CT; as [hidden] says, only MR"),
        ("T2_Jane", "T2_Jane is a T2 series", "[hidden] is a T2 series"),
        ("4711", "4711 is no study", "[hidden] is no study"),
    ],
)
def test_names_of_own_words_hide_no_word_of_a_sentence(tmp_path, name, text, told):
    study = PlannedStudy("k", tmp_path / name, NoUsableInputError(""), hidden_source="source")
    assert redact_message(text, study).startswith(told or text)
    path = f"{tmp_path / name}/{name}"
    assert redact_message(f"{path}: no usable series", study) == "[hidden]: no usable series"


@pytest.mark.parametrize(
    ("below", "told"),
    [
        ("/DOE JANE/x.dcm: damaged", "[hidden]: damaged"),
        ("/A/DOE JANE.nii.gz: damaged", "[hidden]: damaged"),
        ("/DOE JANE/B C/anna li.dcm: 3 of 4", "[hidden]: 3 of 4"),
        ("/x.dcm is damaged", "[hidden] is damaged"),
        (" is empty: no study", "[hidden] is empty: no study"),
    ],
)
def test_names_with_spaces_below_an_unread_folder_are_hidden(tmp_path, below, told):
    study = PlannedStudy("k", tmp_path / "in", NoUsableInputError(""), hidden_source="source")
    assert redact_message(f"{tmp_path / 'in'}{below}", study) == told


def test_a_patient_s_identifier_that_is_a_level_hides_no_level(tmp_path):
    truth = planted_truth()
    study = write_planted_study(tmp_path / "in", truth)
    for path in study.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "L2"
        dataset.save_as(path)
    planned = plan_batch([tmp_path / "in"])
    (record,) = run_planned(planned, tmp_path / "out", TruthSegmenter(truth))
    assert record.state is State.DONE, record.reason
    (finding,) = table_rows(tmp_path / "out/findings.csv")
    assert finding["level"] == "L2"
    assert "L2" in table_rows(tmp_path / "out/summary.csv")[0]["levels_seen"].split()


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


def healthy_scan(path: Path, truth) -> Path:
    """A scan whose content is no other one's of the tests."""
    return write_scan(path, without_lesions(truth))


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


def test_newest_record_counts_whatever_folder_is_merged_first(scan, truth, tmp_path):
    run_planned(plan_batch([scan]), tmp_path / "old", TruthSegmenter(truth))
    run_planned(plan_batch([scan]), tmp_path / "new", Fails())
    for number, order in enumerate((("old", "new"), ("new", "old"))):
        merged = tmp_path / f"merged{number}"
        merge_batches([tmp_path / name for name in order], merged)
        assert table_rows(merged / "summary.csv")[0]["state"] == "failed"
        assert not (merged / "anna").exists()


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


def run_listed(rows: dict[str, Path], out: Path, segmenter) -> list[BatchRecord]:
    """Run a manifest with hashed names, as the command does."""
    manifest = out.with_suffix(".csv")
    manifest.write_text("study,path\n" + "".join(f"{name},{path}\n" for name, path in rows.items()))
    config = LEAN.model_copy(update={"report": LEAN.report.model_copy(update={"identifiers": "hash"})})
    with RecordBook(out) as book:
        studies = settle_names(plan_batch([manifest]), book, "hash")
        todo = what_to_do(studies, book.records, out, lambda study: stamp_of(study, "0" * 64, config))
        model = ModelSource("0" * 64, lambda: models_for(segmenter))
        return list(run_batch(todo, book, model, config, Silent()))


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
