from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phantoms import NORMAL, draw_phantom
from spinemets.anatomy import Structure, VertebralLevel
from spinemets.config import Anchor, LevelConfig
from spinemets.errors import ConfigError
from spinemets.instances import split_vertebrae
from spinemets.levels import label_levels, level_cautions
from spinemets.levels.measures import measure_spine
from spinemets.levels.numbering import _step
from spinemets.segmented import InstanceEvidence
from spinemets.volume import Series, Volume

CONFIG = LevelConfig()
L = VertebralLevel


def names(vertebrae):
    return [vertebra.level.value for vertebra in vertebrae]


def named(phantom, config=CONFIG):
    return label_levels(phantom.segmentation, config)


def anchored(level, place):
    return LevelConfig(anchors=(Anchor(level=level, place=place),))


@pytest.mark.parametrize("network_evidence", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scoliosis_mm": 20.0, "kyphosis_degrees": 30.0},
        {"highest": "T10"},
        {"highest": "L2"},
        {"highest": "T6", "spacing_mm": (1.8, 1.8, 1.8)},
        {"lowest": "T3"},
        {"lowest": "C7"},
        {"lowest": "T3", "atlas": True},
        {"scale": 0.87, "highest": "T9"},
        {"scale": 1.15, "highest": "T9"},
        {"highest": "T8", "collapsed": (("T12", 0.3), ("L2", 0.4))},
        {"conus": "L2", "highest": "T9"},
    ],
    ids=str,
)
def test_every_level_is_named_right_and_surely_where_an_end_is_in_view(options, network_evidence):
    phantom = draw_phantom(network_evidence=network_evidence, seed=3, **options)
    vertebrae = named(phantom)
    assert names(vertebrae) == list(phantom.names)
    assert min(vertebra.confidence for vertebra in vertebrae) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_a_thoracolumbar_view_without_sacrum_is_named_by_conus_and_evidence(seed):
    phantom = draw_phantom(highest="T9", lowest="L3", network_evidence=True, seed=seed)
    vertebrae = named(phantom)
    assert names(vertebrae) == list(phantom.names)
    assert 0.5 < vertebrae[0].confidence < 0.99


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("T13", "T13"), ("L6", "L6")],
)
def test_a_supernumerary_vertebra_is_found_and_said(variant, expected):
    phantom = draw_phantom(variant=variant, network_evidence=True, seed=3)
    vertebrae = named(phantom)
    assert names(vertebrae) == list(phantom.names)
    assert any(f"supernumerary {expected}" in caution for caution in level_cautions(vertebrae, CONFIG))


@pytest.mark.parametrize(("variant", "absent"), [("no T12", "T12"), ("no L5", "L5")])
def test_an_absent_vertebra_is_found_and_said(variant, absent):
    phantom = draw_phantom(variant=variant, network_evidence=True, seed=3)
    vertebrae = named(phantom)
    assert names(vertebrae) == list(phantom.names)
    assert any(f"{absent} seems to be absent" in caution for caution in level_cautions(vertebrae, CONFIG))


def test_without_evidence_of_regions_25_vertebrae_leave_t13_and_l6_in_doubt():
    vertebrae = named(draw_phantom(variant="T13", seed=3))
    doubtful = [vertebra for vertebra in vertebrae if vertebra.confidence < 0.9]
    assert [vertebra.level for vertebra in vertebrae[:18]] == list(L)[1:19]
    assert {a.level for vertebra in doubtful for a in vertebra.alternatives} & {L.T13, L.L1}


@pytest.mark.parametrize("missing", ["C6", "T9", "L3"])
def test_a_vertebra_that_was_not_found_does_not_shift_the_others(missing):
    phantom = draw_phantom(missing=(missing,), seed=3)
    vertebrae = named(phantom)
    assert names(vertebrae) == [name for name in NORMAL if name != missing] + ["S1"]
    assert any(f"{missing} was not found" in caution for caution in level_cautions(vertebrae, CONFIG))


@pytest.mark.parametrize(
    ("unseen", "said"), [((L.C5, L.C6), "C5 and C6 were"), ((L.C5, L.C6, L.C7), "C5, C6 and C7 were")]
)
def test_several_vertebrae_that_were_not_found_are_named_in_one_caution(unseen, said):
    vertebrae = named(draw_phantom(highest="C2", lowest="T6", seed=3))
    seen = tuple(vertebra for vertebra in vertebrae if vertebra.level not in unseen)
    below = "C7" if L.C7 not in unseen else "T1"
    assert f"{said} not found between C4 and {below}." in level_cautions(seen, CONFIG)


def test_a_mid_thoracic_view_is_honestly_unsure(chest):
    vertebrae = named(chest)
    assert max(vertebra.confidence for vertebra in vertebrae) < 0.5
    assert len(vertebrae[0].alternatives) >= 3
    cautions = " ".join(level_cautions(vertebrae, CONFIG))
    assert "uncertain" in cautions
    assert "Neither C2 nor the sacrum" in cautions


