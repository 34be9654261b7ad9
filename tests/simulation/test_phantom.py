"""Drawn spines: what levels they have, and whether their sizes are those of people."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.anatomy import SpineRegion, VertebralLevel
from spinemets.simulation.phantom import PhantomOptions, SpinePhantom, draw_spine

STANDARD = PhantomOptions(size=(1.0, 1.0), fracture=0.0)
COUNTS = {"usual": (12, 5), "T13": (13, 5), "L6": (12, 6), "no T12": (11, 5), "no L5": (12, 4)}


def spine(seed: int, options: PhantomOptions | None = None) -> SpinePhantom:
    return draw_spine(np.random.default_rng(seed), options)


@pytest.mark.parametrize("numbering", list(COUNTS))
def test_each_variant_has_its_number_of_thoracic_and_lumbar_vertebrae(numbering):
    levels = spine(1, PhantomOptions(numbering=numbering)).levels
    thoracic = sum(level.region is SpineRegion.THORACIC for level in levels)
    lumbar = sum(level.region is SpineRegion.LUMBAR for level in levels)
    assert (thoracic, lumbar) == COUNTS[numbering]
    assert list(levels) == sorted(levels)


@pytest.mark.parametrize("numbering", list(COUNTS))
def test_levels_descend_from_c1_to_s5(numbering):
    centroids = spine(2, PhantomOptions(numbering=numbering)).centroids_mm()
    heights = [centroids[level][2] for level in sorted(centroids)]
    assert heights == sorted(heights, reverse=True)
    assert next(iter(centroids)) is VertebralLevel.C1
    assert min(np.diff(sorted(heights))) > 8


def test_supernumerary_t13_bears_ribs_and_l1_does_not():
    phantom = spine(3, PhantomOptions(numbering="T13"))
    ribbed = {v.level for v in phantom.vertebrae if v.ribs}
    assert VertebralLevel.T13 in ribbed
    assert VertebralLevel.L1 not in ribbed


def test_equal_seeds_give_equal_spines_and_others_do_not():
    first, again, other = (spine(seed).centroids_mm() for seed in (4, 4, 5))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", range(4))
def test_lumbar_spine_is_as_long_as_that_of_adults(seed):
    # L1 to L5 with their discs measure about 160-210 mm (sum of bodies and discs).
    centroids = spine(seed, STANDARD).centroids_mm()
    gap = np.subtract(centroids[VertebralLevel.L1], centroids[VertebralLevel.L5])
    assert 115 < np.linalg.norm(gap) < 165


def test_bodies_grow_from_neck_to_loin():
    phantom = spine(6, STANDARD)
    width = {v.level: v.body.width_mm for v in phantom.vertebrae if v.level and v.body}
    assert 14 < width[VertebralLevel.C3] < 22
    assert 24 < width[VertebralLevel.T6] < 32
    assert 43 < width[VertebralLevel.L4] < 54


@pytest.mark.parametrize("seed", range(8))
def test_conus_lies_between_t12_and_l3(seed):
    phantom = spine(seed, PhantomOptions(numbering="usual"))
    conus = phantom.profile.landmarks_mm["conus"]
    centroids = phantom.centroids_mm()
    assert centroids[VertebralLevel.L3][2] < conus < centroids[VertebralLevel.T11][2]


def test_fractures_lower_the_body_by_their_genant_grade():
    options = PhantomOptions(fracture=1.0)
    fractured = [v for seed in range(12) for v in spine(seed, options).vertebrae if v.genant_grade]
    assert len(fractured) >= 12
    bands = {1: (0.20, 0.25), 2: (0.25, 0.40), 3: (0.40, 0.60)}
    for vertebra in fractured:
        body = vertebra.body
        middle = (0.5 * body.front_loss_mm + 1.4 * body.middle_loss_mm) / body.height_mm
        low, high = bands[vertebra.genant_grade]
        assert low <= max(middle, body.front_loss_mm / body.height_mm) <= high
    assert {v.genant_grade for v in fractured} == {1, 2, 3}


def test_no_fracture_is_drawn_when_none_is_asked_for():
    assert not any(v.genant_grade for seed in range(10) for v in spine(seed, STANDARD).vertebrae)


def test_discs_shrink_and_wear_with_age():
    young = [spine(seed, PhantomOptions(age_years=(20, 21))) for seed in range(8)]
    old = [spine(seed, PhantomOptions(age_years=(84, 85))) for seed in range(8)]

    def mean_grade(phantoms: list[SpinePhantom]) -> float:
        return float(np.mean([disc.grade for p in phantoms for disc in p.discs]))

    assert mean_grade(young) < 0.7 < 1.3 < mean_grade(old)
