"""Of a study in an archive nothing is left behind, nor when it fails or a command is killed."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest

from killed_commands import command_and_be_killed, copy_and_be_killed, exit_code_of
from planted import KEY, identifiers, leaks, write_planted_archive
from spinemets.batch import deidentified, plan_batch
from spinemets.batch.folders import remove_scratch
from spinemets.cli import main
from spinemets.config import DeidentificationConfig
from spinemets.exit_codes import INTERRUPTED


def test_archived_study_is_copied_and_analysed_without_a_trace(call, inputs, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path = write_planted_archive(tmp_path / "in/Kowalczyk.zip", inputs.study)
    detected = call(
        "detect", path, "-o", tmp_path / "out", "--deidentify", "--formats", "json,dicom-seg", "-vv"
    )  # fmt: skip
    copied = call("deidentify", path, "-o", tmp_path / "copies")
    assert (detected[0], copied[0]) == (0, 0), detected[1] + copied[1]
    assert list(tmp_path.glob("out/*/dicom/levels.seg.dcm"))
    written = [tmp_path / "out", tmp_path / "copies"]
    assert leaks(written, identifiers(), detected[1] + copied[1]) == {}
    assert list((tmp_path / "temporary").glob("spinemets-*")) == []
    assert not list((tmp_path / "out").glob(".*.part"))


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("cut", 3, "its archive cannot be unpacked"),
        ("gone", 3, "its archive cannot be unpacked"),
        ("no room", 9, "there is no room for its copy"),
        ("refused", 3, "its archive is of a kind that is not unpacked"),
    ],
)
@pytest.mark.parametrize("command", ["detect", "deidentify"])
def test_archive_that_fails_after_it_was_planned_is_not_named(
    call, inputs, tmp_path, monkeypatch, command, fault, code, reason
):
    path = tmp_path / "in/Kowalczyk_Bronka_19430517.zip"
    genuine = deidentified.pseudonymous

    def harmed(studies, deidentifier):
        """Called when the studies are planned and none is copied yet."""
        if fault == "cut":
            path.write_bytes(path.read_bytes()[:5000])
        elif fault == "gone":
            path.unlink()
        elif fault == "no room":
            monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        else:
            monkeypatch.setattr("spinemets.io.sources._MOST_ARCHIVE_MEMBERS", 3)
        return genuine(studies, deidentifier)

    monkeypatch.setattr(deidentified, "pseudonymous", harmed)
    write_planted_archive(path, inputs.study)
    options = ("--deidentify", "--formats", "json", "-vv") if command == "detect" else ()
    ended, printed = call(command, path, "-o", tmp_path / "out", *options)
    assert (ended, reason in printed) == (code, True), printed
    assert leaks([tmp_path / "out"], identifiers(), printed) == {}
    if command == "detect":
        (record,) = (json.loads(line) for line in (tmp_path / "out/batch.jsonl").read_text().splitlines())
        assert reason in record["reason"]
        assert bool(record["log"]) == (record["state"] == "failed")


def test_process_killed_while_it_copies_an_archive_leaves_only_what_is_removed(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("SPINEMETS_DEID_KEY", KEY)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path, out = write_planted_archive(tmp_path / "in/Kowalczyk.zip", inputs.study), tmp_path / "out"
    assert exit_code_of(copy_and_be_killed, path, out) == -signal.SIGKILL
    assert list((tmp_path / "temporary").iterdir()) == []
    assert leaks([out], identifiers()) != {}, "it was killed when the archive was unpacked"
    remove_scratch(out, "study-1")
    assert list(out.iterdir()) == []


def test_archive_lies_unpacked_no_longer_than_it_is_copied(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("SPINEMETS_DEID_KEY", KEY)
    (study,) = plan_batch([write_planted_archive(tmp_path / "in/Kowalczyk.zip", inputs.study)])
    out = tmp_path / "out"
    copy = deidentified.copied_study(study.found, out, "study-1", DeidentificationConfig(enabled=True))
    files = [file for entry in copy.series for file in entry.series.files]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(files) != []
    assert leaks([out], identifiers()) == {}


@pytest.mark.parametrize(
    ("command", "number", "copying"),
    [
        ("deidentify", signal.SIGTERM, True),
        ("deidentify", signal.SIGINT, True),
        ("deidentify", signal.SIGKILL, True),
        ("inspect", signal.SIGTERM, False),
        ("inspect", signal.SIGHUP, False),
        ("inspect", signal.SIGKILL, False),
    ],
)
def test_command_that_is_killed_leaves_nothing_or_the_next_one_removes_it(
    inputs, tmp_path, monkeypatch, command, number, copying
):
    monkeypatch.setenv("SPINEMETS_DEID_KEY", KEY)
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    monkeypatch.setenv("TMPDIR", str(temporary))
    temporary.mkdir()
    path = write_planted_archive(tmp_path / "in/Kowalczyk.zip", inputs.study)
    arguments = [command, str(path), *(["-o", str(out)] if command == "deidentify" else [])]
    ended = exit_code_of(command_and_be_killed, arguments, number, copying)
    assert ended == (-signal.SIGKILL if number == signal.SIGKILL else INTERRUPTED)
    if number == signal.SIGKILL:
        assert leaks([temporary], identifiers()) != {}, "it was killed when the archive was unpacked"
        # A copy of the same study removes what was left, also where it lies in no archive.
        again = ["deidentify", str(inputs.study), "-o", str(out)] if copying else arguments
        assert exit_code_of(main, again) == 0
    assert list(temporary.iterdir()) == []
    assert list(out.glob(".*")) == []
