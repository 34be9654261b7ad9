"""What programs of others read: dciodvfy of dicom3tools, two tools of dcmqi, and plastimatch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.ndimage

from dicom_files import write_classic
from spinemets.anatomy import Structure
from spinemets.config import ReportConfig
from spinemets.reporting.dicom import write_dicom
from spinemets.results import write_results
from spinemets.volume import Grid

KINDS = ("sagittal", "axial", "oblique", "feet-first", "enhanced", "gap")
FORMATS = ("dicom-seg", "dicom-sr")


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        pytest.skip(f"tool missing: {name}")
    return found


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, check=False)
    # They print names in the character set of the file.
    told = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, told
    return told


def errors_of(path: Path) -> list[str]:
    """The errors that dciodvfy finds in an object; it always says what the object is."""
    done = subprocess.run([tool("dciodvfy"), path], capture_output=True, text=True, check=False)
    told = (done.stdout + done.stderr).splitlines()
    assert len(told) >= 1
    return [line for line in told if line.startswith("Error")]


@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(case, kind):
    for path in sorted(case(kind, *FORMATS).objects.iterdir()):
        assert errors_of(path) == [], path.name


def test_dciodvfy_finds_no_error_where_there_is_no_lesion(case):
    for path in case("sagittal", *FORMATS, lesions=0).objects.iterdir():
        assert errors_of(path) == [], path.name


def test_dciodvfy_finds_no_error_in_a_report_with_cautions(case, tmp_path):
    report = replace(case("sagittal", *FORMATS).report, cautions=("Größe ungenau.",))
    for path in write_dicom(report, tmp_path, ReportConfig(formats=("dicom-sr",))):
        assert errors_of(path) == [], path.name


@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error_in_documents_key_images_and_contours(case, kind, tmp_path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    report = case(kind, *FORMATS).report
    config = ReportConfig(formats=("dicom-pdf", "dicom-sc", "dicom-rtstruct"))
    for path in write_dicom(report, tmp_path, config, tmp_path / "report.pdf"):
        assert errors_of(path) == [], path.name


# Debian's dciodvfy is older than the SOP class of label maps.
LABELMAP_UNKNOWN = (
    "Error - Information Object Not found",
    "Error - SegmentNumber not monotonically increasing from one by one",
    "Error - Shall not be present for Referenced SOP Class that is not segmentation"
    " - attribute <ReferencedSegmentNumber>",
)


@pytest.mark.parametrize("kind", ["sagittal", "enhanced"])
def test_dciodvfy_objects_to_label_maps_only_in_that_it_does_not_know_them(case, kind):
    for path in case(kind, *FORMATS, segmentation_type="labelmap").objects.iterdir():
        assert [line for line in errors_of(path) if not line.startswith(LABELMAP_UNKNOWN)] == [], path.name


def itk_images(segmentation: Path, folder: Path) -> list[nibabel.Nifti1Image]:
    """What dcmqi makes of a segmentation: an image for each segment, or for all of a label map."""
    folder.mkdir()
    run(
        tool("segimage2itkimage"), "--inputDICOM", segmentation,
        "--outputDirectory", folder, "--outputType", "nifti", "--prefix", "theirs",
    )  # fmt: skip
    return [
        nibabel.load(folder / f"theirs-{n + 1}.nii.gz") for n in range(len(list(folder.glob("*.nii.gz"))))
    ]


def on_grid(image: nibabel.Nifti1Image, ours: nibabel.Nifti1Image, value: int | None = None) -> np.ndarray:
    """Their voxels (of one value) by our indices: their files hold the slices of a segment only."""
    voxels = np.asarray(image.dataobj)
    indices = np.argwhere(voxels > 0 if value is None else voxels == value)
    points = nibabel.affines.apply_affine(image.affine, indices)
    places = nibabel.affines.apply_affine(np.linalg.inv(ours.affine), points)
    nearest = np.rint(places).astype(int)
    moved_mm = nibabel.affines.apply_affine(ours.affine, nearest) - points
    assert np.abs(moved_mm).max() < 0.01
    mask = np.zeros(ours.shape, dtype=bool)
    mask[tuple(nearest.T)] = True
    assert np.count_nonzero(mask) == len(indices)
    return mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["levels", "anatomy", "lesions"])
def test_dcmqi_reads_the_masks_of_our_nifti(case, kind, part, tmp_path):
    made = case(kind, *FORMATS)
    write_results(made.report, tmp_path, ReportConfig(formats=("nifti",)))
    ours = nibabel.load(tmp_path / f"{part}.nii.gz")
    values = [value for value in np.unique(np.asarray(ours.dataobj)) if value]
    images = itk_images(made.objects / f"{part}.seg.dcm", tmp_path / "theirs")
    for image, value in zip(images, values, strict=True):
        assert np.array_equal(on_grid(image, ours), np.asarray(ours.dataobj) == value)


@pytest.mark.parametrize("kind", KINDS)
def test_dcmqi_reads_a_label_map_as_our_nifti(case, kind, tmp_path):
    made = case(kind, *FORMATS, segmentation_type="labelmap")
    write_results(made.report, tmp_path, ReportConfig(formats=("nifti",)))
    ours = nibabel.load(tmp_path / "lesions.nii.gz")
    (image,) = itk_images(made.objects / "lesions.seg.dcm", tmp_path / "theirs")
    for number in (1, 2):
        assert np.array_equal(on_grid(image, ours, number), np.asarray(ours.dataobj) == number)


@pytest.mark.parametrize("kind", KINDS)
def test_plastimatch_fills_the_contours_to_the_masks(case, written, kind, tmp_path):
    made = case(kind, "dicom-rtstruct")
    planning = made.source
    if kind == "enhanced":
        # plastimatch reads no multi-frame images: the same slices as single files.
        planning = tmp_path / "classic"
        values, affine, _ = written(kind)
        write_classic(planning, values, affine)
    run(
        tool("plastimatch"), "convert", "--input", made.objects / "contours.rtstruct.dcm",
        "--referenced-ct", planning, "--output-prefix", tmp_path / "filled", "--prefix-format", "nii.gz",
    )  # fmt: skip
    segmentation = made.report.segmentation
    cord = segmentation.anatomy == Structure.CORD
    masks = {f"lesion {finding.lesion.number}": finding.lesion.mask() for finding in made.report.findings}
    masks |= {"spinal cord": cord, "thecal sac": cord | (segmentation.anatomy == Structure.THECAL_SAC)}
    for name, mask in masks.items():
        filled = at_voxels(nibabel.load(tmp_path / "filled" / f"{name}.nii.gz"), segmentation.grid)
        overlap = 2 * np.count_nonzero(filled & mask) / (np.count_nonzero(filled) + np.count_nonzero(mask))
        assert overlap >= 0.95, name


def at_voxels(image: nibabel.Nifti1Image, grid: Grid) -> np.ndarray:
    """Whether another grid's mask holds each of our voxels' centres."""
    centres = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    places = nibabel.affines.apply_affine(np.linalg.inv(image.affine), centres)
    mask = (np.asarray(image.dataobj) > 0).astype(np.uint8)
    return scipy.ndimage.map_coordinates(mask, np.moveaxis(places, -1, 0), order=0, mode="nearest") > 0


@pytest.mark.parametrize("kind", KINDS)
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
        assert values["Confidence of the level"] == finding["level_confidence"]
        for compartment, probability in finding["compartment_probabilities"].items():
            assert values[f"Probability: {compartment}"] == probability
        assert group["ReferencedSegment"] == number
        assert group["FindingSite"]["CodeMeaning"] == f"{finding['level']} vertebra"
