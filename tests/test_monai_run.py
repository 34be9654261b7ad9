"""The default bundle runs under MONAI's own runner, as a MONAI user would start it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from spinemets.bundles import DEFAULT_BUNDLE, bundles_folder
from spinemets.errors import ConfigError, ModelNotFoundError, SpinemetsError
from spinemets.monai_run import BundleDetector

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = bundles_folder() / DEFAULT_BUNDLE


def test_the_bundle_runs_with_monai_bundle_run(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "monai.bundle", "run"),
        *("--config_file", str(BUNDLE / "configs" / "inference.json")),
        *("--bundle_root", str(BUNDLE)),
        *("--input", str(ROOT / "data_samples" / "nifti" / "cervicothoracic_T2w.nii.gz")),
        *("--output", str(tmp_path / "out")),
        *("--device", "cpu"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=280, cwd=tmp_path)
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8", newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert row["state"] == "done"
    assert (tmp_path / "out" / row["study"] / "report.json").is_file()


def test_a_study_that_fails_ends_the_runner_with_an_error_and_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = (ROOT / "data_samples" / "nifti" / "cervicothoracic_T2w.nii.gz").read_bytes()
    (tmp_path / "cut_T2w.nii.gz").write_bytes(image[:2000])
    detector = BundleDetector(str(BUNDLE), device="cpu")
    with pytest.raises(SpinemetsError, match=r"1 studies: 1 failed; .*summary\.csv says why"):
        detector.run(str(tmp_path / "cut_T2w.nii.gz"), str(tmp_path / "out"))
    told = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert any("failed" in line and "damaged or cut short" in line for line in told)


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nothing-here"):
        BundleDetector(str(tmp_path / "nothing-here"))


def test_no_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    detector = BundleDetector(str(BUNDLE), device="cpu")
    with pytest.raises(ConfigError, match="--input"):
        detector.run("", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
