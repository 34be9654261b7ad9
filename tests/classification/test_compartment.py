"""In which compartment a lesion lies, also where it hides or moves the canal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from phantoms import CANAL_RADII_MM, CORD_RADII_MM, SIZES_MM, add_lesion, draw_phantom
from placed_lesions import finding, placed, spine_of, truly_named
from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.classification import classify
from spinemets.config import ClassificationConfig, LesionConfig
from spinemets.findings import ReviewTopic
from spinemets.lesions import find_lesions

HIDDEN = [None, Structure.BACKGROUND, Structure.CORD, Structure.THECAL_SAC]


@pytest.mark.parametrize("hidden_as", HIDDEN, ids=str)
@pytest.mark.parametrize(
    ("level", "region"),
    [
        ("C5", SpineRegion.CERVICAL),
        ("T6", SpineRegion.THORACIC),
        ("L3", SpineRegion.LUMBAR),
        ("S1", SpineRegion.SACRAL),
    ],
)
def test_lesion_in_a_vertebral_body_is_extradural_at_its_level(level, region, hidden_as):
    phantom = spine_of(level)
    found = placed(phantom, phantom.point(level, 24.0 if level == "S1" else 18.0), (6, 6, 5), hidden_as)
    assert found.compartment is Compartment.EXTRADURAL
    assert found.region is region
    assert found.main_level is VertebralLevel(level)
    assert not found.needs_review, found.review_reasons


@pytest.mark.parametrize("hidden_as", HIDDEN, ids=str)
@pytest.mark.parametrize("radius_mm", [3.0, 5.0, 7.0])
@pytest.mark.parametrize("level", ["C5", "T6"])
def test_lesion_inside_the_cord_is_intramedullary_even_where_it_widens_it(level, radius_mm, hidden_as):
    phantom = spine_of(level)
    found = placed(phantom, phantom.point(level, 0.0), (radius_mm, radius_mm, 2 * radius_mm), hidden_as)
    assert found.compartment is Compartment.INTRAMEDULLARY
    assert found.main_level is VertebralLevel(level)


@pytest.mark.parametrize("level", ["C5", "T6"])
def test_eccentric_lesion_inside_the_cord_is_intramedullary(level):
    phantom = spine_of(level, (2.0, 1.2, 1.2))
    found = placed(phantom, phantom.point(level, 0.0, 2.0), (3, 3, 6))
    assert found.compartment is Compartment.INTRAMEDULLARY


@pytest.mark.parametrize("hidden_as", HIDDEN, ids=str)
@pytest.mark.parametrize("level", ["C5", "T6"])
def test_nodule_between_cord_and_dura_is_intradural_extramedullary(level, hidden_as):
    phantom = spine_of(level)
    found = placed(phantom, phantom.point(level, -5.2), (5, 1.9, 5), hidden_as)
    assert found.compartment is Compartment.INTRADURAL_EXTRAMEDULLARY


@pytest.mark.parametrize("hidden_as", HIDDEN, ids=str)
@pytest.mark.parametrize("level", ["L3", "S1"])
def test_lesion_on_the_cauda_equina_is_intradural_extramedullary(level, hidden_as):
    phantom = spine_of(level)
    found = placed(phantom, phantom.point(level, 0.0, 1.5, rise=0.3), (4, 4, 6), hidden_as)
    assert found.compartment is Compartment.INTRADURAL_EXTRAMEDULLARY
    assert found.compartment_probabilities[Compartment.INTRAMEDULLARY] < 0.01
    assert not found.needs_review, found.review_reasons


@pytest.mark.parametrize(
    "view", [{"highest": "C3", "lowest": "T2"}, {"highest": "T4", "lowest": "T9"}], ids=str
)
@pytest.mark.parametrize(
    ("tissue", "compartment"),
    [
        (Structure.CORD, Compartment.INTRAMEDULLARY),
        (Structure.THECAL_SAC, Compartment.INTRADURAL_EXTRAMEDULLARY),
    ],
)
def test_a_lesion_as_long_as_the_view_lies_in_what_is_labelled_beneath_it(view, tissue, compartment):
    phantom = draw_phantom(spacing_mm=(4.0, 1.2, 1.2), seed=1, **view)
    ill = np.where(phantom.segmentation.anatomy == tissue, np.float32(0.9), np.float32(0.0))
    assert finding(phantom, replace(phantom.segmentation, lesion_probability=ill)).compartment is compartment


@pytest.mark.parametrize("hidden_as", [None, Structure.BACKGROUND])
def test_below_the_end_of_the_sac_the_compartment_of_the_sacral_canal_is_a_guess(hidden_as):
    phantom = spine_of("S1")
    segmentation = add_lesion(phantom.segmentation, phantom.point("S1", 0.0, rise=2.3), (4, 4, 6), hidden_as)
    found = finding(phantom, segmentation, LesionConfig(minimum_confidence=0.0))
    assert found.compartment is Compartment.EXTRADURAL
    assert ReviewTopic.COMPARTMENT in found.review_topics
    in_bone = placed(phantom, phantom.point("S1", 20.0, rise=2.0), (7, 7, 8))
    assert in_bone.compartment_probabilities[Compartment.EXTRADURAL] > 0.99


@pytest.mark.parametrize(
    ("level", "spacing"),
    [
        ("C5", (4.0, 1.2, 1.2)),
        ("T6", (4.0, 1.2, 1.2)),
        ("L3", (4.0, 1.2, 1.2)),
        ("S1", (4.0, 1.2, 1.2)),
        ("C5", (1.3, 1.3, 1.3)),
    ],
    ids=str,
)
def test_lesion_across_the_dura_needs_review(level, spacing):
    phantom = spine_of(level, spacing)
    found = placed(phantom, phantom.point(level, CANAL_RADII_MM[0]), (3, 3, 4))
    assert found.needs_review
    assert any("border" in reason or "close to call" in reason for reason in found.review_reasons)
    assert ReviewTopic.COMPARTMENT in found.review_topics


def test_lesion_across_the_cords_surface_needs_review():
    phantom = spine_of("T6", (1.3, 1.3, 1.3))
    found = placed(phantom, phantom.point("T6", 0.0, CORD_RADII_MM[1]), (2.4, 2.4, 4.0))
    assert found.needs_review


@pytest.mark.parametrize("level", ["C5", "T6", "L3"])
def test_lesion_in_the_spinous_process_is_extradural_at_its_own_level(level):
    phantom = spine_of(level)
    found = placed(phantom, phantom.point(level, -16.0, rise=0.95), (3, 5, 5), hidden_as=None)
    assert found.compartment is Compartment.EXTRADURAL
    assert found.main_level is VertebralLevel(level)


@pytest.mark.parametrize("hidden_as", [None, Structure.BACKGROUND])
@pytest.mark.parametrize("level", ["C5", "T6", "L3"])
def test_body_lesion_that_grows_into_the_canal_stays_extradural(level, hidden_as):
    phantom = spine_of(level)
    centre = phantom.point(level, phantom.body_front_mm(level) - 6.0)
    found = placed(phantom, centre, (11, 12, 7), hidden_as)
    assert found.compartment is Compartment.EXTRADURAL
    assert found.compartment_probabilities[Compartment.EXTRADURAL] > 0.9


def with_canal_moved(phantom, level, move_mm, half_length_mm, cord_only=False):
    """The sac (or the cord inside it) pushed to front and right beside a lesion, nothing lost."""
    segmentation, grid = phantom.segmentation, phantom.segmentation.grid
    along, front, right = phantom.curve.coordinates(grid.to_world(np.indices(grid.shape).reshape(3, -1).T))
    middle = phantom.tops_mm[level] + 0.5 * phantom.heights_mm[level]
    push = np.exp(-0.5 * ((along - middle) / half_length_mm) ** 2)
    anatomy = segmentation.anatomy.reshape(-1).copy()
    canal = (anatomy == Structure.THECAL_SAC) | (anatomy == Structure.CORD)
    anatomy[canal] = Structure.THECAL_SAC if cord_only else Structure.BACKGROUND
    parts = [(Structure.THECAL_SAC, CANAL_RADII_MM), (Structure.CORD, CORD_RADII_MM)]
    for structure, radii in parts[1:] if cord_only else parts:
        moved_front, moved_right = front - push * move_mm[0], right - push * move_mm[1]
        inside = (moved_front / radii[0]) ** 2 + (moved_right / radii[1]) ** 2 < 1
        anatomy[inside & (anatomy != Structure.VERTEBRAL_BODY)] = structure
    return replace(segmentation, anatomy=anatomy.reshape(grid.shape))


def test_epidural_mass_that_displaces_the_sac_stays_extradural():
    phantom = spine_of("T6")
    moved = with_canal_moved(phantom, "T6", (-5.0, 0.0), 7.0)
    segmentation = add_lesion(moved, phantom.point("T6", 4.0), (8, 5, 8), Structure.BACKGROUND)
    assert finding(phantom, segmentation).compartment is Compartment.EXTRADURAL


def test_nodule_that_pushes_the_cord_aside_is_not_in_the_cord():
    phantom = spine_of("T6")
    moved = with_canal_moved(phantom, "T6", (0.0, -4.0), 5.0, cord_only=True)
    segmentation = add_lesion(moved, phantom.point("T6", 0.0, 5.5), (4, 4, 6), Structure.BACKGROUND)
    assert finding(phantom, segmentation).compartment is Compartment.INTRADURAL_EXTRAMEDULLARY


@pytest.mark.parametrize("hidden_as", HIDDEN, ids=str)
@pytest.mark.parametrize(
    ("front_mm", "radii", "compartment"),
    [
        (-12.0, (7.0, 3.5, 8.0), Compartment.EXTRADURAL),
        (-5.3, (4.0, 1.7, 6.0), Compartment.INTRADURAL_EXTRAMEDULLARY),
        (0.0, (4.0, 3.0, 6.0), Compartment.INTRAMEDULLARY),
    ],
)
def test_disease_of_every_body_does_not_change_the_compartment(front_mm, radii, compartment, hidden_as):
    """Where the network calls a mass behind the sac sac or cord, only the canal beside it tells otherwise."""
    phantom = spine_of("T6")
    segmentation = phantom.segmentation
    for level in phantom.names:
        height, depth, width, _ = SIZES_MM[level]
        ill = (width / 2 - 1, depth / 2 - 1, height / 2 - 1.5)
        segmentation = add_lesion(segmentation, phantom.point(level, phantom.body_front_mm(level)), ill)
    centre = phantom.point("T6", front_mm)
    segmentation = add_lesion(segmentation, centre, radii, hidden_as)
    lesions = find_lesions(segmentation, LesionConfig(minimum_confidence=0.0))
    assert len(lesions) > 6
    nearest = min(lesions, key=lambda lesion: np.linalg.norm(lesion.centroid_mm - centre))
    vertebrae = truly_named(phantom, segmentation)
    found = classify(nearest, segmentation, vertebrae, ClassificationConfig())
    assert found.compartment is compartment


def test_probabilities_and_shares_each_sum_to_one():
    phantom = spine_of("T6")
    found = placed(phantom, phantom.point("T6", 6.0), (4, 4, 6))
    for parts in (found.compartment_probabilities, found.compartment_shares):
        assert set(parts) == set(Compartment)
        assert sum(parts.values()) == pytest.approx(1.0)
    assert found.compartment is max(found.compartment_probabilities, key=found.compartment_probabilities.get)


@pytest.mark.parametrize(("front_mm", "expected"), [(0.0, 0.95), (17.0, 0.95), (38.0, 1.0)])
def test_without_a_canal_only_what_lies_far_from_it_is_surely_extradural(front_mm, expected):
    phantom = spine_of("L3")
    canal = np.isin(phantom.segmentation.anatomy, (Structure.THECAL_SAC, Structure.CORD))
    bare = replace(phantom.segmentation, anatomy=np.where(canal, 0, phantom.segmentation.anatomy))
    found = finding(phantom, add_lesion(bare, phantom.point("L3", front_mm), (5, 5, 5)))
    assert sum(found.compartment_probabilities.values()) == pytest.approx(1.0)
    assert found.compartment_probabilities[Compartment.EXTRADURAL] == pytest.approx(expected, abs=1e-6)
    assert (ReviewTopic.COMPARTMENT in found.review_topics) is (expected < 1)


@pytest.mark.parametrize(
    ("front_mm", "radii", "expected"),
    [
        (18.0, (6, 6, 6), Compartment.EXTRADURAL),
        (-5.2, (5, 2.0, 6), Compartment.INTRADURAL_EXTRAMEDULLARY),
        (0.0, (4, 4, 8), Compartment.INTRAMEDULLARY),
    ],
)
def test_holes_in_the_masks_do_not_change_the_compartment(front_mm, radii, expected):
    phantom = spine_of("T6")
    segmentation = add_lesion(
        phantom.segmentation, phantom.point("T6", front_mm), radii, Structure.BACKGROUND
    )
    anatomy = segmentation.anatomy.copy()
    anatomy[np.random.default_rng(0).random(anatomy.shape) < 0.1] = Structure.BACKGROUND
    assert finding(phantom, replace(segmentation, anatomy=anatomy)).compartment is expected