def test_sure_names_between_doubtful_ones_are_not_called_uncertain(chest):
    upper, *sure, last = (replace(vertebra, confidence=0.99, alternatives=()) for vertebra in named(chest))
    upper, last = replace(upper, confidence=0.6), replace(last, confidence=0.7)
    cautions = [caution for caution in level_cautions((upper, *sure, last), CONFIG) if "numbering" in caution]
    assert cautions == [
        f"The numbering of {upper.level.value} is uncertain (lowest confidence 0.60).",
        f"The numbering of {last.level.value} is uncertain (lowest confidence 0.70).",
    ]


def test_confidence_and_alternatives_are_probabilities_of_one_distribution(chest):
    for vertebra in named(chest):
        total = vertebra.confidence + sum(a.probability for a in vertebra.alternatives)
        assert 0.9 < total <= 1.0 + 1e-9
        chances = [a.probability for a in vertebra.alternatives]
        assert chances == sorted(chances, reverse=True)
        assert all(chance >= 0.01 for chance in chances)
        assert vertebra.level not in {a.level for a in vertebra.alternatives}


@pytest.mark.parametrize(("place", "level"), [("highest", "T3"), ("lowest", "T10")])
def test_an_anchor_fixes_the_whole_column(chest, place, level):
    vertebrae = named(chest, anchored(level, place))
    assert names(vertebrae) == list(chest.names)
    assert min(vertebra.confidence for vertebra in vertebrae) > 0.9
    assert not any("Neither" in caution for caution in level_cautions(vertebrae, anchored(level, place)))


def test_an_anchored_point_may_lie_inside_or_near_its_vertebra(chest):
    inside = tuple(chest.point("T6", chest.body_front_mm("T6")))
    beside = tuple(chest.point("T6", chest.body_front_mm("T6") + 25.0))
    for point in (inside, beside):
        assert names(named(chest, anchored("T6", point))) == list(chest.names)


def test_the_lowest_vertebra_of_an_anchor_is_not_the_sacrum(lumbar_spine):
    assert names(named(lumbar_spine, anchored("L5", "lowest"))) == list(lumbar_spine.names)


def test_an_anchor_outweighs_all_other_evidence(lumbar_spine):
    vertebrae = named(lumbar_spine, anchored("L6", "lowest"))
    assert names(vertebrae)[-3:] == ["L5", "L6", "S1"]


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ([("L5", "highest")], "no possible numbering"),
        ([("C1", "lowest")], "no possible numbering"),
        ([("T11", "highest"), ("L3", "lowest")], "no possible numbering"),
        ([("L5", "lowest"), ("L4", "lowest")], "name the same vertebra"),
        ([("L3", (0.0, 0.0, 900.0))], "nearest vertebra is"),
    ],
)
def test_a_contradictory_anchor_is_refused(lumbar_spine, anchors, message):
    config = LevelConfig(anchors=tuple(Anchor(level=level, place=place) for level, place in anchors))
    with pytest.raises(ConfigError, match=message):
        named(lumbar_spine, config)


def test_an_anchor_without_any_vertebra_is_refused(lumbar_spine):
    empty = np.zeros(lumbar_spine.segmentation.grid.shape, np.uint8)
    segmentation = replace(lumbar_spine.segmentation, anatomy=empty, vertebrae=empty, evidence=())
    assert label_levels(segmentation, CONFIG) == ()
    assert level_cautions((), CONFIG) == ()
    with pytest.raises(ConfigError, match="no vertebra was found"):
        label_levels(segmentation, anchored("L5", "lowest"))


def test_only_a_vertebra_cut_at_the_edge_is_not_fully_visible():
    phantom = draw_phantom(highest="L1", lowest="L3", margin_mm=-6.0, seed=3)
    seen = {
        vertebra.level.value: vertebra.fully_visible for vertebra in named(phantom, anchored("L2", "lowest"))
    }
    assert seen["L2"]
    assert not seen["L3"]


