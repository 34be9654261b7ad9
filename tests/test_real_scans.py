"""Real scans, read, registered and analysed; in the folder that SPINEMETS_REAL_DATA names.

Its sub-folders are described in the data's own README: ``spider``, ``sct``, ``vb1``, ``vb3``.
"""

import os
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spinemets.bundles import load_bundle
from spinemets.config import DetectionConfig, ReadingConfig, SegmentationConfig
from spinemets.detection import detect, load_models
from spinemets.errors import InputError, ModelNotFoundError
from spinemets.evaluation.files import read_label_map
from spinemets.evaluation.spider import SpiderPrediction, body_centres_mm, score_spider
from spinemets.io import VERSE_LABELS, discover, read_study
from spinemets.registration import align
from spinemets.resampling import RigidTransform
from spinemets.results import lesion_map, level_map
from spinemets.volume import Grid, Study, Volume

DATA = Path(os.environ.get("SPINEMETS_REAL_DATA", ""))
FOLDERS = ("spider", "sct", "vb1", "vb3")
LABEL_MARKS = ("_dseg", "_bodies", "_cord", "_seg", "_landmarks")
HELD_OUT = "045"

pytestmark = pytest.mark.skipif(
    not os.environ.get("SPINEMETS_REAL_DATA"), reason="SPINEMETS_REAL_DATA names no folder of real scans"
)


def scans(folder):
    """The images of one sub-folder, and apart from them the label maps."""
    files = sorted((DATA / folder).glob("*.nii.gz"))
    labels = [file for file in files if any(mark in file.name for mark in LABEL_MARKS)]
    images = [file for file in files if file not in labels]
    assert images, f"{DATA / folder} holds no scans"
    return images, labels


def read(file):
    (listing,) = discover(file)
    return read_study(listing, ReadingConfig())


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_scan_is_read_where_its_file_says_it_lies(folder):
    for file in scans(folder)[0]:
        volume = read(file).reference
        image = nibabel.load(file)
        np.testing.assert_allclose(volume.grid.affine, image.affine, atol=1e-4, err_msg=file.name)
        assert volume.grid.shape == image.shape, file.name
        middle = image.shape[0] // 2
        np.testing.assert_array_equal(volume.intensities[middle], image.dataobj[middle], err_msg=file.name)


@pytest.mark.parametrize("folder", FOLDERS)
def test_label_maps_beside_the_scans_are_not_taken_for_scans(folder):
    for file in scans(folder)[1]:
        with pytest.raises(InputError, match="label map"):
            read(file)


@cache
def thick_slices(file, thickness=4):
    """A 1 mm scan averaged to slices as thick as routine ones."""
    study = read(file)
    volume = study.reference
    count = volume.grid.shape[0] // thickness
    slices = (
        volume.intensities[: count * thickness].reshape(count, thickness, *volume.grid.shape[1:]).mean(axis=1)
    )
    affine = np.array(volume.grid.affine)
    affine[:3, 3] = volume.grid.to_world(((thickness - 1) / 2, 0, 0))
    affine[:3, 0] *= thickness
    return Volume(slices, Grid(slices.shape, affine), volume.series)


def placed_elsewhere(volume, transform):
    return Volume(
        volume.intensities, Grid(volume.grid.shape, transform.matrix @ volume.grid.affine), volume.series
    )


def test_a_t1_and_a_t2_of_one_person_are_registered():
    t1, t2 = thick_slices(DATA / "vb1/VB1_10_DzZ_T1.nii.gz"), thick_slices(DATA / "vb1/VB1_11_DzZ_T2.nii.gz")
    centre = t1.grid.to_world((np.array(t1.grid.shape) - 1) / 2)
    matrix = np.eye(4)
    angle = np.radians(6)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = centre + np.array([-4, 12, -25]) - matrix[:3, :3] @ centre
    truth = RigidTransform(matrix)
    moved = placed_elsewhere(t2, truth)
    alignment = align(Study("study", (t1, moved)), SegmentationConfig())
    gap = RigidTransform(np.linalg.inv(truth.matrix) @ alignment.transforms[1].matrix)
    assert gap.shift_mm(centre) < 1.5
    assert gap.rotation_degrees < 1.0
    assert "was moved by" in alignment.cautions[0]


@pytest.mark.parametrize("shift_mm", [(0, 3, -4), (0, 0, 8), (2, 6, 9), (0, 5, -35)])
def test_a_series_with_an_empty_rim_is_registered(shift_mm):
    t1, t2 = thick_slices(DATA / "vb1/VB1_10_DzZ_T1.nii.gz"), thick_slices(DATA / "vb1/VB1_11_DzZ_T2.nii.gz")
    # As a reformatted series, or one whose distortion was corrected, has it.
    shown = t1.intensities.copy()
    shown[0] = shown[:, :, 330:] = 0
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    moved = placed_elsewhere(Volume(shown, t1.grid, t1.series), RigidTransform(matrix))
    alignment = align(Study("study", (t2, moved)), SegmentationConfig())
    found = alignment.transforms[1]
    centre = t2.grid.to_world((np.array(t2.grid.shape) - 1) / 2)
    assert np.linalg.norm(found.apply(centre) - centre - shift_mm) < 1.5
    assert found.rotation_degrees < 1.0
    assert "was moved by" in alignment.cautions[0]


def test_two_different_people_are_not_registered():
    one, other = thick_slices(DATA / "vb1/VB1_10_DzZ_T1.nii.gz"), thick_slices(DATA / "vb1/VB1_17_St1.nii.gz")
    alignment = align(Study("study", (one, other)), SegmentationConfig())
    assert alignment.transforms[1].is_identity
    assert "could not be aligned" in alignment.cautions[0]


def test_the_bodies_of_a_lumbar_scan_are_counted_inside_its_vertebrae():
    for file in scans("spider")[1]:
        truth, grid = read_label_map(file)
        levels = list(body_centres_mm(truth, grid))
        assert [level.value for level in levels[:6]] == ["L5", "L4", "L3", "L2", "L1", "T12"], file.name


def test_a_lumbar_scan_that_was_not_trained_on_is_analysed():
    try:
        bundle = load_bundle()
    except ModelNotFoundError as error:
        pytest.skip(f"no default model: {error}")
    config = DetectionConfig(segmentation=SegmentationConfig(device="cpu"))
    study = read(DATA / f"spider/sub-{HELD_OUT}_T2w.nii.gz")
    report = detect(study, load_models(bundle, config.segmentation), config)
    truth, grid = read_label_map(DATA / f"spider/sub-{HELD_OUT}_dseg.nii.gz")
    names = {number: level for level, number in VERSE_LABELS.items()}
    prediction = SpiderPrediction(report.segmentation.anatomy, level_map(report), names, lesion_map(report))
    score = score_spider(HELD_OUT, prediction, truth, grid)
    assert score.dice["vertebra"] >= 0.8
    assert score.dice["canal"] >= 0.8
    assert score.dice["disc"] >= 0.7
    assert all(outcome.is_right for outcome in score.levels), score.row()["wrong levels"]
    assert report.provenance.execution.device == "cpu"
