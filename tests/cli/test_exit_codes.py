"""Which code a command exits with, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cli_calls import Raises, spinemets, write_dicom
from spinemets.cli import main
from spinemets.errors import DeviceUnavailableError, ModelIncompatibleError, OutOfMemoryError
from spinemets.exit_codes import DONE
from standins import table_rows, write_scan

TESTS = Path(__file__).resolve().parents[1]


def test_unexpected_error_exits_with_1(run, scan, tmp_path, capsys):
    assert run(scan, "-o", tmp_path / "out", segmenter=Raises(ZeroDivisionError("oh"))) == 1
    assert "unexpected ZeroDivisionError: oh" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["paint"],
        ["detect"],
        ["detect", "absent.nii.gz", "-o", "out"],
        ["detect", "SCAN"],
        ["detect", "SCAN", "-o", "out", "-d", "gpu"],
        ["detect", "SCAN", "-o", "out", "--identifiers", "maybe"],
        ["detect", "SCAN", "-o", "out", "--anchor", "L9=lowest"],
        ["detect", "SCAN", "-o", "out", "--config", "absent.yaml"],
        ["detect", "SCAN", "-o", "out", "--shard", "3/2"],
        ["detect", "SCAN", "-o", "out", "--workers", "-1"],
        ["detect", "SCAN", "-o", "out", "--workers", "0", "--timeout", "9"],
        ["detect", "SCAN", "-o", "out", "--deid-key", "key"],
        ["detect", "SCAN", "-o", "out", "--deid-retain", "dates", "--deid-linkage", "linkage.csv"],
        ["merge", "absent", "-o", "out"],
        ["inspect"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_wrong_arguments_exit_with_2(arguments, scan, call):
    done = call(*[scan if argument == "SCAN" else argument for argument in arguments])
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("formats", ["json,pdf", "json,dicom-pdf"])
def test_pdf_without_its_extra_exits_with_2_before_any_study(
    run, scan, tmp_path, capsys, monkeypatch, formats
):
    monkeypatch.setattr("spinemets.batch_command.find_spec", lambda _: None)
    assert run(scan, "-o", tmp_path / "out", "--formats", formats) == 2
    assert f"formats {formats.removeprefix('json,')}: a PDF needs WeasyPrint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_merging_a_folder_that_no_batch_wrote_exits_with_3(tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    with pytest.raises(SystemExit) as ending:
        main(["merge", str(tmp_path / "notes"), "-o", str(tmp_path / "out")])
    assert ending.value.code == 3
    assert "notes holds no batch.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["inspect", "detect"])
def test_input_that_is_no_image_exits_with_3(command, tmp_path, run, capsys):
    junk = tmp_path / "notes.txt"
    junk.write_text("nothing")
    if command == "inspect":
        done = spinemets("inspect", junk)
        code, error = done.returncode, done.stderr
    else:
        code, error = run(junk, "-o", tmp_path / "out"), capsys.readouterr().err
    assert code == 3
    assert "notes.txt" in error
    assert not (tmp_path / "out").exists()


def test_missing_slice_exits_with_4_unless_allowed(tmp_path, run, capsys):
    positions = [4.0 * n for n in range(10) if n != 4]
    folder = write_dicom(tmp_path / "exam", positions)
    assert run(folder, "-o", tmp_path / "out") == 4
    error = capsys.readouterr().err
    assert "missing" in error
    assert "--allow-missing" in error
    # Past the reading, the stand-in's truth does not fit this study's grid.
    run(folder, "-o", tmp_path / "out", "--allow-missing")
    assert "missing between" not in capsys.readouterr().err


@pytest.mark.parametrize("model", ["no-such-model", "EMPTY"])
def test_model_that_is_not_there_exits_with_5(scan, tmp_path, model, call):
    (tmp_path / "EMPTY").mkdir()
    given = tmp_path / model if model == "EMPTY" else model
    done = call("detect", scan, "-o", tmp_path / "out", "--model", given)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_unregistered_model_exits_with_5_and_tells_how_to_trust_it(scan, tmp_path, call):
    from test_bundles import make_bundle

    bundle = make_bundle(tmp_path / "mine")
    done = call("detect", scan, "-o", tmp_path / "out", "--model", bundle)
    assert done.returncode == 5
    assert "--trust-model" in done.stderr


def test_model_that_does_not_fit_exits_with_5(run, scan, tmp_path):
    assert run(scan, "-o", tmp_path / "out", problem=ModelIncompatibleError("no")) == 5


@pytest.mark.parametrize("error", [OutOfMemoryError("no room"), MemoryError()])
def test_no_memory_exits_with_6(run, scan, tmp_path, error):
    assert run(scan, "-o", tmp_path / "out", segmenter=Raises(error)) == 6
    assert run(scan, "-o", tmp_path / "another", problem=error) == 6


def test_partial_failure_exits_with_7(run, scan, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8b no image")
    assert run(broken, scan, "-o", tmp_path / "out") == 7
    printed = capsys.readouterr()
    assert "broken: failed: " in printed.err
    assert "2 studies: 1 done, 1 failed, 0 skipped" in printed.out


def test_missing_device_exits_with_8(run, scan, tmp_path, capsys):
    assert run(scan, "-o", tmp_path / "out", problem=DeviceUnavailableError("no cuda:9 here")) == 8
    assert capsys.readouterr().err == "spinemets: error: no cuda:9 here\n"


def test_output_that_cannot_be_written_exits_with_9(run, scan, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(scan, "-o", tmp_path / "file/out") == 9


def test_interruption_exits_with_130_and_leaves_no_half_result(scan, tmp_path, lean):
    code = textwrap.dedent("""
        import os, signal, sys, time, types
        import spinemets.bundles, spinemets.detection
        from spinemets.cli import main
        from standins import models_for

        # A run in the background of a shell inherits an interrupt that is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Interrupted:
            def segment(self, study):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)

        spinemets.bundles.load_bundle = lambda *_: types.SimpleNamespace(sha256="0" * 64)
        spinemets.detection.load_models = lambda *_: models_for(Interrupted())
        main(sys.argv[1:])
    """)
    command = [sys.executable, "-c", code, "detect", scan, "-o", tmp_path / "out", "--config", lean]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir() or path.name.startswith(".")]


@pytest.mark.parametrize("log", ["full", "closed"])
def test_batch_goes_on_when_nothing_can_be_printed_any_more(truth, tmp_path, lean, log):
    for name in "ab":
        write_scan(tmp_path / f"in/{name}.nii.gz", truth)
    code = textwrap.dedent("""
        import sys, types
        import spinemets.bundles, spinemets.detection
        from spinemets.cli import main
        from standins import TruthSegmenter, lumbar_truth, models_for

        spinemets.bundles.load_bundle = lambda *_: types.SimpleNamespace(sha256="0" * 64)
        spinemets.detection.load_models = lambda *_: models_for(TruthSegmenter(lumbar_truth()))
        main(sys.argv[1:])
    """)
    arguments = ["detect", tmp_path / "in", "-o", tmp_path / "out", "--config", lean]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    reading, writing = os.pipe()
    os.close(reading)
    with Path("/dev/full").open("w") as full, os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            stdout=full if log == "full" else closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=200,
        )
    assert done.returncode == DONE, done.stderr
    assert "nothing more is printed" in done.stderr
    assert [row["state"] for row in table_rows(tmp_path / "out/summary.csv")] == ["done", "done"]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_listing_that_cannot_be_printed_ends_without_a_traceback(scan, more):
    command = [sys.executable, "-c", "from spinemets.cli import main; main()", "inspect", scan, *more]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=50
        )
    assert done.returncode == 9
    assert done.stderr == (
        "spinemets: error: what is printed cannot be written (No space left on device); check space\n"
    )


def test_traceback_of_an_expected_error_needs_vv(run, scan, tmp_path, capsys):
    problem = DeviceUnavailableError("no cuda:9 here")
    run(scan, "-o", tmp_path / "out", "-v", problem=problem)
    assert "Traceback" not in capsys.readouterr().err
    run(scan, "-o", tmp_path / "out", "-vv", problem=problem)
    assert "Traceback" in capsys.readouterr().err


def test_quiet_prints_findings_only(run, scan, tmp_path, capsys):
    assert run(scan, "-o", tmp_path / "out", "-q") == 0
    printed = capsys.readouterr()
    assert "extradural" in printed.out
    assert printed.err == ""
