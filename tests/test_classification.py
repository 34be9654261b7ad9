from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phantoms import CANAL_RADII_MM, CORD_RADII_MM, add_lesion, draw_phantom, ellipsoid
from spinemets.anatomy import Compartment, SpineRegion, Structure, VertebralLevel
from spinemets.classification import classify
from spinemets.config import ClassificationConfig, LesionConfig, LevelConfig
from spinemets.findings import ReviewTopic, SequenceSignal
from spinemets.lesions import find_lesions
from spinemets.levels import label_levels
from spinemets.volume import Series, Volume

LESIONS = LesionConfig()
HIDDEN = [None, Structure.BACKGROUND, Structure.CORD, Structure.THECAL_SAC]
SPINES = {
    "C5": {"lowest": "T2"},
    "T6": {"highest": "T3", "lowest": "T10"},
    "L3": {"highest": "T11"},
    "S1": {"highest": "L2"},
}


def spine_of(level, spacing=(4.0, 1.2, 1.2)):
    return draw_phantom(spacing_mm=spacing, seed=1, **SPINES[level])


def truly_named(phantom, segmentation):
    """The true names, so that only the compartment is on trial."""
    vertebrae = label_levels(segmentation, LevelConfig())
    instances = {number: VertebralLevel(name) for number, name in enumerate(phantom.names, start=1)}
    return tuple(
        replace(vertebra, level=instances[vertebra.instance], confidence=1.0, alternatives=())
        for vertebra in vertebrae
    )


def finding(phantom, segmentation, config=LESIONS):
    (lesion,) = find_lesions(segmentation, config)
    vertebrae = truly_named(phantom, segmentation)
    return classify(lesion, segmentation, vertebrae, ClassificationConfig())


def placed(phantom, centre, radii, hidden_as=Structure.BACKGROUND):
    return finding(phantom, add_lesion(phantom.segmentation, centre, radii, hidden_as))


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


def test_probabilities_and_shares_each_sum_to_one():
    phantom = spine_of("T6")
    found = placed(phantom, phantom.point("T6", 6.0), (4, 4, 6))
    for parts in (found.compartment_probabilities, found.compartment_shares):
        assert set(parts) == set(Compartment)
        assert sum(parts.values()) == pytest.approx(1.0)
    assert found.compartment is max(found.compartment_probabilities, key=found.compartment_probabilities.get)


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


def test_a_weak_lesion_needs_review():
    phantom = spine_of("L3")
    centre = phantom.point("L3", phantom.body_front_mm("L3"))
    weak = add_lesion(phantom.segmentation, centre, (6, 6, 6), probability=0.75)
    # Whether the released calibration reports it is another question.
    found = finding(phantom, weak, LesionConfig(minimum_confidence=0.0))
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
