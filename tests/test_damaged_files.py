"""All readers of NIfTI files refuse the same ones by name, and find the others at the same place."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from damaged_files import DAMAGES, damaged_nifti
from spinemets.errors import UnreadableFileError, UnsupportedInputError
from spinemets.evaluation.files import read_label_map
from spinemets.io.files import read_image
from spinemets.training.images import load


@pytest.mark.parametrize("reader", [read_image, load, read_label_map])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path, reader, damage):
    path = damaged_nifti(tmp_path, damage)
    with pytest.raises(UnreadableFileError, match=path.name):
        reader(path)


@pytest.mark.parametrize("reader", [read_image, load, read_label_map])
@pytest.mark.parametrize("values", [np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), np.complex64])
def test_colours_and_complex_values_are_refused_by_name(tmp_path, reader, values):
    path = tmp_path / "odd.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), values), np.eye(4)), path)
    with pytest.raises(UnsupportedInputError, match=path.name):
        reader(path)


def test_a_file_without_orientation_lies_at_one_place_for_all(tmp_path):
    path = tmp_path / "codes0.nii.gz"
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5) % 7
    image = nibabel.Nifti1Image(voxels, None)
    image.header.set_zooms((4.0, 1.0, 1.0))
    nibabel.save(image, path)
    array, header = read_image(path)
    labels, grid = read_label_map(path)
    loaded = load(path)
    assert grid.is_close(header.grid)
    assert loaded.grid.is_close(header.grid)
    for found in (labels, loaded.voxels):
        assert np.array_equal(found, array)
