"""What readers of others say: dciodvfy of dicom3tools, and segimage2itkimage and tid1500reader of dcmqi."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spinemets.config import ReportConfig
from spinemets.reporting.dicom import write_dicom
from spinemets.results import write_results

KINDS = ("sagittal", "axial", "oblique", "feet-first", "enhanced", "gap")
FORMATS = ("dicom-seg", "dicom-sr")


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        pytest.skip(f"tool missing: {name}")
    return found


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(case, kind):
    dciodvfy = tool("dciodvfy")
    for path in sorted(case(kind, *FORMATS).objects.iterdir()):
        done = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
        told = (done.stdout + done.stderr).splitlines()
        assert len(told) >= 1
        assert [line for line in told if line.startswith("Error")] == [], path.name


def test_dciodvfy_finds_no_error_where_there_is_no_lesion(case):
    for path in case("sagittal", *FORMATS, lesions=0).objects.iterdir():
        done = subprocess.run([tool("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["sagittal", "enhanced"])
def test_dciodvfy_finds_no_error_in_documents_and_key_images(case, kind, tmp_path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    report = case(kind, *FORMATS).report
    config = ReportConfig(formats=("dicom-pdf", "dicom-sc", "dicom-rtstruct"))
    for path in write_dicom(report, tmp_path, config, tmp_path / "report.pdf"):
        done = subprocess.run([tool("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr, path.name


@pytest.mark.parametrize("kind", KINDS)
def test_dcmqi_reads_the_masks_of_our_nifti(case, kind, tmp_path):
    made = case(kind, *FORMATS)
    write_results(made.report, tmp_path, ReportConfig(formats=("nifti",)))
    lesions = nibabel.load(tmp_path / "lesions.nii.gz")
    ours = np.asarray(lesions.dataobj)
    run(
        tool("segimage2itkimage"), "--inputDICOM", made.objects / "lesions.seg.dcm",
        "--outputDirectory", tmp_path, "--outputType", "nifti", "--prefix", "theirs",
    )  # fmt: skip
    for number in (1, 2):
        image = nibabel.load(tmp_path / f"theirs-{number}.nii.gz")
        indices = np.argwhere(np.asarray(image.dataobj) > 0)
        points = nibabel.affines.apply_affine(image.affine, indices)
        places = nibabel.affines.apply_affine(np.linalg.inv(lesions.affine), points)
        assert np.abs(places - np.rint(places)).max() < 0.01
        # The file holds the slices of the segment only, so the comparison is by place.
        found = {tuple(place) for place in np.rint(places).astype(int)}
        assert found == {tuple(place) for place in np.argwhere(ours == number)}


@pytest.mark.parametrize("kind", ["sagittal", "enhanced"])
def test_dcmqi_reads_the_measurements_of_our_json(case, kind, tmp_path):
    made = case(kind, *FORMATS)
    write_results(made.report, tmp_path, ReportConfig(formats=("json",)))
    ours = json.loads((tmp_path / "report.json").read_text())["findings"]
    run(
        tool("tid1500reader"), "--inputDICOM", made.objects / "findings.sr.dcm",
        "--outputMetadata", tmp_path / "theirs.json",
    )  # fmt: skip
    theirs = json.loads((tmp_path / "theirs.json").read_text())
    assert (theirs["CompletionFlag"], theirs["VerificationFlag"]) == ("PARTIAL", "UNVERIFIED")
    for number, (group, finding) in enumerate(zip(theirs["Measurements"], ours, strict=True), start=1):
        values = {item["quantity"]["CodeMeaning"]: float(item["value"]) for item in group["measurementItems"]}
        assert values["Volume"] == finding["volume_mm3"]
        assert values["Long axis"] == finding["longest_diameter_mm"]
        assert values["Confidence that this is a lesion"] == finding["confidence"]
        assert group["ReferencedSegment"] == number
        assert group["FindingSite"]["CodeMeaning"] == f"{finding['level']} vertebra"
