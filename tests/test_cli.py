"""The command line: what it prints, which code it exits with, and how fast it answers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from spinemets import __version__
from spinemets.cli import main
from spinemets.errors import DeviceUnavailableError, ModelIncompatibleError, OutOfMemoryError
from spinemets.exit_codes import DONE, EXIT_CODES, INTERNAL, INTERRUPTED, PARTIAL, USAGE
from spinemets.findings import SpineSegmentation
from standins import TruthSegmenter, load_models_for, models_for, table_rows, write_scan

TESTS = Path(__file__).resolve().parent


def spinemets(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command, as a user runs it."""
    command = [Path(sys.executable).with_name("spinemets"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def scan(tmp_path_factory, truth):
    return write_scan(tmp_path_factory.mktemp("scan") / "anna.nii.gz", truth)


@pytest.fixture
def lean(tmp_path):
    """Settings without pictures and pages, which have tests of their own, and with plain names."""
    path = tmp_path / "lean.yaml"
    path.write_text("report: {formats: [json, nifti], identifiers: keep}\n")
    return path


@pytest.fixture
def run(monkeypatch, truth, lean):
    """`spinemets detect` in this process, with a stand-in for the network."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("spinemets").level

    def run(
        *arguments: object, segmenter: object = None, problem: Exception | None = None, spread: bool = False
    ) -> int:
        def load_models(_bundle, config):
            run.device = config.device
            if problem:
                raise problem
            return models_for(segmenter or TruthSegmenter(truth))

        # Another process must be able to find it; it cannot find a function within this one.
        loader = partial(load_models_for, segmenter or TruthSegmenter(truth)) if spread else load_models
        monkeypatch.setattr("spinemets.detection.load_models", loader)
        monkeypatch.setattr("spinemets.bundles.load_bundle", lambda *_: SimpleNamespace(sha256="0" * 64))
        with pytest.raises(SystemExit) as ended:
            main(["detect", "--config", str(lean), *map(str, arguments)])
        return ended.value.code

    yield run
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("spinemets").setLevel(own)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Any command line in this process, as the installed command would answer it."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("spinemets").level
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, printed.out, printed.err)

    yield call
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("spinemets").setLevel(own)


class Raises:
    """A segmenter that cannot."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def segment(self, _study):
        raise self._error


def write_dicom(folder: Path, positions_mm: list[float]) -> Path:
    """A sagittal T2 series with one image at each left-right position."""
    folder.mkdir()
    study_uid, series_uid, frame_uid = generate_uid(), generate_uid(), generate_uid()
    for number, position in enumerate(positions_mm, start=1):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, series_uid
        image.FrameOfReferenceUID = frame_uid
        image.Modality, image.SeriesDescription = "MR", "T2 TSE sag"
        image.PatientName, image.PatientID, image.StudyDate = "Nobody^Known", "secret-7", "20200102"
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.ScanningSequence, image.RepetitionTime, image.EchoTime = "SE", 3500, 100
        image.SeriesNumber, image.InstanceNumber = 5, number
        image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        image.ImagePositionPatient = [position, -60, 60]
        image.PixelSpacing, image.SliceThickness = [2, 2], 4
        image.Rows = image.Columns = 60
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelData = np.random.default_rng(number).integers(0, 500, (60, 60), np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{number}.dcm", image, enforce_file_format=True)
    return folder


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
    readme = (TESTS.parent / "README.md").read_text()
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
