"""BIDS: a dataset in, derivatives out, and what its validator says of both."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spinemets.config import ReadingConfig, ReportConfig
from spinemets.findings import Provenance, StudyReport
from spinemets.io import bids_stem, discover, read_study
from spinemets.results import write_results
from spinemets.segmented import SpineSegmentation
from spinemets.volume import Series

SESSION = Path("sub-01/ses-a/anat")
IMAGES = ("sub-01_ses-a_acq-sag_T1w", "sub-01_ses-a_acq-sag_T2w")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A raw BIDS dataset of one subject with two images of one session."""
    root = tmp_path_factory.mktemp("raw")
    (root / SESSION).mkdir(parents=True)
    (root / "README").write_text("A test dataset of noise.\n")
    description = {"Name": "noise", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "CC0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    generator = np.random.default_rng(1)
    affine = np.diag([4.0, 1.0, 1.0, 1.0])
    for name in IMAGES:
        image = nibabel.Nifti1Image(generator.random((8, 40, 60), dtype=np.float32), affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, root / SESSION / f"{name}.nii.gz")
        (root / SESSION / f"{name}.json").write_text(json.dumps({"MagneticFieldStrength": 1.5}))
    return root


@pytest.fixture(scope="module")
def report(dataset) -> StudyReport:
    (listing,) = discover(dataset)
    study = read_study(listing, ReadingConfig())
    grid = study.reference.grid
    empty = np.zeros(grid.shape, dtype=np.uint8)
    anatomy = empty.copy()
    anatomy[2:5, 10:20, 20:30] = 1
    segmentation = SpineSegmentation(
        grid, anatomy, empty, np.zeros(grid.shape, dtype=np.float32), (), (study.reference,)
    )
    provenance = Provenance("0.1.0", "spine_metastasis_mri", "0.1.0", "ab" * 32)
    return StudyReport(study, segmentation, (), (), (), provenance)


@pytest.fixture(scope="module")
def derivatives(report, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_results(report, folder, ReportConfig(formats=("bids",)))
    return folder / "bids"


def validate(root: Path) -> list[dict[str, object]]:
    beside = Path(sys.executable).with_name("bids-validator-deno")
    validator = str(beside) if beside.is_file() else shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("tool missing: bids-validator-deno")
    done = subprocess.run(
        [validator, "--json", str(root)], capture_output=True, text=True, check=False, timeout=250
    )
    return json.loads(done.stdout)["issues"]["issues"]


def test_images_of_one_session_are_one_study(dataset):
    (listing,) = discover(dataset)
    assert sorted(series.series.description for series in listing.series) == sorted(IMAGES)


def test_maps_keep_the_entities_of_their_source(derivatives, report):
    entities = report.study.reference.series.source.name.rsplit("_", 1)[0]
    names = {path.name for path in (derivatives / SESSION).iterdir()}
    assert names == {
        f"{entities}_desc-{part}_dseg.{suffix}"
        for part in ("anatomy", "levels", "lesions")
        for suffix in ("nii.gz", "json", "tsv")
    }


def test_map_is_that_of_the_segmentation(derivatives, report):
    (path,) = derivatives.glob("sub-*/ses-*/anat/*desc-anatomy_dseg.nii.gz")
    image = nibabel.load(path)
    assert np.array_equal(np.asarray(image.dataobj), report.segmentation.anatomy)
    assert np.allclose(image.affine, report.segmentation.grid.affine)


def test_table_names_the_values(derivatives):
    (path,) = derivatives.glob("sub-*/ses-*/anat/*desc-anatomy_dseg.tsv")
    assert path.read_text().splitlines()[:2] == ["index\tname", "1\tvertebral_body"]


def test_description_says_what_made_it(derivatives):
    description = json.loads((derivatives / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "spinemets"
    assert description["GeneratedBy"][0]["Version"] == "0.1.0"


def test_derivatives_of_several_studies_can_be_put_into_one_dataset(report, derivatives, tmp_path):
    series = replace(report.study.reference.series, source=Path("DOE_JANE.nii.gz"))
    other = replace(report.study, volumes=(replace(report.study.reference, series=series),))
    write_results(replace(report, study=other), tmp_path, ReportConfig(formats=("bids",)))
    for name in ("dataset_description.json", "README.md"):
        assert (tmp_path / "bids" / name).read_bytes() == (derivatives / name).read_bytes()
    assert "DOE" not in " ".join(str(path) for path in (tmp_path / "bids").rglob("*"))


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("sub-7_T2w.nii.gz", "sub-7/anat/sub-7"),
        ("sub-7_acq-sag_run-1_desc-denoised_T2w.nii", "sub-7/anat/sub-7_acq-sag_run-1"),
        ("sub-7_ses-b_T1w.mha", "sub-7/ses-b/anat/sub-7_ses-b"),
    ],
)
def test_entities_of_a_name(source, stem):
    assert str(bids_stem(Series("1.2", "1.2.3", source=Path(source)), b"key")) == stem


@pytest.mark.parametrize("source", ["scan.nii.gz", "sub-01", "sub-01-T2w.nii.gz", "sub-_T2w.nii.gz", ""])
def test_other_names_become_a_hash(source):
    name = bids_stem(Series("1.2", "1.2.3", source=Path(source)), b"key").name
    assert name == bids_stem(Series("1.2", "9", source=Path("else")), b"key").name
    assert name != bids_stem(Series("1.2", "9", source=Path("else")), b"another key").name
    assert hashlib.sha256(b"1.2").hexdigest()[:10] not in name


def test_a_dicom_folder_s_name_is_no_subject():
    series = Series("1.2", "1.2.3", source=Path("sub-JaneDoe_MR"), files=(Path("sub-JaneDoe_MR/1.dcm"),))
    assert "JaneDoe" not in str(bids_stem(series, b"key"))


def test_validator_finds_no_error_in_input_and_derivatives(dataset, derivatives):
    for root in (dataset, derivatives):
        assert [issue for issue in validate(root) if issue.get("severity") == "error"] == []


def test_validator_misses_nothing_that_it_recommends_for_the_maps(derivatives):
    assert [issue for issue in validate(derivatives) if issue["code"] == "SIDECAR_KEY_RECOMMENDED"] == []


def test_validator_finds_the_error_in_a_dataset_without_a_description(derivatives, tmp_path):
    shutil.copytree(derivatives, tmp_path / "broken")
    (tmp_path / "broken/dataset_description.json").unlink()
    assert [issue for issue in validate(tmp_path / "broken") if issue.get("severity") == "error"]
