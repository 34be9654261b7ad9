"""Nothing that a command prints or writes names a patient, unless it is asked to."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cli_calls import Raises, write_dicom
from spinemets.cli import main
from spinemets.exit_codes import DONE, PARTIAL, USAGE
from spinemets.segmented import SpineSegmentation
from standins import write_scan


def test_inspect_json_hides_identifiers_unless_asked(tmp_path, call):
    folder = write_dicom(tmp_path / "exam", [4.0 * n for n in range(9)])
    hidden, kept = (call("inspect", folder, "--json", "--identifiers", how) for how in ("hash", "keep"))
    usual = json.loads(call("inspect", folder, "--json").stdout)["studies"]
    assert usual[0]["patient_id"].startswith("hmac-sha256:")
    (study,) = json.loads(hidden.stdout)["studies"]
    assert study["series"][0]["kept"] is True
    assert study["series"][0]["weighting"] == "T2"
    for secret in ("secret-7", "Nobody", "20200102", hashlib.sha256(b"secret-7").hexdigest()[:16]):
        assert secret not in hidden.stdout
    assert usual[0]["patient_id"] != study["patient_id"], "nothing links two listings"
    assert json.loads(kept.stdout)["studies"][0]["patient_id"] == "secret-7"


def test_log_names_no_patient_and_no_uid(run, tmp_path, capsys):
    folder = write_dicom(tmp_path / "exam", [4.0 * n for n in range(9)])
    uid = pydicom.dcmread(folder / "1.dcm").StudyInstanceUID
    hashed = ["--identifiers", "hash"]
    run(folder, "-o", tmp_path / "out", "-vv", *hashed, segmenter=Raises(RuntimeError("broken")))
    printed = capsys.readouterr()
    assert "RuntimeError: broken" in printed.err
    for secret in ("secret-7", "Nobody", "20200102", uid):
        assert secret not in printed.err + printed.out


def test_header_text_cannot_command_the_terminal(tmp_path, call):
    folder = write_dicom(tmp_path / "exam", [4.0 * n for n in range(9)])
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        image.SeriesDescription = "T2 [red]\x1b]0;owned\x07"
        image.save_as(file)
    done = call("inspect", folder)
    assert "[red]" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


class Empty:
    """A segmenter that sees nothing at all."""

    def segment(self, study):
        grid = study.reference.grid
        nothing = np.zeros(grid.shape, dtype=np.uint8)
        return SpineSegmentation(grid, nothing, nothing, nothing.astype(np.float32), (), study.volumes)


@pytest.mark.parametrize("segmenter", [Empty(), Raises(RuntimeError("SECRET-7 in NOBODY/19500203"))])
def test_batch_of_a_folder_named_for_a_patient_keeps_the_name_out_of_everything(
    run, tmp_path, capsys, segmenter
):
    folder = write_dicom(tmp_path / "exam", [4.0 * n for n in range(9)])
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        image.PatientBirthDate = "19500203"
        image.save_as(file)
    inputs = tmp_path / f"in/nobody_KNOWN_1950-02-03/{image.StudyInstanceUID}"
    inputs.parent.mkdir(parents=True)
    folder.rename(inputs)
    out = tmp_path / "out"
    for _ in range(2):
        run(inputs, "-o", out, "-vv", "--identifiers", "hash", segmenter=segmenter)
    assert len((out / "batch.jsonl").read_text().splitlines()) == 1
    everything = all_but_the_private_table(out, capsys)
    assert str(inputs) in (out / "private/studies.csv").read_text()
    for secret in ("nobody", "known_1950", "secret-7", "19500203", "1950-02-03", image.StudyInstanceUID):
        assert secret.casefold() not in everything, secret
    run(inputs, "-o", tmp_path / "kept", "--identifiers", "keep", segmenter=segmenter)
    assert image.StudyInstanceUID in (tmp_path / "kept/summary.csv").read_text()


def all_but_the_private_table(out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Names and contents of all files of an output folder, and what was printed, in small letters."""
    files = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "private"]
    texts = [path.read_text(errors="replace") for path in files]
    printed = capsys.readouterr()
    names = [path.relative_to(out).as_posix() for path in out.rglob("*")]
    return "\n".join([*names, *texts, printed.out, printed.err]).casefold()


