from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinemets.anatomy import Compartment, Structure
from spinemets.reporting.scene import make_scene


def ball(report, centre, radius):
    grid = report.segmentation.grid
    points = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.linalg.norm(points - np.array(centre), axis=-1) < radius


def with_cord(report, *masks):
    anatomy = np.array(report.segmentation.anatomy)
    for mask in masks:
        anatomy[mask] = Structure.CORD
    return replace(report, segmentation=replace(report.segmentation, anatomy=anatomy))


@pytest.fixture
def bare(make_report):
    return make_report(series=1, lesions=False)


def test_what_is_called_cord_in_the_cauda_equina_is_not_shown_as_cord(bare):
    piece = ball(bare, (0.0, -28.0, -60.0), 6)
    scene = make_scene(with_cord(bare, piece), 0.8)
    assert not scene.cord[piece].any()
    assert scene.sac[piece].all()
    assert np.array_equal(scene.cord, make_scene(bare, 0.8).cord)


def test_a_cord_in_two_pieces_is_shown_down_to_its_end(bare):
    anatomy = np.array(bare.segmentation.anatomy)
    heights = bare.segmentation.grid.to_world(np.moveaxis(np.indices(anatomy.shape), 0, -1))[..., 2]
    # The larger piece is the lower one.
    anatomy[(anatomy == Structure.CORD) & (np.abs(heights - 105) < 5)] = Structure.THECAL_SAC
    report = replace(bare, segmentation=replace(bare.segmentation, anatomy=anatomy))
    assert np.array_equal(make_scene(report, 0.8).cord, anatomy == Structure.CORD)


def test_cord_that_makes_a_lesion_intramedullary_stays_in_the_picture(make_report):
    report = make_report(series=1)
    cauda = report.findings[2]
    piece = cauda.lesion.mask()
    as_cord = replace(cauda, compartment=Compartment.INTRAMEDULLARY)
    for finding, shown in ((cauda, False), (as_cord, True)):
        scene = make_scene(with_cord(replace(report, findings=(finding,)), piece), 0.8)
        assert scene.cord[piece].any() == shown