def test_an_empty_rim_ends_the_image():
    phantom = draw_phantom(highest="L1", lowest="L3", seed=3)
    whole = phantom.segmentation
    grid = whole.grid
    points = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
    rim = (points[:, 2] < phantom.point("L3", 0.0)[2]).reshape(grid.shape)
    blank = np.zeros(grid.shape, np.float32)
    shown = replace(
        whole,
        anatomy=np.where(rim, 0, whole.anatomy).astype(np.uint8),
        vertebrae=np.where(rim, 0, whole.vertebrae).astype(np.uint8),
        volumes=(Volume(blank, grid, Series("s", "v")),),
    )
    told, untold = (measure_spine(one) for one in (replace(shown, covered=(~rim,)), shown))
    assert [body.fully_visible for body in told.bodies] == [True, True, False]
    assert all(body.fully_visible for body in untold.bodies)
    assert told.bodies[-1].height_mm is None
    assert told.room_below_mm < 5.0 < untold.room_below_mm
    # A line or two of dark voxels beside a body cut nothing.
    line = np.ones(grid.shape, bool)
    line[grid.shape[0] // 2, grid.shape[1] // 2] = False
    assert measure_spine(replace(shown, covered=(line,))).bodies == untold.bodies


def test_centroids_are_those_of_the_bodies_in_ras_mm(lumbar_spine):
    for vertebra in named(lumbar_spine):
        if vertebra.level is not L.S1:
            expected = lumbar_spine.point(
                vertebra.level.value, lumbar_spine.body_front_mm(vertebra.level.value)
            )
            assert np.linalg.norm(np.subtract(vertebra.centroid_mm, expected)) < 2.5


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    axis_order=st.permutations((0, 1, 2)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    tilt=st.tuples(st.floats(-15, 15), st.floats(-10, 10), st.floats(-10, 10)),
)
def test_axis_order_flips_and_tilt_of_the_grid_change_no_name(axis_order, flips, tilt):
    phantom = draw_phantom(
        highest="T9", spacing_mm=(4.0, 2.0, 2.0), axis_order=tuple(axis_order), flips=flips, tilt_degrees=tilt
    )
    assert names(named(phantom)) == list(phantom.names)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000))
def test_whatever_the_network_says_the_sequence_is_possible(seed):
    segmentation = _SHORT.segmentation
    rng = np.random.default_rng(seed)
    opinions = rng.dirichlet(np.full(5, 0.2), len(segmentation.evidence))
    evidence = tuple(InstanceEvidence(n, *map(float, opinion)) for n, opinion in enumerate(opinions, start=1))
    levels = [vertebra.level for vertebra in label_levels(replace(segmentation, evidence=evidence), CONFIG)]
    assert levels == sorted(set(levels), key=lambda level: level.position)
    for absent, follower in ((L.T12, L.T13), (L.L5, L.L6)):
        assert not (follower in levels and levels.index(follower) > 0 and absent not in levels)


_SHORT = draw_phantom(highest="T8", spacing_mm=(4.0, 2.5, 2.5))


@pytest.mark.parametrize("options", [{}, {"highest": "T10"}, {"lowest": "T3"}], ids=str)
def test_split_instances_are_named_as_the_true_ones(options):
    phantom = draw_phantom(seed=3, **options)
    segmentation = phantom.segmentation
    instances = split_vertebrae(segmentation.anatomy, None, segmentation.grid)
    evidence = tuple(InstanceEvidence(label) for label in range(1, int(instances.max()) + 1))
    found = label_levels(replace(segmentation, vertebrae=instances, evidence=evidence), CONFIG)
    assert names(found) == list(phantom.names)


@pytest.mark.parametrize("gap_ratio", [-13.1, 0.0, 0.4, 1.0, 7.5])
def test_a_step_between_bodies_has_a_likelihood_however_they_lie(gap_ratio):
    """Bad segmentations show bodies that overlap: a gap below zero."""
    step = _step(gap_ratio, LevelConfig())
    assert not np.isnan(step).any()
    assert np.isfinite(step).any()


def test_more_bodies_than_a_spine_has_cost_the_lowest_ones_not_the_study():
    segmentation = draw_phantom(highest="C2", spacing_mm=(4.0, 2.0, 2.0)).segmentation
    heights = np.arange(segmentation.grid.shape[2])
    count = int(segmentation.vertebrae.max())
    split = np.zeros_like(segmentation.vertebrae)
    number = 0
    for instance in range(1, count + 1):
        mask = segmentation.vertebrae == instance
        shown = heights[mask.any(axis=(0, 1))]
        # Head to foot: all but the lowest two are cut in a high and a low half.
        cut = shown.min() + len(shown) // 3 if instance < count - 1 else -1
        for half in (mask & (heights > cut), mask & (heights <= cut)):
            if half.any():
                number += 1
                split[half] = number
    evidence = tuple(InstanceEvidence(label) for label in range(1, number + 1))
    assert number > 30
    found = label_levels(replace(segmentation, vertebrae=split, evidence=evidence), CONFIG)
    assert 20 < len(found) <= 31
    levels = [vertebra.level for vertebra in found]
    assert levels == sorted(set(levels), key=lambda level: level.position)


