"""Label maps of phantoms: everything is where anatomy has it, on any grid."""

from __future__ import annotations

import time

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from spinemets.anatomy import Structure, VertebralLevel
from spinemets.simulation.phantom import draw_spine
from spinemets.simulation.rasterisation import rasterise
from spinemets.simulation.tissues import LEVEL_OF_CODE, Tissue, code_of_level, structure_of_tissue
from spinemets.volume import Grid


def test_every_level_is_drawn_about_its_centroid(drawn):
    phantom, labels = drawn
    structures = structure_of_tissue(labels.tissue)
    bodies = np.isin(structures, (Structure.VERTEBRAL_BODY, Structure.SACRUM))
    for level, centroid in phantom.centroids_mm().items():
        voxel = tuple(np.rint(labels.grid.to_index(centroid)).astype(int))
        assert labels.vertebra[voxel] == code_of_level(level), level
        assert bodies[voxel], level


def test_levels_drawn_are_the_levels_of_the_spine(drawn):
    phantom, labels = drawn
    codes = set(np.unique(labels.vertebra)) - {0}
    assert {LEVEL_OF_CODE[int(code)] for code in codes} == set(phantom.levels)


def test_cord_is_wrapped_in_the_sac(drawn):
    _, labels = drawn
    structures = structure_of_tissue(labels.tissue)
    cord = structures == Structure.CORD
    touched = ndimage.binary_dilation(cord) & ~cord
    around = structures[touched]
    # At the skull the cord goes on as brain stem.
    inside = np.isin(around, (Structure.THECAL_SAC,)) | (labels.tissue[touched] == Tissue.BRAIN)
    assert cord.sum() > 1000
    assert inside.mean() > 0.97


def test_no_bone_touches_the_cord(drawn):
    _, labels = drawn
    structures = structure_of_tissue(labels.tissue)
    bone = np.isin(structures, (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS, Structure.SACRUM))
    touched = ndimage.binary_dilation(structures == Structure.CORD) & bone
    assert touched.sum() < 0.01 * (structures == Structure.CORD).sum()


def test_sac_is_one_piece_from_neck_to_sacrum(drawn):
    phantom, labels = drawn
    canal = np.isin(structure_of_tissue(labels.tissue), (Structure.THECAL_SAC, Structure.CORD))
    pieces = cc3d.connected_components(canal, connectivity=26)
    sizes = np.bincount(pieces.ravel())[1:]
    assert sizes.max() / sizes.sum() > 0.99
    heights = labels.grid.to_world(np.argwhere(pieces == 1 + sizes.argmax()))[:, 2]
    centroids = phantom.centroids_mm()
    assert heights.max() > centroids[VertebralLevel.C1][2] - 5
    # The canal lies behind the tilted sacrum, and so above the body of the same level.
    assert heights.min() < centroids[VertebralLevel.S1][2] + 12


def test_every_body_is_one_piece_and_of_human_volume(drawn):
    phantom, labels = drawn
    bodies = structure_of_tissue(labels.tissue) == Structure.VERTEBRAL_BODY
    limits_ml = {"C": (2.0, 16.0), "T": (4.0, 50.0), "L": (15.0, 90.0)}
    for level in phantom.levels:
        if level.value[0] == "S" or level is VertebralLevel.C1:
            continue
        body = bodies & (labels.vertebra == code_of_level(level))
        sizes = np.bincount(cc3d.connected_components(body, connectivity=26).ravel())[1:]
        assert sizes.max() / sizes.sum() > 0.98, level
        low, high = limits_ml[level.value[0]]
        assert low < sizes.sum() * labels.grid.voxel_volume_mm3 / 1000 < high, level


def test_neighbouring_bodies_do_not_touch(drawn):
    _, labels = drawn
    bodies = structure_of_tissue(labels.tissue) == Structure.VERTEBRAL_BODY
    codes = np.where(bodies, labels.vertebra, 0)
    below = codes[:, :, :-1]
    above = codes[:, :, 1:]
    pairs = (below > 0) & (above > 0) & (below != above)
    free_of_dens = pairs & ~np.isin(above, [code_of_level(VertebralLevel.C1)])
    assert free_of_dens.sum() < 0.002 * bodies.sum()


def test_discs_lie_between_bodies(drawn):
    phantom, labels = drawn
    discs = structure_of_tissue(labels.tissue) == Structure.DISC
    for disc in phantom.discs:
        voxel = np.rint(labels.grid.to_index(phantom.deformed(disc.centre_mm))).astype(int)
        around = tuple(slice(i - 1, i + 2) for i in voxel)
        assert discs[around].any()


def test_left_aorta_stays_left():
    phantom = draw_spine(np.random.default_rng(5))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-60, -30, phantom.centroids_mm()[VertebralLevel.T9][2])
    labels = rasterise(phantom, Grid((60, 60, 3), affine))
    x = labels.grid.to_world(np.argwhere(labels.tissue == Tissue.VESSEL))[:, 0]
    assert x.size > 20
    assert np.median(x) < phantom.centroids_mm()[VertebralLevel.T9][0]


def test_the_same_place_holds_the_same_tissue_on_any_grid():
    phantom = draw_spine(np.random.default_rng(6))
    affine = np.diag([3.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-20, -50, 40)
    grid = Grid((14, 40, 40), affine)
    flipped_axes = affine[:, [2, 0, 1, 3]] @ np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped_axes[:3, 3] = grid.to_world((0, 0, 39))
    turned = rasterise(phantom, Grid((40, 14, 40), flipped_axes))
    straight = rasterise(phantom, grid)
    back = np.transpose(turned.tissue[::-1], (1, 2, 0))
    # Rounding may move a voxel that lies on a surface.
    assert (back == straight.tissue).mean() > 0.9995


def test_a_training_patch_is_drawn_within_a_second():
    phantom = draw_spine(np.random.default_rng(7))
    affine = np.diag([4.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-22, -100, 0)
    start = time.process_time()
    rasterise(phantom, Grid((12, 176, 256), affine))
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("tissue", "structure"),
    [
        (Tissue.CSF, Structure.THECAL_SAC),
        (Tissue.NERVE_ROOTS, Structure.THECAL_SAC),
        (Tissue.EPIDURAL_FAT, Structure.BACKGROUND),
        (Tissue.BODY_CORTEX, Structure.VERTEBRAL_BODY),
        (Tissue.HAEMANGIOMA, Structure.VERTEBRAL_BODY),
        (Tissue.POSTERIOR_MARROW, Structure.POSTERIOR_ELEMENTS),
        (Tissue.ANNULUS, Structure.DISC),
        (Tissue.CORD, Structure.CORD),
        (Tissue.SACRUM_MARROW, Structure.SACRUM),
        (Tissue.RIB, Structure.BACKGROUND),
    ],
)
def test_tissue_belongs_to_its_structure(tissue, structure):
    assert structure_of_tissue(np.array([tissue], dtype=np.uint8))[0] == structure
