"""A collapse lowers one body, moves image and labels alike, and leaves what lies below alone."""

from __future__ import annotations

import numpy as np
import pytest

from phantoms import draw_phantom
from spinemets.anatomy import Structure
from spinemets.simulation.collapse import draw_collapse, moved_image, moved_labels

SPACING_MM = (4.0, 1.0, 1.0)
SEEDS = range(12)


@pytest.fixture(scope="module")
def structures():
    labels = draw_phantom(highest="T12", lowest="L5", spacing_mm=SPACING_MM).segmentation.anatomy.copy()
    labels.setflags(write=False)
    return labels


@pytest.fixture(scope="module")
def collapses(structures):
    drawn = [draw_collapse(structures, SPACING_MM, np.random.default_rng(seed)) for seed in SEEDS]
    found = [heights for heights in drawn if heights is not None]
    assert len(found) >= len(SEEDS) // 2
    return found


def test_bone_is_lost_and_the_rest_is_kept(structures, collapses):
    before = (structures == Structure.VERTEBRAL_BODY).sum()
    for heights in collapses:
        after = moved_labels(structures, heights)
        assert after.dtype == structures.dtype
        lost = 1 - (after == Structure.VERTEBRAL_BODY).sum() / before
        assert 0 < lost < 0.25
        assert (after == Structure.THECAL_SAC).sum() == pytest.approx(
            (structures == Structure.THECAL_SAC).sum(), rel=0.1
        )
    assert (
        max(1 - (moved_labels(structures, h) == Structure.VERTEBRAL_BODY).sum() / before for h in collapses)
        > 0.03
    )


def test_heights_rise_everywhere_and_nothing_below_moves(structures, collapses):
    own = np.arange(structures.shape[2])
    for heights in collapses:
        assert (np.diff(heights, axis=1) > 0).all()
        moves = np.abs(heights - own) > 0.01
        assert (heights - own >= -1e-3).all()
        first = np.flatnonzero(moves.any(axis=0))[0]
        assert np.array_equal(moved_labels(structures, heights)[:, :, :first], structures[:, :, :first])


def test_image_and_labels_move_together(structures, collapses):
    for heights in collapses:
        image = moved_image(
            np.where(structures == Structure.VERTEBRAL_BODY, 100.0, 0.0).astype(np.float32), heights
        )
        body = moved_labels(structures, heights) == Structure.VERTEBRAL_BODY
        assert image.dtype == np.float32
        assert ((image > 50) == body).mean() > 0.99


def test_heights_that_stay_change_nothing(structures):
    own = np.broadcast_to(np.arange(structures.shape[2], dtype=np.float32), structures.shape[1:])
    image = structures.astype(np.float32)
    assert np.array_equal(moved_image(image, own), image)
    assert np.array_equal(moved_labels(structures, own), structures)


def test_without_a_whole_body_nothing_collapses():
    labels = np.zeros((5, 60, 60), dtype=np.uint8)
    rng = np.random.default_rng(0)
    assert draw_collapse(labels, SPACING_MM, rng) is None
    labels[:, 20:50, 40:] = Structure.VERTEBRAL_BODY  # cut by the upper edge
    assert draw_collapse(labels, SPACING_MM, rng) is None
    labels[:] = 0
    labels[2, 30:34, 30:34] = Structure.VERTEBRAL_BODY
    assert draw_collapse(labels, SPACING_MM, rng) is None
