"""Label maps and probability maps out."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinemets.anatomy import Compartment, Structure, VertebralLevel
from spinemets.config import ReadingConfig
from spinemets.errors import GeometryError, OutputError
from spinemets.io import (
    ANATOMY_LABELS,
    COMPARTMENT_LABELS,
    LEVEL_LABELS,
    VERSE_LABELS,
    discover,
    read_study,
    write_label_map,
    write_probability_map,
)
from spinemets.io.files import read_image_header
from spinemets.volume import Grid

GRID = Grid((4, 5, 6), np.diag([4.0, 1.0, 1.0, 1.0]))


def labels() -> np.ndarray:
    array = np.zeros((4, 5, 6), dtype=np.int64)
    array[1, 2, 3], array[2, 2, 2] = 20, 28
    return array


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    permutation=st.permutations((0, 1, 2)),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    angles=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
)
def test_a_label_map_comes_back_on_its_grid(tmp_path_factory, oblique_affine, permutation, signs, angles):
    grid = Grid((4, 5, 6), oblique_affine(tuple(permutation), signs, angles))
    path = tmp_path_factory.mktemp("labels") / "levels.nii.gz"
    write_label_map(path, labels(), grid, LEVEL_LABELS)
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), labels())
    assert image.get_data_dtype() == np.uint8
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert read_image_header(path).grid.is_close(grid)
    assert read_image_header(path).cautions == ()
    np.testing.assert_allclose(image.get_qform(), grid.affine, atol=1e-3)


def test_a_label_map_lies_on_the_dicom_series_it_belongs_to(tmp_path, dicom, oblique_affine):
    affine = oblique_affine((0, 2, 1), (-1, 1, -1), (12.0, 7.0))
    voxels = dicom.noise()
    voxels[2, 20, 3] = 9000
    dicom.classic(tmp_path / "in", voxels, affine)
    (listing,) = discover(tmp_path / "in")
    volume = read_study(listing, ReadingConfig()).reference
    mask = (volume.intensities == 9000).astype(np.uint8)
    write_label_map(tmp_path / "m.nii.gz", mask, volume.grid, {1: "marked"})
    image = nibabel.load(tmp_path / "m.nii.gz")
    place = np.argwhere(np.asanyarray(image.dataobj) == 1)[0]
    np.testing.assert_allclose((image.affine @ [*place, 1])[:3], (affine @ [2, 20, 3, 1])[:3], atol=0.01)


def test_names_stand_beside_the_map(tmp_path):
    paths = write_label_map(tmp_path / "out" / "levels.nii.gz", labels(), GRID, {20: "L1", 28: "T13"})
    assert [path.name for path in paths] == ["levels.nii.gz", "levels.json", "levels.tsv"]
    assert json.loads(paths[1].read_text()) == {"labels": {"20": "L1", "28": "T13"}}
    assert paths[2].read_text() == "index\tname\n20\tL1\n28\tT13\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)


def test_equal_labels_give_equal_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label_map(tmp_path / name, labels(), GRID, LEVEL_LABELS)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_empty_map_can_be_written(tmp_path):
    write_label_map(tmp_path / "lesions.nii.gz", np.zeros((4, 5, 6), dtype=np.uint16), GRID, {})
    assert not np.asanyarray(nibabel.load(tmp_path / "lesions.nii.gz").dataobj).any()


def test_a_value_without_a_name_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"without a name: \[28\]"):
        write_label_map(tmp_path / "a.nii.gz", labels(), GRID, {20: "L1"})


def test_a_value_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(OutputError, match="0 to 65535, not 0 to 70000"):
        write_label_map(tmp_path / "a.nii.gz", np.where(labels() > 0, 70000, 0), GRID, {70000: "x"})


@pytest.mark.parametrize(("largest", "stored"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_more_than_255_labels_are_stored_in_two_bytes(tmp_path, largest, stored):
    array = np.where(labels() > 0, largest, 0)
    write_label_map(tmp_path / "lesions.nii.gz", array, GRID, {largest: "the last one"})
    image = nibabel.load(tmp_path / "lesions.nii.gz")
    assert image.get_data_dtype() == stored
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)


def test_a_map_of_another_shape_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="does not fit"):
        write_label_map(tmp_path / "a.nii.gz", labels()[:3], GRID, LEVEL_LABELS)
    assert list(tmp_path.iterdir()) == []


def test_probabilities_come_back_to_four_digits(tmp_path):
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    path = write_probability_map(tmp_path / "p.nii.gz", array, GRID)
    np.testing.assert_allclose(nibabel.load(path).get_fdata(), array, atol=1e-5)


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan])
def test_what_is_no_probability_is_refused(tmp_path, bad):
    array = np.full((4, 5, 6), 0.5, dtype=np.float32)
    array[0, 0, 0] = bad
    with pytest.raises(OutputError, match=r"must lie in \[0, 1\]"):
        write_probability_map(tmp_path / "p.nii.gz", array, GRID)


def test_levels_have_their_verse_numbers():
    expected = {
        "C1": 1,
        "C7": 7,
        "T1": 8,
        "T12": 19,
        "T13": 28,
        "L1": 20,
        "L5": 24,
        "L6": 25,
        "S1": 26,
        "S2": 29,
        "S5": 32,
    }
    assert {name: VERSE_LABELS[VertebralLevel(name)] for name in expected} == expected
    assert len(set(VERSE_LABELS.values())) == len(VertebralLevel)
    assert 27 not in LEVEL_LABELS


def test_every_structure_and_compartment_has_a_label():
    assert set(ANATOMY_LABELS) == {int(one) for one in Structure} - {0}
    assert ANATOMY_LABELS[int(Structure.CORD)] == "spinal_cord"
    assert set(COMPARTMENT_LABELS) == set(Compartment)