def with_a_piece(phantom, spot, anatomy=None):
    """The segmentation with the voxels of ``spot`` as an instance of their own, and its number."""
    segmentation = phantom.segmentation
    number = int(segmentation.vertebrae.max()) + 1
    vertebrae = np.where(spot, np.uint8(number), segmentation.vertebrae)
    # Instances count from head to foot.
    heights = np.arange(vertebrae.shape[2])
    top = [-np.average(heights, weights=(vertebrae == one).sum(axis=(0, 1))) for one in range(1, number + 1)]
    order = np.argsort(np.argsort(top)) + 1
    renumbered = np.where(vertebrae > 0, np.append(0, order)[vertebrae], 0).astype(np.uint8)
    evidence = list(segmentation.evidence)
    evidence.insert(int(order[-1]) - 1, InstanceEvidence(0))
    evidence = tuple(replace(one, instance=place) for place, one in enumerate(evidence, start=1))
    return replace(
        segmentation,
        anatomy=segmentation.anatomy if anatomy is None else anatomy,
        vertebrae=renumbered,
        evidence=evidence,
    ), int(order[-1])


def test_a_blob_in_front_of_the_neck_is_no_vertebra():
    phantom = draw_phantom(highest="C2", spacing_mm=(4.0, 1.5, 1.5), network_evidence=True, seed=3)
    segmentation = phantom.segmentation
    grid = segmentation.grid
    place = list(phantom.names).index("C4") + 1
    body = (segmentation.vertebrae == place) & (segmentation.anatomy == Structure.VERTEBRAL_BODY)
    in_front = grid.to_index(grid.to_world(np.argwhere(body)) + np.array([0.0, 22.0, 3.0]))
    spot = np.zeros(grid.shape, dtype=bool)
    spot[tuple(np.rint(in_front).astype(int).T)] = True
    anatomy = np.where(spot, Structure.VERTEBRAL_BODY, segmentation.anatomy).astype(
        segmentation.anatomy.dtype
    )
    changed, blob = with_a_piece(phantom, spot, anatomy)
    found = label_levels(changed, CONFIG)
    assert names(found) == list(phantom.names)
    assert blob not in {vertebra.instance for vertebra in found}


def foot_of_c2(segmentation):
    """The lowest 6 mm of its body."""
    c2 = (segmentation.vertebrae == 1) & (segmentation.anatomy == Structure.VERTEBRAL_BODY)
    heights = np.arange(c2.shape[2])
    return c2 & (heights < heights[c2.any(axis=(0, 1))].min() + 4)


def test_a_thin_piece_of_c2_is_no_vertebra_where_that_would_make_one_too_many():
    phantom = draw_phantom(highest="C2", spacing_mm=(4.0, 1.5, 1.5), network_evidence=True, seed=3)
    changed, piece = with_a_piece(phantom, foot_of_c2(phantom.segmentation))
    found = label_levels(changed, CONFIG)
    assert names(found) == list(phantom.names)
    assert piece not in {vertebra.instance for vertebra in found}


@pytest.mark.parametrize("level", ["T7", "T12", "L3"])
def test_a_flat_vertebra_stays_one(level):
    phantom = draw_phantom(highest="T4", collapsed=((level, 0.3),), network_evidence=True, seed=3)
    assert names(named(phantom)) == list(phantom.names)


def test_an_anchored_instance_is_a_vertebra_however_thin():
    phantom = draw_phantom(highest="C2", spacing_mm=(4.0, 1.5, 1.5), network_evidence=True, seed=3)
    changed, piece = with_a_piece(phantom, foot_of_c2(phantom.segmentation))
    body = (changed.vertebrae == piece) & (changed.anatomy == Structure.VERTEBRAL_BODY)
    spot = changed.grid.to_world(np.argwhere(body))[0]
    found = label_levels(changed, anchored("C3", tuple(map(float, spot))))
    assert {vertebra.instance: vertebra.level for vertebra in found}[piece] is L.C3


def test_two_halves_of_a_body_with_nothing_between_them_are_measured(lumbar_spine):
    segmentation = lumbar_spine.segmentation
    instance = lumbar_spine.names.index("L3") + 1
    body = (segmentation.anatomy == Structure.VERTEBRAL_BODY) & (segmentation.vertebrae == instance)
    voxels = np.argwhere(body)
    side_mm = segmentation.grid.to_world(voxels)[:, 0]
    side_mm -= np.median(side_mm)
    count = min((side_mm < -8).sum(), (side_mm > 8).sum())
    assert count > 50
    anatomy, vertebrae = segmentation.anatomy.copy(), segmentation.vertebrae.copy()
    anatomy[body] = vertebrae[body] = 0
    for half in (voxels[side_mm < -8][:count], voxels[side_mm > 8][:count]):
        anatomy[tuple(half.T)], vertebrae[tuple(half.T)] = Structure.VERTEBRAL_BODY, instance
    found = label_levels(replace(segmentation, anatomy=anatomy, vertebrae=vertebrae), CONFIG)
    assert instance in {vertebra.instance for vertebra in found}
