"""Shapes: distances are right where they are known."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.simulation.implicit import (
    BodyShape,
    Capsule,
    body_distance,
    capsule_distance,
    draw_waves,
    smooth_waves,
)


def points(*rows):
    return tuple(np.array(axis, dtype=np.float32) for axis in zip(*rows, strict=True))


def test_round_capsule_has_the_exact_distance():
    rod = Capsule((0, 0, 0), (10, 0, 0), (2, 2, 2))
    distance = capsule_distance(points((5, 3, 0), (13, 0, 0), (5, 0, 1), (-2, 0, 0)), rod)
    assert distance == pytest.approx([1, 1, -1, 0], abs=1e-5)


def test_ellipsoid_is_zero_on_its_poles():
    ball = Capsule((1, 0, 0), (1, 0, 0), (3, 2, 5))
    assert capsule_distance(points((4, 0, 0), (1, -2, 0), (1, 0, 5)), ball) == pytest.approx(0, abs=1e-5)


def test_body_reaches_its_width_depth_and_height():
    shape = BodyShape(40, 30, 26, concavity_mm=(1.0, 1.0))
    inside, _ = body_distance(points((0, 0, 0), (19.5, 0, 12.8), (0, 14.5, 12.8)), shape)
    outside, _ = body_distance(points((20.5, 0, 12.8), (0, 15.5, 12.8), (0, 0, 13.2)), shape)
    assert (inside < 0).all()
    assert (outside > 0).all()


def test_wedge_fracture_lowers_the_front_and_not_the_rear():
    shape = BodyShape(40, 30, 26, concavity_mm=(0.0, 0.0), front_loss_mm=8)
    distance, _ = body_distance(points((0, 13, 8), (0, -13, 11)), shape)
    assert distance[0] > 0
    assert distance[1] < 0


def test_waves_have_the_deviation_asked_for():
    rng = np.random.default_rng(0)
    place = points(*rng.uniform(-500, 500, (20000, 3)))
    assert smooth_waves(place, draw_waves(rng, (20, 60), 1.5, 12)).std() == pytest.approx(1.5, rel=0.1)