def test_batch_of_files_named_for_patients_keeps_the_names_out_of_records_logs_and_pages(
    run, truth, tmp_path, capsys
):
    inputs, out = tmp_path / "ward/Doe Jane", tmp_path / "out"
    write_scan(inputs / "Doe_Jane_T2w.nii.gz", truth)
    (inputs / "Roe_Richard_T2w.nii.gz").write_bytes(b"\x1f\x8b no image")
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"study,path\ncase-7,{inputs / 'Doe_Jane_T2w.nii.gz'}\n")
    arguments = [inputs, manifest, "-o", out, "-vv", "--identifiers", "hash", "--formats", "json"]
    assert run(*arguments) == run(*arguments) == PARTIAL
    table = (out / "private/studies.csv").read_text()
    assert "case-7," in table
    assert table.count("study-") == 2
    assert oct((out / "private/studies.csv").stat().st_mode & 0o777) == "0o600"
    assert len((out / "batch.jsonl").read_text().splitlines()) == 3
    everything = all_but_the_private_table(out, capsys)
    assert "case-7" in everything
    for secret in ("doe", "jane", "roe", "richard"):
        assert not re.search(rf"(?<![a-z]){secret}(?![a-z])", everything), secret


@pytest.mark.parametrize("workers", [0, 1])
def test_warnings_of_files_named_for_patients_name_nobody(run, truth, tmp_path, capfd, workers):
    ward = tmp_path / "ward/Doe Jane"
    for contrast in ("T2w", "T1w"):
        write_scan(ward / f"DOE_JANE_1960_{contrast}.nii.gz", truth)
    whole = (ward / "DOE_JANE_1960_T1w.nii.gz").read_bytes()
    (ward / "DOE_JANE_1960_T1w.nii.gz").write_bytes(whole[: len(whole) // 2])
    (ward / "DOE_JANE_1960_T2w.json").write_text("{")
    archive = tmp_path / "exam.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in ward.glob("*.nii.gz"):
            content.write(path, f"Doe Jane/{path.name}")
    out = tmp_path / "out"
    options = ["-vv", "--identifiers", "hash", "--formats", "json,html,fhir", "--workers", workers]
    assert run(ward, archive, "-o", out, *options, spread=workers > 0) == DONE
    printed = capfd.readouterr()
    assert printed.err.count("is not used: [hidden]: ") == 2, printed.err
    assert "a damaged sidecar was passed over: [hidden]" in printed.err
    files = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "private"]
    everything = "\n".join([printed.out, printed.err, *(path.read_text(errors="replace") for path in files)])
    for secret in ("doe", "jane", "1960"):
        assert not re.search(rf"(?<![a-z0-9]){secret}(?![a-z0-9])", everything.casefold()), secret
    study = json.loads(next(out.glob("*/report.json")).read_text())["study"]
    assert (study["description"], study["series"][0]["name"]) == ("", "series (T2 sagittal)")
    assert [entry["name"] for entry in study["rejected"]] == ["series (T1 sagittal)"]


def test_input_that_cannot_be_read_is_named_where_identifiers_are_kept_only(run, tmp_path, capsys):
    scan = tmp_path / "DOE_JANE.txt"
    scan.write_bytes(b"no image")
    assert run(scan, "-o", tmp_path / "kept") == run(scan, "-o", tmp_path / "a", "--identifiers", "hash")
    named, hidden = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spinemets:")]
    assert "DOE_JANE" in named
    assert "DOE" not in hidden
    assert hidden.startswith("spinemets: error: input 1: [hidden]: ")


def test_output_folder_with_names_of_one_kind_takes_none_of_the_other(run, scan, tmp_path, capsys):
    kept, hashed = tmp_path / "kept", tmp_path / "hashed"
    assert run(scan, "-o", kept) == run(scan, "-o", hashed, "--identifiers", "hash") == DONE
    assert run(scan, "-o", kept, "--identifiers", "hash") == USAGE
    # What plan says is what the run would do.
    assert run(scan, "-o", kept, "--identifiers", "hash", "--dry-run") == USAGE
    assert run(scan, "-o", hashed, "--dry-run") == USAGE
    assert run(scan, "-o", hashed) == USAGE
    (hashed / "private/salt").unlink()
    assert run(scan, "-o", hashed, "--identifiers", "hash") == USAGE
    assert "bring that back" in capsys.readouterr().err


def test_output_folders_that_share_a_salt_give_a_study_the_same_name(run, scan, tmp_path):
    names = []
    for folder in ("a", "b", "c"):
        salt = ["--salt", tmp_path / "common/salt"] if folder != "c" else []
        assert run(scan, "-o", tmp_path / folder, "--identifiers", "hash", *salt) == DONE
        names.append(next((tmp_path / folder).glob("study-*")).name)
    assert names[0] == names[1] != names[2]
    run(scan, "-o", tmp_path / "a", "--identifiers", "hash", segmenter=Raises(AssertionError("done twice")))
    assert len((tmp_path / "a/batch.jsonl").read_text().splitlines()) == 1
    options = ["--identifiers", "hash", "--salt", tmp_path / "common/salt"]
    assert run(scan, "-o", tmp_path / "c", *options) == USAGE


def test_report_calls_a_study_by_a_hash_that_its_uid_alone_does_not_give(run, tmp_path):
    exam = write_dicom(tmp_path / "exam", [4.0 * n for n in range(9)])
    uid = pydicom.dcmread(exam / "1.dcm").StudyInstanceUID
    salt = ["--salt", tmp_path / "salt"]
    names = []
    for folder, options in (("a", salt), ("a", [*salt, "--rerun"]), ("b", salt), ("c", [])):
        options = [*options, "--identifiers", "hash", "--formats", "json,bids"]
        assert run(exam, "-o", tmp_path / folder, *options, segmenter=Empty()) == DONE
        (report,) = (tmp_path / folder).glob("*/report.json")
        study = json.loads(report.read_text())["study"]
        (subject,) = report.parent.glob("bids/sub-*")
        names.append((study["identifier"], study["series"][0]["identifier"], subject.name))
        assert not re.search(hashlib.sha256(uid.encode()).hexdigest()[:10], f"{study} {subject.name}")
    assert names[0] == names[1] == names[2]
    assert not set(names[2]) & set(names[3])


def test_merged_shards_keep_their_salt_and_the_table_of_their_names(run, scan, truth, tmp_path):
    scans = [scan, *(write_scan(tmp_path / f"{name}.nii.gz", truth) for name in ("bert", "cleo"))]
    hashed = ["--identifiers", "hash", "--salt", tmp_path / "salt"]
    for number in (1, 2):
        assert run(*scans, "-o", tmp_path / f"part{number}", *hashed, "--shard", f"{number}/2") == DONE
    with pytest.raises(SystemExit):
        main(["merge", str(tmp_path / "part1"), str(tmp_path / "part2"), "-o", str(tmp_path / "all")])
    table = (tmp_path / "all/private/studies.csv").read_text()
    assert all(str(path) in table for path in scans)
    options = ["--identifiers", "hash", "--retry-failed"]
    assert run(*scans, "-o", tmp_path / "all", *options, segmenter=Raises(ValueError("twice"))) == DONE
    assert len((tmp_path / "all/batch.jsonl").read_text().splitlines()) == 3


def test_manifest_that_plan_writes_names_studies_by_hashes_and_is_run_as_such(
    run, truth, tmp_path, lean, capsys
):
    for name in ("case01_T1", "case01_T2", "case02_T1", "case02_T2"):
        write_scan(tmp_path / f"ward/{name}.nii.gz", truth)
    out, manifest = tmp_path / "out", tmp_path / "list.csv"
    run(tmp_path / "ward", "-o", out, "--dry-run", "--identifiers", "hash")
    assert not out.exists()
    arguments = ["plan", tmp_path / "ward", "-o", out, "--config", lean, "--identifiers", "hash"]
    with pytest.raises(SystemExit):
        main([str(argument) for argument in (*arguments, "--manifest", manifest)])
    assert "case01" not in capsys.readouterr().out
    names = [line.split(",")[0] for line in manifest.read_text().splitlines()[1:]]
    assert run(manifest, "-o", out, "--identifiers", "hash") == DONE
    assert sorted(path.name for path in out.glob("study-*")) == sorted(names)
    assert run(tmp_path / "ward", "-o", out, "--identifiers", "hash", segmenter=Raises(ValueError())) == DONE
