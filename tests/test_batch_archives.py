"""Studies in archives: a batch unpacks each for itself alone and leaves nothing of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from batch_faults import LEAN, Silent, run_planned
from planted import planted_truth, write_planted_study
from spinemets.batch import Limits, RecordBook, State, plan_batch, settle_names
from spinemets.batch.folders import scratch_folder
from spinemets.batch.redaction import redact_message
from spinemets.errors import OutOfMemoryError
from standins import TruthSegmenter


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
