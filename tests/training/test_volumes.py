"""What training makes of an image lies where the image lies."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from spinemets.errors import GeometryError
from spinemets.training.datasets.volumes import crop_to_spine, to_training_spacing, training_affine
from spinemets.training.images import load
from spinemets.volume import Grid


def oblique_grid(shape, spacing_mm):
    turn, tilt = np.deg2rad(20), np.deg2rad(-8)
    about_x = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    about_z = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing_mm)
    affine[:3, 3] = -12.5, 30.0, 7.25
    return Grid(shape, affine)


@pytest.mark.parametrize("spacing_mm", [(4.0, 0.6, 0.47), (0.9, 0.47, 0.47), (0.5, 1.0, 1.3)])
@pytest.mark.parametrize("cropped", [False, True])
def test_voxels_keep_their_place(spacing_mm, cropped):
    grid = oblique_grid((12, 220, 260), spacing_mm)
    places = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    made = [
        to_training_spacing(places[..., axis].astype(np.float32), spacing_mm, labels=False)[0]
        for axis in range(3)
    ]
    box = None
    if cropped:
        shown = np.zeros(made[0].shape, dtype=np.bool_)
        shown[1:3, 85:95, 60:70] = True
        box = crop_to_spine(shown, (4.0, 1.0, 1.0))
        made = [one[box] for one in made]
    moved = np.stack(made, axis=-1)
    expected = Grid(moved.shape[:3], training_affine(grid, box)).to_world(
        np.moveaxis(np.indices(moved.shape[:3]), 0, -1)
    )
    # At the edges there is nothing to interpolate with.
    inner = (slice(None), slice(2, -2), slice(2, -2))
    assert np.abs(moved[inner] - expected[inner]).max() < 0.1


def test_a_file_whose_axis_has_no_length_is_named(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    image.set_sform(np.diag([1.0, 1.0, 1e-12, 1.0]), code=1)
    nib.save(image, tmp_path / "flat.nii.gz")
    with pytest.raises(GeometryError, match="flat"):
        load(tmp_path / "flat.nii.gz")


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_0_and_the_others_keep_their_signal(tmp_path, odd):
    voxels = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    voxels[0] = odd
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "odd.nii")
    found = load(tmp_path / "odd.nii").voxels
    assert not found[0].any()
    assert np.array_equal(found[1:], voxels[1:])
