"""The installed command with its own model on the sample studies, as `make demo` runs it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spinemets.bundles import load_bundle
from spinemets.errors import ModelNotFoundError

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples"
STUDIES = ("dicom", "cervicothoracic_T2w")


def spinemets(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("spinemets"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture(scope="module", autouse=True)
def _needs_the_model():
    try:
        load_bundle()
    except ModelNotFoundError as error:
        pytest.skip(f"no default model: {error}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("samples")
    scans = [SAMPLES / "dicom", SAMPLES / "nifti"]
    return spinemets("detect", *scans, "-o", out, "-d", "cpu", "--identifiers", "keep"), out


def test_both_samples_are_done_in_one_call(finished):
    done, out = finished
    assert done.returncode == 0, done.stderr
    with (out / "summary.csv").open(newline="") as stream:
        assert {row["study"]: row["state"] for row in csv.DictReader(stream)} == dict.fromkeys(
            STUDIES, "done"
        )


@pytest.mark.parametrize("study", STUDIES)
def test_the_place_of_each_report_is_printed(finished, study):
    done, out = finished
    assert f"Results: {out / study / 'report.html'}" in done.stdout
    names = {path.name for path in (out / study).iterdir()}
    assert {"report.html", "report.json", "overview.png", "levels.nii.gz"} <= names


@pytest.mark.parametrize(("study", "truth"), [("dicom", "dicom"), ("cervicothoracic_T2w", "nifti")])
@pytest.mark.parametrize("name", ["anatomy", "levels", "lesions"])
def test_label_maps_lie_on_the_grid_of_the_source(finished, study, truth, name):
    _, out = finished
    written = nibabel.load(out / study / f"{name}.nii.gz")
    expected = nibabel.load(SAMPLES / f"truth/{truth}_{name}.nii.gz")
    assert written.shape == expected.shape
    assert np.allclose(written.affine, expected.affine, atol=1e-2)


@pytest.mark.parametrize("study", STUDIES)
def test_report_agrees_with_its_masks(finished, study):
    _, out = finished
    findings = json.loads((out / study / "report.json").read_text())["findings"]
    lesions = nibabel.load(out / study / "lesions.nii.gz")
    voxel_mm3 = abs(np.linalg.det(lesions.affine[:3, :3]))
    measured = np.bincount(np.asarray(lesions.dataobj).ravel(), minlength=len(findings) + 1)[1:] * voxel_mm3
    assert measured.tolist() == pytest.approx([finding["volume_mm3"] for finding in findings], rel=1e-3)


def test_the_localiser_is_rejected_and_all_three_sequences_are_used(finished):
    _, out = finished
    study = json.loads((out / "dicom/report.json").read_text())["study"]
    assert {series["weighting"] for series in study["series"]} == {"T1", "T2", "STIR/T2FS"}
    assert [series["reason"] for series in study["rejected"]] == ["a localiser"]


def test_device_that_is_not_there_exits_with_8(tmp_path):
    done = spinemets("detect", SAMPLES / "nifti", "-o", tmp_path / "out", "-d", "cuda:99")
    assert done.returncode == 8
    assert "cuda:99" in done.stderr
    assert "Traceback" not in done.stderr
