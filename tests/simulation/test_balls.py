"""Balls lie whole in one structure, far from each other, at a multiple of its signal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from phantoms import draw_phantom
from spinemets.anatomy import Compartment, Structure
from spinemets.simulation.balls import plan_balls, render_balls
from spinemets.volume import Weighting

SPACING_MM = (4.0, 1.0, 1.0)
GREY = np.array((60, 100, 100, 90, 150, 80, 100), dtype=np.float32)
BONE = (Structure.VERTEBRAL_BODY, Structure.POSTERIOR_ELEMENTS, Structure.SACRUM)
SEEDS = range(20)


@pytest.fixture(scope="module")
def structures():
    return draw_phantom(highest="T11", lowest="L2", conus="L1", spacing_mm=SPACING_MM).segmentation.anatomy


@pytest.fixture(scope="module")
def plans(structures):
    return [plan_balls(structures, SPACING_MM, np.random.default_rng(seed)) for seed in SEEDS]


def test_each_lies_in_the_structure_of_its_compartment(structures, plans):
    hosts = {
        Compartment.EXTRADURAL: BONE,
        Compartment.INTRADURAL_EXTRAMEDULLARY: (Structure.THECAL_SAC,),
        Compartment.INTRAMEDULLARY: (Structure.CORD,),
    }
    seen = set()
    for plan in plans:
        for number, lesion in enumerate(plan.lesions, start=1):
            assert np.isin(structures[plan.masks == number], hosts[lesion.compartment]).all()
            seen.add(lesion.compartment)
    assert seen == set(hosts)


def test_two_of_a_study_are_far_apart(plans):
    assert any(len(plan.lesions) == 2 for plan in plans)
    for plan in plans:
        if len(plan.lesions) == 2:
            away = ndimage.distance_transform_edt(plan.masks != 1, sampling=SPACING_MM)
            assert away[plan.masks == 2].min() > 10


@pytest.mark.parametrize(
    ("weighting", "bone", "sac"),
    [
        (Weighting.T1, "darker", "brighter"),
        (Weighting.T2_FS, "brighter", "darker"),
        (Weighting.T2, "either", "darker"),
    ],
)
def test_the_signal_is_a_multiple_of_the_hosts(structures, plans, weighting, bone, sac):
    image = GREY[structures]
    limits = {"darker": (0.3, 0.72), "brighter": (1.45, 2.6), "either": (0.3, 2.6)}
    for seed, plan in enumerate(plans):
        ill = render_balls(image, structures, SPACING_MM, weighting, plan, np.random.default_rng(seed))
        assert ill.compartments == tuple(lesion.compartment for lesion in plan.lesions)
        unchanged = ndimage.binary_dilation(plan.masks > 0, iterations=2)
        assert np.array_equal(ill.image[~unchanged], image[~unchanged])
        for number, lesion in enumerate(plan.lesions, start=1):
            inside = ndimage.distance_transform_edt(plan.masks == number, sampling=SPACING_MM) > 3
            low, high = limits[sac if lesion.compartment is Compartment.INTRADURAL_EXTRAMEDULLARY else bone]
            if lesion.compartment is not Compartment.INTRAMEDULLARY and inside.any():
                assert low <= np.median(ill.image[inside] / image[inside]) <= high


def test_where_there_is_no_spine_there_is_no_ball():
    plan = plan_balls(np.zeros((4, 20, 20), dtype=np.uint8), SPACING_MM, np.random.default_rng(0))
    assert plan.lesions == ()
    assert not plan.masks.any()
