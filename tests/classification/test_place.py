"""Which levels a lesion is said to touch, and when another one is named beside them."""

from __future__ import annotations

import numpy as np
import pytest

from phantoms import add_lesion, draw_phantom
from placed_lesions import placed, spine_of
from spinemets.anatomy import Structure, VertebralLevel
from spinemets.classification import classify
from spinemets.config import ClassificationConfig, LesionConfig, LevelConfig
from spinemets.findings import ReviewTopic
from spinemets.lesions import find_lesions
from spinemets.levels import label_levels


def test_lesion_that_touches_two_levels_names_both():
    phantom = spine_of("L3")
    centre = phantom.point("L3", phantom.body_front_mm("L3"), rise=1.2)
    found = placed(phantom, centre, (10, 10, 13))
    assert found.levels == (VertebralLevel.L3, VertebralLevel.L4)
    assert found.main_level in found.levels


def test_lesion_within_one_body_names_one_level():
    phantom = spine_of("L3")
    found = placed(phantom, phantom.point("L3", phantom.body_front_mm("L3")), (10, 10, 8), hidden_as=None)
    assert found.levels == (VertebralLevel.L3,)


def test_an_uncertain_level_needs_review_and_names_the_other_reading(chest):
    centre = chest.point("T6", chest.body_front_mm("T6"))
    segmentation = add_lesion(chest.segmentation, centre, (6, 6, 6))
    # Where the cut of the confidence lies is a matter of calibration.
    (lesion,) = find_lesions(segmentation, LesionConfig(minimum_confidence=0.0))
    vertebrae = label_levels(segmentation, LevelConfig())
    found = classify(lesion, segmentation, vertebrae, ClassificationConfig())
    assert found.needs_review
    assert any("uncertain" in reason and "it may be" in reason for reason in found.review_reasons)
    assert found.review_topics == (ReviewTopic.LEVEL,)


@pytest.mark.parametrize(
    ("front_mm", "right_mm", "rise", "doubted"),
    [
        (-14.0, 0.0, 0.25, True),  # the posterior arch of C1
        (6.0, 17.0, 0.25, True),  # its lateral mass
        (0.0, 0.0, 0.25, True),  # the canal at its height
        (16.0, 0.0, 0.25, False),  # the dens
        (16.0, 0.0, 0.8, False),  # the body of C2
        (3.0, -13.0, 0.8, False),  # its pedicle
    ],
)
def test_beside_the_dens_a_lesion_called_c2_may_be_of_c1(front_mm, right_mm, rise, doubted):
    phantom = draw_phantom(lowest="T2", spacing_mm=(3.0, 1.2, 1.2), half_width_mm=32.0)
    found = placed(phantom, phantom.point("C2", front_mm, right_mm, rise=rise), (4, 4, 4))
    assert found.main_level is VertebralLevel.C2
    assert any("may be C1" in reason for reason in found.review_reasons) == doubted
    assert (ReviewTopic.LEVEL in found.review_topics) == doubted


@pytest.mark.parametrize(("highest", "above"), [("T9", "T8"), ("T11", "T10")])
def test_a_lesion_in_the_process_of_a_vertebra_above_the_view_may_be_of_that_one(highest, above):
    phantom = draw_phantom(highest=highest, lowest="L3", margin_mm=2.0, spacing_mm=(4.0, 1.2, 1.2), seed=4)
    assert above not in phantom.names
    level_of = {name: list(VertebralLevel).index(VertebralLevel(name)) + 1 for name in (above, highest)}
    grid, anatomy = phantom.segmentation.grid, phantom.segmentation.anatomy
    doubted = {}
    for name, rank in level_of.items():
        arch = (phantom.level_map == rank) & (anatomy == Structure.POSTERIOR_ELEMENTS)
        behind = grid.to_world(np.argwhere(arch))
        process = behind[behind[:, 1] < np.quantile(behind[:, 1], 0.4)].mean(axis=0)
        found = placed(phantom, process, (5, 5, 5), None)
        assert found.main_level is VertebralLevel(highest)
        doubted[name] = ReviewTopic.LEVEL in found.review_topics
    assert doubted == {above: True, highest: False}


def test_a_lesion_far_from_every_vertebra_has_no_level_and_needs_review():
    phantom = draw_phantom(highest="L4", seed=1)
    below = phantom.point("S1", 0.0, rise=2.9)
    segmentation = add_lesion(phantom.segmentation, below, (4, 4, 4))
    # Where the cut of the confidence lies is a matter of calibration.
    (lesion,) = find_lesions(segmentation, LesionConfig(minimum_confidence=0.0))
    found = classify(lesion, segmentation, (), ClassificationConfig())
    assert found.levels == ()
    assert found.main_level is None
    assert found.region is None
    assert found.level_confidence == 0.0
    assert any("no level" in reason for reason in found.review_reasons)
