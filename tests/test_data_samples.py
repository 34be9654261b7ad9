"""The sample studies are intact, are what their README says, and can be made again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pydicom
import pytest

from spinemets.anatomy import Compartment, Structure
from spinemets.io.label_values import VERSE_LABELS

REPOSITORY = Path(__file__).parents[1]
SAMPLES = REPOSITORY / "data_samples"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    path = REPOSITORY / "scripts" / "make_data_samples.py"
    spec = importlib.util.spec_from_file_location("make_data_samples", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_data_samples"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_data_samples"]


def load(name: str) -> np.ndarray:
    return np.asarray(nibabel.load(SAMPLES / "truth" / name).dataobj)


def test_every_sample_has_the_checksum_that_was_recorded():
    lines = (SAMPLES / "SHA256SUMS").read_text().splitlines()
    recorded = dict(reversed(line.split("  ", 1)) for line in lines)
    present = {
        path.relative_to(SAMPLES).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in SAMPLES.rglob("*")
        if path.is_file() and path.name not in ("SHA256SUMS", "README.md")
    }
    assert present == recorded


def test_samples_are_small():
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 15e6


def test_localiser_is_made_again_as_it_is_stored(maker):
    phantom, properties, _ = maker.draw_patient(maker.THORACOLUMBAR_SEED, maker.THORACOLUMBAR_LESIONS)
    grid = maker.thoracolumbar_grid(phantom)
    for path, content in maker.localiser(phantom, properties, grid):
        stored = pydicom.dcmread(SAMPLES / path)
        again = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
        # Processors may round the sine differently, which moves a voxel on a surface here and there.
        assert (stored.pixel_array != again.pixel_array).mean() < 0.002
        del stored.PixelData, again.PixelData
        assert stored == again


def test_study_has_three_sagittal_sequences_in_one_frame_of_reference():
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (SAMPLES / "dicom").rglob("*.dcm")]
    assert len({header.StudyInstanceUID for header in headers}) == 1
    assert len({header.FrameOfReferenceUID for header in headers}) == 1
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    counts: dict[str, int] = {}
    for header in headers:
        counts[header.SeriesDescription] = counts.get(header.SeriesDescription, 0) + 1
    assert counts == {"Localizer": 3, "T2 TSE sag": 13, "T1 TSE sag": 13, "STIR sag": 13}


def test_study_holds_all_three_compartments_and_two_regions():
    lesions = json.loads((SAMPLES / "truth" / "dicom.json").read_text())["lesions"]
    assert {lesion["compartment"] for lesion in lesions} == {kind.value for kind in Compartment}
    assert {lesion["region"] for lesion in lesions} == {"thoracic", "lumbar"}


@pytest.mark.parametrize("name", ["dicom", "nifti"])
def test_truth_in_words_agrees_with_the_label_maps(name):
    record = json.loads((SAMPLES / "truth" / f"{name}.json").read_text())
    image = nibabel.load(SAMPLES / "truth" / f"{name}_lesions.nii.gz")
    lesions, levels = np.asarray(image.dataobj), load(f"{name}_levels.nii.gz")
    volume = abs(np.linalg.det(image.affine[:3, :3]))
    assert set(np.unique(lesions)) == {0, *(entry["lesion"] for entry in record["lesions"])}
    for entry in record["lesions"]:
        assert (lesions == entry["lesion"]).sum() * volume == pytest.approx(entry["volume_mm3"], abs=1)
    numbers = {level.value: number for level, number in VERSE_LABELS.items()}
    for entry in record["levels"]:
        place = np.linalg.inv(image.affine) @ (*entry["centroid_mm"], 1.0)
        assert levels[tuple(np.rint(place[:3]).astype(int))] == numbers[entry["level"]]


@pytest.mark.parametrize("name", ["dicom", "nifti"])
def test_lesions_lie_in_the_structures_of_their_compartment(name):
    hosts = {
        "extradural": {Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS, Structure.BACKGROUND},
        "intradural-extramedullary": {Structure.THECAL_SAC},
        "intramedullary": {Structure.CORD},
    }
    anatomy, lesions = load(f"{name}_anatomy.nii.gz"), load(f"{name}_lesions.nii.gz")
    for entry in json.loads((SAMPLES / "truth" / f"{name}.json").read_text())["lesions"]:
        assert set(anatomy[lesions == entry["lesion"]]) <= hosts[entry["compartment"]]
