"""What the command line prints and writes, and how fast it answers."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cli_calls import Raises, spinemets, write_dicom
from spinemets import __version__
from spinemets.cli import main
from spinemets.exit_codes import DONE, EXIT_CODES, INTERNAL, INTERRUPTED, PARTIAL, USAGE

README = Path(__file__).resolve().parents[2] / "README.md"


def imported_after(*arguments: object) -> set[str]:
    """Top-level modules that a command line has imported when it ends."""
    code = textwrap.dedent(f"""
        import atexit, sys
        atexit.register(lambda: print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr))
        from spinemets.cli import main
        main({[str(argument) for argument in arguments]!r})
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_answers_in_under_a_second():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert spinemets("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0


def test_help_imports_nothing_heavy():
    heavy = {"torch", "monai", "scipy", "numpy", "pydantic", "SimpleITK", "nibabel", "pydicom", "rich"}
    assert not heavy & imported_after("--help")
    assert not heavy & imported_after("detect", "--help")


def test_inspect_imports_no_network(scan):
    assert not {"torch", "monai"} & imported_after("inspect", scan, "--json")


def test_version_is_the_packages():
    assert spinemets("--version").stdout == f"spinemets {__version__}\n"


def test_help_and_readme_name_every_exit_code(call):
    codes = {DONE, INTERNAL, USAGE, PARTIAL, INTERRUPTED} | {code for _, code in EXIT_CODES}
    readme = README.read_text()
    for arguments in (["--help"], ["detect", "--help"], ["inspect", "--help"]):
        text = call(*arguments).stdout
        assert all(f"\n    {code} " in text for code in codes), arguments
    assert all(f"\n| {code} |" in readme for code in codes)


def test_findings_are_printed_with_the_place_of_the_report(run, scan, tmp_path, capsys):
    assert run(scan, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "anna" in printed.out
    assert "extradural" in printed.out
    assert "intramedullary" in printed.out
    assert str(tmp_path / "out/anna") in printed.out
    assert "research use only" in printed.out.lower()
    assert printed.err == ""


def test_options_reach_the_detection(run, scan, tmp_path):
    out = tmp_path / "out"
    options = ["-d", "cpu", "--anchor", "L4=lowest", "--save-probabilities", "--allow-missing"]
    assert run(scan, "-o", out, *options, "--identifiers", "keep") == 0
    report = json.loads((out / "anna/report.json").read_text())
    used = report["provenance"]["configuration"]
    assert run.device == used["segmentation"]["device"] == "cpu"
    assert used["levels"]["anchors"] == [{"level": "L4", "place": "lowest"}]
    assert used["reading"]["allow_missing"] is True
    assert used["report"] == {
        "formats": ["json", "nifti"],
        "segmentation_type": "binary",
        "save_probabilities": True,
        "identifiers": "keep",
    }
    assert (out / "anna/lesion_probability.nii.gz").is_file()
    assert report["study"]["identifiers"] == "keep"


@pytest.mark.parametrize("asked", [True, False])
def test_deterministic_reaches_the_settings_of_the_run(run, scan, tmp_path, asked):
    assert run(scan, "-o", tmp_path, *(["--deterministic"] if asked else [])) == DONE
    report = json.loads((tmp_path / "anna" / "report.json").read_text())
    assert report["provenance"]["configuration"]["segmentation"]["deterministic"] is asked


def test_options_that_are_not_given_leave_the_file_as_it_is(run, scan, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(
        "segmentation: {device: cpu}\nreport: {formats: [json], identifiers: keep}\n"
        "levels: {anchors: [{level: L4, place: lowest}]}\n"
    )
    assert run(scan, "-o", tmp_path / "out", "--config", config) == 0
    used = json.loads((tmp_path / "out/anna/report.json").read_text())["provenance"]["configuration"]
    assert used["segmentation"]["device"] == "cpu"
    assert used["report"]["identifiers"] == "keep"
    assert used["levels"]["anchors"] == [{"level": "L4", "place": "lowest"}]


def test_inspect_lists_series_with_reasons(scan, tmp_path):
    folder = write_dicom(tmp_path / "exam", [0.0, 4.0])
    done = spinemets("inspect", scan, folder)
    assert done.returncode == 0
    assert "anna" in done.stdout
    assert "kept" in done.stdout
    assert "series 5 (T2 TSE sag)" in done.stdout
    assert "rejected: " in done.stdout
    assert "Studies: 2, series: 2, kept: 1, other files ignored: 0" in done.stdout


def test_inspect_lists_what_it_can_and_exits_with_7(scan, tmp_path, call):
    junk = tmp_path / "notes.txt"
    junk.write_text("nothing")
    done = call("inspect", junk, scan)
    assert done.returncode == 7
    assert "anna" in done.stdout
    assert "notes.txt" in done.stderr


def test_closed_pipe_is_no_error(scan):
    command = f"{Path(sys.executable).with_name('spinemets')} inspect {scan} --json | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_second_call_does_nothing_again_and_keeps_the_exit_code(run, scan, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8b no image")
    out = tmp_path / "out"
    assert run(broken, scan, "-o", out) == 7
    capsys.readouterr()
    assert run(broken, scan, "-o", out, segmenter=Raises(AssertionError("done twice"))) == 7
    printed = capsys.readouterr()
    assert "anna: done before" in printed.out
    assert "broken: failed before (--retry-failed tries again)" in printed.err
    assert run(broken, scan, "-o", out, "--rerun", segmenter=Raises(AssertionError("done twice"))) == 7
    assert "anna: again: asked for" in capsys.readouterr().out


def test_studies_in_workers_are_printed_as_in_turn(run, scan, tmp_path, capsys):
    assert run(scan, "-o", tmp_path / "turn") == 0
    in_turn = capsys.readouterr().out.splitlines()
    options = ["--workers", 1, "--timeout", 100, "--max-memory", 2]
    assert run(scan, "-o", tmp_path / "spread", *options, spread=True) == 0
    assert [line.replace("/spread/", "/turn/") for line in capsys.readouterr().out.splitlines()][
        1:
    ] == in_turn[1:]


@pytest.mark.parametrize("arguments", [["plan"], ["detect", "--dry-run"]])
def test_plan_tells_what_would_be_done_and_writes_nothing(scan, tmp_path, lean, arguments, call):
    from spinemets.bundles import reading_checksum
    from test_bundles import make_bundle

    bundle = make_bundle(tmp_path / "mine")
    model = ["--model", bundle, "--trust-model", reading_checksum(bundle), "--config", lean]
    junk = tmp_path / "notes.txt"
    junk.write_text("nothing")
    done = call(*arguments, scan, junk, "-o", tmp_path / "out", *model)
    assert done.returncode == 0, done.stderr
    assert f"anna: new: 1 of 1 series, {scan}" in done.stdout
    assert "notes.txt: will fail: " in done.stdout
    assert "2 studies, 2 to be done, 0 as they are" in done.stdout
    assert not (tmp_path / "out").exists()


def test_shards_are_merged_into_one_folder(run, scan, tmp_path, capsys):
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        assert run(scan, "-o", part, "--shard", f"{number}/2") == 0
    assert sorted((part / "anna").is_dir() for part in parts) == [False, True]
    with pytest.raises(SystemExit) as ended:
        main(["merge", *map(str, parts), "-o", str(tmp_path / "all")])
    assert ended.value.code == 0
    assert f"1 studies in {tmp_path / 'all'}" in capsys.readouterr().out
    assert (tmp_path / "all/anna/report.json").is_file()


def test_progress_json_prints_every_event_and_nothing_else(run, scan, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8b no image")
    assert run(broken, scan, "-o", tmp_path / "out", "--progress", "json") == 7
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(event["event"], event["study"], event.get("stage") or event["state"]) for event in events]
    assert told == [
        ("stage", "broken", "reading"),
        ("ended", "broken", "failed"),
        ("stage", "anna", "reading"),
        ("stage", "anna", "network"),
        ("stage", "anna", "writing"),
        ("ended", "anna", "done"),
    ]
    assert (events[-1]["ended"], events[-1]["planned"], events[-1]["lesions"]) == (2, 2, 2)


def test_plain_progress_tells_what_each_stage_does(run, scan, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("spinemets.batch_command._PLAIN_EVERY_S", 0.0)
    other = tmp_path / "bert.nii.gz"
    other.hardlink_to(scan)
    assert run(other, scan, "-o", tmp_path / "out", "--progress", "plain") == 0
    assert "0 of 2: none has ended; reading 1" in capsys.readouterr().err
    assert run(other, scan, "-o", tmp_path / "live", "--progress", "rich") == 0
