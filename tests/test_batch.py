"""A batch ends every study as done, failed or skipped, and leaves whole results only."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spinemets.anatomy import VertebralLevel
from spinemets.batch import (
    Limits,
    ModelSource,
    RecordBook,
    State,
    plan_batch,
    run_batch,
    stamp_of,
    study_key,
    what_to_do,
)
from spinemets.batch.names import is_study_name
from spinemets.config import DetectionConfig, ReportConfig
from spinemets.errors import GeometryError, NoUsableInputError, OutputError
from spinemets.io import VERSE_LABELS
from standins import TruthSegmenter, models_for, table_rows, write_scan

# Pictures and pages have tests of their own.
LEAN = DetectionConfig(report=ReportConfig(formats=("json", "nifti")))


class Silent:
    """A watcher that remembers the order of events."""

    def __init__(self):
        self.events = []

    def moved(self, study, stage):
        self.events.append((stage.value, study.key))

    def ended(self, record, _lines):
        self.events.append((record.state.value, record.study))


class FailsOn(TruthSegmenter):
    """Raises for the n-th study, from 1."""

    def __init__(self, truth, turn, error):
        super().__init__(truth)
        self._turns = iter(range(1, 100))
        self._turn, self._error = turn, error

    def segment(self, study):
        if next(self._turns) == self._turn:
            raise self._error
        return super().segment(study)


@pytest.fixture(scope="module")
def scans(tmp_path_factory, truth):
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder / f"{name}.nii.gz", truth) for name in ("anna", "bert", "cleo")]


def run_planned(
    studies, out, segmenter, config=LEAN, watcher=None, workers=0, again="changed", sha256="0" * 64
):
    with RecordBook(out) as book:
        todo = what_to_do(studies, book.records, out, lambda study: stamp_of(study, sha256, config), again)
        source = ModelSource(sha256, partial(models_for, segmenter))
        return run_batch(todo, book, source, config, watcher or Silent(), Limits(workers))


def run(inputs, *arguments, **options):
    return run_planned(plan_batch(inputs), *arguments, **options)


def test_single_study_gets_a_folder_of_its_own(scans, truth, tmp_path):
    (outcome,) = run(scans[:1], tmp_path / "out", TruthSegmenter(truth))
    assert outcome.state is State.DONE
    files = {path.name for path in (tmp_path / "out/anna").iterdir()}
    assert {"report.json", "levels.nii.gz", "anatomy.nii.gz", "lesions.nii.gz", "levels.json"} <= files
    written = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".parquet"}
    assert written == {"anna", "batch.jsonl", "findings.csv", "index.html", "summary.csv"}


def test_label_maps_lie_on_the_source_grid_with_the_reports_numbers(scans, truth, tmp_path):
    run(scans[:1], tmp_path, TruthSegmenter(truth))
    source = nibabel.load(scans[0])
    report = json.loads((tmp_path / "anna/report.json").read_text())
    for name in ("levels", "anatomy", "lesions"):
        image = nibabel.load(tmp_path / f"anna/{name}.nii.gz")
        assert image.shape == source.shape
        assert np.allclose(image.affine, source.affine, atol=1e-4)
        labels = json.loads((tmp_path / f"anna/{name}.json").read_text())["labels"]
        assert set(np.unique(image.dataobj)) - {0} <= {int(number) for number in labels}
    levels = set(np.unique(nibabel.load(tmp_path / "anna/levels.nii.gz").dataobj)) - {0}
    assert levels == {VERSE_LABELS[VertebralLevel(entry["level"])] for entry in report["levels"]}
    lesions = np.asarray(nibabel.load(tmp_path / "anna/lesions.nii.gz").dataobj)
    voxel_mm3 = abs(np.linalg.det(source.affine[:3, :3]))
    for finding in report["findings"]:
        measured = (lesions == finding["lesion"]).sum() * voxel_mm3
        assert measured == pytest.approx(finding["volume_mm3"], rel=1e-3)


def test_tables_agree_with_the_report(scans, truth, tmp_path):
    run(scans[:1], tmp_path, TruthSegmenter(truth))
    report = json.loads((tmp_path / "anna/report.json").read_text())
    (summary,) = table_rows(tmp_path / "summary.csv")
    assert (summary["study"], summary["state"]) == ("anna", "done")
    assert int(summary["lesions"]) == len(report["findings"]) == 2
    assert summary["levels_seen"].split() == [entry["level"] for entry in report["levels"]]
    for row, finding in zip(table_rows(tmp_path / "findings.csv"), report["findings"], strict=True):
        assert row["compartment"] == finding["compartment"]
        assert row["level"] == finding["level"]
        assert float(row["volume_mm3"]) == finding["volume_mm3"]


def test_a_missing_picture_s_caution_is_in_the_summary_too(scans, truth, tmp_path, monkeypatch):
    def fail(_scene):
        raise ValueError("zero-size array to reduction operation")

    monkeypatch.setattr("spinemets.reporting.overlays.draw_overview", fail)
    config = DetectionConfig(report=ReportConfig(formats=("json", "png")))
    run(scans[:1], tmp_path, TruthSegmenter(truth), config)
    cautions = json.loads((tmp_path / "anna/report.json").read_text())["cautions"]
    (summary,) = table_rows(tmp_path / "summary.csv")
    assert "The overview could not be drawn." in cautions
    assert summary["caution_texts"].split(" | ") == cautions
    assert int(summary["cautions"]) == len(cautions)


def test_reading_is_among_the_timings(scans, truth, tmp_path):
    run(scans[:1], tmp_path, TruthSegmenter(truth))
    timings = json.loads((tmp_path / "anna/report.json").read_text())["provenance"]["timings_s"]
    assert list(timings)[:2] == ["reading", "segmentation"]


@pytest.mark.parametrize("error", [GeometryError("1 slice is missing"), RuntimeError("broken")])
def test_bad_study_does_not_stop_the_others(scans, truth, tmp_path, error):
    watcher = Silent()
    outcomes = run(scans, tmp_path, FailsOn(truth, 2, error), watcher=watcher)
    assert [outcome.state for outcome in outcomes] == [State.DONE, State.FAILED, State.DONE]
    assert outcomes[1].error == type(error).__name__
    assert [row["state"] for row in table_rows(tmp_path / "summary.csv")] == ["done", "failed", "done"]
    assert str(error) in table_rows(tmp_path / "summary.csv")[1]["reason"]
    assert not (tmp_path / "bert").exists()
    assert watcher.events[4:7] == [("reading", "bert"), ("network", "bert"), ("failed", "bert")]


def test_traceback_of_an_unexpected_error_is_kept_and_shown_only_on_demand(scans, truth, tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, logger="spinemets"):
        run(scans[:1], tmp_path, FailsOn(truth, 1, RuntimeError("broken")))
    (told,) = [record for record in caplog.records if "RuntimeError: broken" in record.getMessage()]
    assert told.levelno == logging.DEBUG
    assert "RuntimeError: broken" in (tmp_path / "logs/anna.log").read_text()


def test_failure_while_writing_leaves_nothing_half_done(scans, truth, tmp_path, monkeypatch):
    def no_room(*_arguments):
        raise OutputError("no room")

    monkeypatch.setattr("spinemets.results.write_report", no_room)
    (outcome,) = run(scans[:1], tmp_path, TruthSegmenter(truth))
    assert outcome.state is State.FAILED
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["logs"]
    assert not list(tmp_path.glob(".*"))


def test_rerun_replaces_an_earlier_result(scans, truth, tmp_path):
    run(scans[:1], tmp_path, TruthSegmenter(truth))
    (tmp_path / "anna/old.txt").write_text("old")
    (outcome,) = run(scans[:1], tmp_path, TruthSegmenter(truth), again="all")
    assert outcome.state is State.DONE
    assert not (tmp_path / "anna/old.txt").exists()


def test_folder_that_is_no_result_is_never_replaced(truth, tmp_path):
    scan = write_scan(tmp_path / "anna/t2.nii.gz", truth)
    study = replace(plan_batch([scan])[0], key="anna")
    (outcome,) = run_planned([study], tmp_path, TruthSegmenter(truth))
    assert outcome.error == "OutputError"
    assert scan.is_file()


def test_results_among_the_inputs_are_not_analysed(truth, tmp_path):
    write_scan(tmp_path / "anna.nii.gz", truth)
    everything = LEAN.model_copy(
        update={"report": LEAN.report.model_copy(update={"save_probabilities": True})}
    )
    run([tmp_path], tmp_path / "out", TruthSegmenter(truth), everything)
    assert [study.key for study in plan_batch([tmp_path])] == ["anna"]
    (only_results,) = plan_batch([tmp_path / "out"])
    assert "results of spinemets only" in str(only_results.found)


def test_unreadable_input_fails_alone(scans, truth, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8b not an image")
    outcomes = run([broken, scans[0]], tmp_path / "out", TruthSegmenter(truth))
    assert [outcome.state for outcome in outcomes] == [State.FAILED, State.DONE]
    assert outcomes[0].error == "UnreadableFileError"


def test_named_input_without_any_image_fails(scans, truth, tmp_path):
    (tmp_path / "empty").mkdir()
    outcomes = run([tmp_path / "empty", scans[0]], tmp_path / "out", TruthSegmenter(truth))
    assert [outcome.state for outcome in outcomes] == [State.FAILED, State.DONE]


def test_study_without_usable_series_is_skipped(truth, scans, tmp_path, monkeypatch):
    def nothing(_listing, _config):
        raise NoUsableInputError("only localisers")

    planned = plan_batch(scans[:1])
    monkeypatch.setattr("spinemets.batch.stages.read_study", nothing)
    (outcome,) = run_planned(planned, tmp_path, TruthSegmenter(truth))
    assert (outcome.state, outcome.reason) == (State.SKIPPED, "only localisers")


def test_interrupted_batch_keeps_the_table_of_what_was_done(scans, truth, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(scans, tmp_path, FailsOn(truth, 2, KeyboardInterrupt()))
    assert [row["study"] for row in table_rows(tmp_path / "summary.csv")] == ["anna"]
    assert not list(tmp_path.glob(".*"))


def test_output_that_cannot_be_made_stops_the_batch_before_any_work(scans, truth, tmp_path):
    (tmp_path / "file").write_text("")
    watcher = Silent()
    with pytest.raises(OutputError):
        run(scans, tmp_path / "file/out", TruthSegmenter(truth), watcher=watcher)
    assert watcher.events == []


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("scan.nii.gz", "scan"),
        ("a/b/Scan.NII", "Scan"),
        ("a/sub-01_ses-2", "sub-01_ses-2"),
        ("exam.v2", "exam.v2"),
        ("Ünï/ö ß.mha", "study"),
        ("../..hidden.zip", "hidden"),
        ("x" * 300, "x" * 80),
        ("a/Logs", "study_Logs"),
        ("private.zip", "study_private"),
    ],
)
def test_key_is_a_safe_folder_name(source, key):
    assert study_key(Path(source)) == key
    assert is_study_name(key)


def test_studies_of_one_name_get_different_keys_in_any_order(tmp_path, truth):
    one, two = write_scan(tmp_path / "1/T2.nii.gz", truth), write_scan(tmp_path / "2/t2.nii.gz", truth)
    keys = {study.source: study.key for study in plan_batch([one, two])}
    assert len({key.casefold() for key in keys.values()}) == 2
    assert {study.source: study.key for study in plan_batch([two, one])} == keys


def test_studies_of_one_folder_are_told_apart_by_their_description(tmp_path, truth):
    for name in ("case01_T1", "case01_T2", "case02_T1", "case02_T2"):
        write_scan(tmp_path / f"ward/{name}.nii.gz", truth)
    assert {study.key for study in plan_batch([tmp_path / "ward"])} == {"ward_case01", "ward_case02"}


def test_same_input_twice_is_one_study(scans):
    assert len(plan_batch([scans[0], scans[0]])) == 1


def test_planned_problem_keeps_its_error(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (study,) = plan_batch([empty])
    assert (study.key, study.source) == ("empty", empty)
    assert isinstance(study.found, NoUsableInputError)
