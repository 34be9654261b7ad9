"""What else a reader is asked to check of a lesion, and that the grid changes nothing of a finding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phantoms import add_lesion, draw_phantom, ellipsoid
from placed_lesions import finding, placed, spine_of, truly_named
from spinemets.anatomy import Compartment, Structure, VertebralLevel
from spinemets.classification import classify
from spinemets.config import ClassificationConfig, LesionConfig
from spinemets.findings import ReviewTopic, SequenceSignal
from spinemets.lesions import find_lesions
from spinemets.volume import Series, Volume


def test_a_weak_lesion_needs_review():
    phantom = spine_of("L3")
    centre = phantom.point("L3", phantom.body_front_mm("L3"))
    weak = add_lesion(phantom.segmentation, centre, (6, 6, 6), probability=0.75)
    # What the released calibration makes of it is another question.
    config = LesionConfig(
        minimum_confidence=0.0, confidence_shift=-2.0, confidence_evidence=1.0, confidence_size=0.0
    )
    found = finding(phantom, weak, config)
    assert any("weak" in reason for reason in found.review_reasons)
    assert found.review_topics == (ReviewTopic.EVIDENCE,)


def test_a_lesion_cut_by_the_images_border_needs_review():
    phantom = spine_of("L3")
    grid = phantom.segmentation.grid
    centre = phantom.point("L3", phantom.body_front_mm("L3"))
    centre[1] = grid.to_world(np.array(grid.shape) - 1.0)[1]
    found = placed(phantom, centre, (6, 8, 6), hidden_as=None)
    assert any("image's border" in reason for reason in found.review_reasons)
    assert ReviewTopic.EXTENT in found.review_topics


@pytest.mark.parametrize(("axis", "cut"), [(0, False), (2, True)])
def test_a_lesion_that_ends_at_an_empty_rim_is_cut(lumbar_spine, axis, cut):
    centre = lumbar_spine.point("L2", lumbar_spine.body_front_mm("L2"))
    segmentation = add_lesion(lumbar_spine.segmentation, centre, (8, 8, 8))
    grid = segmentation.grid
    # Where the cut of the confidence lies is a matter of calibration.
    (lesion,) = find_lesions(segmentation, LesionConfig(minimum_confidence=0.0))
    shown = np.ones(grid.shape, bool)
    direction = int(np.abs(grid.affine[axis, :3]).argmax())
    np.moveaxis(shown, direction, 0)[: lesion.voxels[:, direction].min()] = False
    volume = Volume(np.ones(grid.shape), grid, Series("study", "series"))
    for covered, expected in (((shown,), cut), ((np.ones_like(shown),), False)):
        one = replace(segmentation, volumes=(volume,), covered=covered)
        reasons = finding(lumbar_spine, one).review_reasons
        assert any("image's border" in reason for reason in reasons) == expected


def test_a_lesion_cut_sideways_alone_is_as_usual():
    phantom = spine_of("L3")
    centre = phantom.point("L3", phantom.body_front_mm("L3"))
    centre[0] = phantom.segmentation.grid.to_world([0, 0, 0])[0]
    found = placed(phantom, centre, (8, 6, 6), hidden_as=None)
    assert not any("image's border" in reason for reason in found.review_reasons)


def test_a_lesion_with_no_spine_around_it_needs_review():
    phantom = spine_of("L3")
    centre = phantom.point("L3", phantom.body_front_mm("L3"))
    anatomy = phantom.segmentation.anatomy.copy()
    anatomy[ellipsoid(phantom.segmentation.grid, centre, (20, 16, 16))] = Structure.BACKGROUND
    emptied = replace(phantom.segmentation, anatomy=anatomy)
    found = finding(phantom, add_lesion(emptied, centre, (8, 6, 6), Structure.BACKGROUND))
    assert any("outside the spine" in reason for reason in found.review_reasons)


@pytest.mark.parametrize(
    ("weighting", "appearance", "doubted"),
    [("T1", "bright", True), ("T1", "dark", False), ("T1+Gd", "bright", False), ("T2", "bright", False)],
)
def test_a_lesion_brighter_than_marrow_on_t1_needs_review(weighting, appearance, doubted):
    phantom = spine_of("L3")
    centre = phantom.point("L3", phantom.body_front_mm("L3"))
    segmentation = add_lesion(phantom.segmentation, centre, (7, 7, 7))
    # Where the cut of the confidence lies is a matter of calibration.
    (lesion,) = find_lesions(segmentation, LesionConfig(minimum_confidence=0.0))
    signal = SequenceSignal("series 1", weighting, 4.0, appearance)
    found = classify(
        replace(lesion, signals=(signal,)),
        segmentation,
        truly_named(phantom, segmentation),
        ClassificationConfig(),
    )
    assert any("brighter than marrow" in reason for reason in found.review_reasons) is doubted


@pytest.mark.parametrize(("empty_mm", "seen_by_another", "doubted"), [(0, 0, 0), (2, 0, 1), (2, 1, 0)])
def test_a_lesion_where_no_series_has_values_needs_review(empty_mm, seen_by_another, doubted):
    phantom = spine_of("L3")
    centre = phantom.point("L3", phantom.body_front_mm("L3"))
    segmentation = add_lesion(phantom.segmentation, centre, (7, 7, 7))
    grid = segmentation.grid
    heights = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1))[..., 2]
    image = np.where(heights < centre[2] + empty_mm, 0 if empty_mm else 50, 100).astype(np.float32)
    images = [image, np.full_like(image, 70)] if seen_by_another else [image]
    series = [Series("study", str(number)) for number in range(len(images))]
    volumes = tuple(Volume(one, grid, of) for one, of in zip(images, series, strict=True))
    found = finding(phantom, replace(segmentation, volumes=volumes))
    assert any("nothing but 0" in reason for reason in found.review_reasons) == doubted


def test_without_any_spine_a_lesion_is_still_reported_for_review(lumbar_spine):
    empty = np.zeros(lumbar_spine.segmentation.grid.shape, np.uint8)
    bare = replace(lumbar_spine.segmentation, anatomy=empty, vertebrae=empty, evidence=())
    segmentation = add_lesion(bare, lumbar_spine.point("L3", 18.0), (6, 6, 6))
    # Where the cut of the confidence lies is a matter of calibration.
    (lesion,) = find_lesions(segmentation, LesionConfig(minimum_confidence=0.0))
    found = classify(lesion, segmentation, (), ClassificationConfig())
    assert found.needs_review
    assert any("thecal sac was not found" in reason for reason in found.review_reasons)
    assert found.compartment_probabilities[Compartment.EXTRADURAL] == 0.95
    assert set(found.review_topics) == {ReviewTopic.LEVEL, ReviewTopic.COMPARTMENT, ReviewTopic.EVIDENCE}


@settings(max_examples=9, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    axis_order=st.permutations((0, 1, 2)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    tilt=st.tuples(st.floats(-15, 15), st.floats(-10, 10), st.floats(-10, 10)),
    case=st.sampled_from(
        [
            (20.0, (7, 7, 6), Compartment.EXTRADURAL),
            (-5.2, (5, 2.0, 6), Compartment.INTRADURAL_EXTRAMEDULLARY),
            (0.0, (4, 4, 8), Compartment.INTRAMEDULLARY),
        ]
    ),
)
def test_axis_order_flips_and_tilt_of_the_grid_change_no_finding(axis_order, flips, tilt, case):
    phantom = draw_phantom(
        highest="T4",
        lowest="T10",
        spacing_mm=(3.0, 1.4, 1.4),
        axis_order=tuple(axis_order),
        flips=flips,
        tilt_degrees=tilt,
    )
    front_mm, radii, expected = case
    found = placed(phantom, phantom.point("T7", front_mm), radii)
    assert found.compartment is expected
    assert found.main_level is VertebralLevel.T7
