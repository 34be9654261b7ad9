import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phantoms import Phantom, draw_phantom, ellipsoid
from spinemets.anatomy import Structure, VertebralLevel
from spinemets.bodies import Piece, _expected_height_mm
from spinemets.instances import split_vertebrae
from spinemets.islands import clean_anatomy
from spinemets.volume import Grid

LEVELS = list(VertebralLevel)


def names_of(phantom: Phantom, instances: np.ndarray) -> list[str]:
    """The true level that most of each instance's bodies' voxels belong to."""
    body = np.isin(phantom.segmentation.anatomy, (Structure.VERTEBRAL_BODY, Structure.SACRUM))
    names = []
    for label in range(1, int(instances.max()) + 1):
        counts = np.bincount(phantom.level_map[(instances == label) & body], minlength=len(LEVELS) + 1)[1:]
        names.append(LEVELS[int(counts.argmax())].value if counts.any() else "none")
    return names


def agreement(phantom: Phantom, instances: np.ndarray, structure: Structure) -> float:
    part = phantom.segmentation.anatomy == structure
    return float((instances[part] == phantom.segmentation.vertebrae[part]).mean())


def split(phantom: Phantom, anatomy: np.ndarray | None = None) -> np.ndarray:
    shown = phantom.segmentation.anatomy if anatomy is None else anatomy
    return split_vertebrae(shown, None, phantom.segmentation.grid)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"highest": "T10"},
        {"lowest": "T3"},
        {"highest": "T4", "lowest": "L3"},
        {"highest": "L2", "lowest": "L2"},
        {"scoliosis_mm": 25.0, "kyphosis_degrees": 40.0},
        {"collapsed": (("T12", 0.3), ("C5", 0.3))},
        {"missing_discs": ("T8", "L2")},
        {"missing": ("T9",)},
        {"atlas": True, "lowest": "T2"},
        {"variant": "T13", "highest": "T8"},
        {"variant": "L6", "highest": "T8"},
        {"highest": "T11", "spacing_mm": (4.0, 0.8, 0.8)},
        {"highest": "T12", "spacing_mm": (1.5, 1.5, 1.5)},
        {"highest": "T12", "sacrum": False},
    ],
    ids=str,
)
def test_every_visible_vertebra_becomes_one_instance_in_order(options):
    phantom = draw_phantom(**options)
    instances = split(phantom)
    assert names_of(phantom, instances) == list(phantom.names)
    assert agreement(phantom, instances, Structure.VERTEBRAL_BODY) > 0.99
    assert agreement(phantom, instances, Structure.POSTERIOR_ELEMENTS) > 0.9


@pytest.mark.parametrize(
    ("spacing_mm", "axis_order"), [((1.4, 1.4, 1.4), (2, 1, 0)), ((1.4, 1.4, 1.43), (0, 1, 2))]
)
def test_discs_part_bodies_where_spacings_are_nearly_equal(spacing_mm, axis_order):
    """Which of them is the widest by a rounding error says nothing of where discs lie."""
    phantom = draw_phantom(
        highest="L1", spacing_mm=spacing_mm, axis_order=axis_order, tilt_degrees=(5.0, 3.0, 8.0)
    )
    assert names_of(phantom, split(phantom)) == list(phantom.names)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    axis_order=st.permutations((0, 1, 2)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    tilt=st.tuples(st.floats(-15, 15), st.floats(-10, 10), st.floats(-10, 10)),
)
def test_axis_order_flips_and_tilt_of_the_grid_change_nothing(axis_order, flips, tilt):
    phantom = draw_phantom(
        highest="T9", spacing_mm=(4.0, 2.0, 2.0), axis_order=tuple(axis_order), flips=flips, tilt_degrees=tilt
    )
    # A tilted edge of the image shows more or less of T8, which counts or does not.
    found, true = names_of(phantom, split(phantom)), list(phantom.names)
    assert found[found[0] == "T8" :] == true[true[0] == "T8" :]


@pytest.mark.parametrize("seed", range(4))
def test_fused_bodies_holes_and_islands_are_survived(seed):
    rng = np.random.default_rng(seed)
    phantom = draw_phantom(seed=seed, highest=("C2", "T4")[seed % 2], spacing_mm=(4.0, 1.4, 1.4))
    grid, anatomy = phantom.segmentation.grid, phantom.segmentation.anatomy.copy()
    discs = anatomy == Structure.DISC
    for name in rng.choice(phantom.names[1:-2], 3, replace=False):
        below = ellipsoid(grid, phantom.point(name, phantom.body_front_mm(name), rise=1.1), (14, 9, 9))
        anatomy[below & discs] = Structure.VERTEBRAL_BODY
    places = grid.to_world(np.argwhere(discs))
    for _ in range(10):
        stray = places[rng.integers(len(places))] + rng.normal(0.0, 30.0, 3)
        anatomy[ellipsoid(grid, stray, tuple(rng.uniform(2, 6, 3)))] = rng.integers(0, 7)
    anatomy[rng.random(anatomy.shape) < 0.05] = Structure.BACKGROUND
    assert names_of(phantom, split(phantom, anatomy)) == list(phantom.names)
    cleaned = clean_anatomy(anatomy, grid)
    assert names_of(phantom, split(phantom, cleaned)) == list(phantom.names)


@pytest.mark.parametrize("level", ["C5", "T7", "L3"])
def test_a_body_half_replaced_by_a_lesion_stays_one_vertebra(whole_spine, level):
    grid, anatomy = whole_spine.segmentation.grid, whole_spine.segmentation.anatomy.copy()
    front, size = whole_spine.body_front_mm(level), whole_spine.heights_mm[level]
    hole = ellipsoid(grid, whole_spine.point(level, front, rise=0.5), (30.0, 30.0, 0.25 * size))
    anatomy[hole & (anatomy == Structure.VERTEBRAL_BODY)] = Structure.BACKGROUND
    assert names_of(whole_spine, split(whole_spine, anatomy)) == list(whole_spine.names)


def test_two_bodies_fused_without_any_disc_are_cut_by_their_height(lumbar_spine):
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy.copy()
    front = lumbar_spine.body_front_mm("L2")
    between = ellipsoid(grid, lumbar_spine.point("L2", front, rise=1.2), (30, 25, 12))
    anatomy[between & (anatomy == Structure.DISC)] = Structure.VERTEBRAL_BODY
    assert names_of(lumbar_spine, split(lumbar_spine, anatomy)) == list(lumbar_spine.names)


def test_body_probability_shows_the_disc_space_in_a_fused_blob(lumbar_spine):
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy.copy()
    discs = anatomy == Structure.DISC
    probability = np.where(anatomy == Structure.VERTEBRAL_BODY, 0.95, 0.0).astype(np.float32)
    anatomy[discs], probability[discs] = Structure.VERTEBRAL_BODY, 0.55
    instances = split_vertebrae(anatomy, probability, grid)
    assert names_of(lumbar_spine, instances) == list(lumbar_spine.names)


def test_the_sacrum_is_the_last_instance_and_only_one(lumbar_spine):
    instances = split(lumbar_spine)
    sacrum = lumbar_spine.segmentation.anatomy == Structure.SACRUM
    assert set(np.unique(instances[sacrum])) == {instances.max()}


@pytest.mark.parametrize(("level", "front_mm"), [("L3", -50.0), ("T12", 30.0)])
def test_what_is_called_sacrum_behind_the_canal_or_above_bodies_is_cleaned_away(
    lumbar_spine, level, front_mm
):
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy.copy()
    anatomy[anatomy == Structure.SACRUM] = Structure.BACKGROUND
    island = ellipsoid(grid, lumbar_spine.point(level, front_mm), (9, 9, 9))
    anatomy[island] = Structure.SACRUM
    assert not (clean_anatomy(anatomy, grid) == Structure.SACRUM).any()


def test_islands_far_from_the_spine_are_no_vertebrae_and_are_cleaned_away(lumbar_spine):
    grid, anatomy = lumbar_spine.segmentation.grid, lumbar_spine.segmentation.anatomy.copy()
    island = ellipsoid(grid, lumbar_spine.point("L1", -45.0), (9, 9, 9)) & (anatomy == Structure.BACKGROUND)
    anatomy[island] = Structure.VERTEBRAL_BODY
    assert island.any()
    assert not split(lumbar_spine, anatomy)[island].any()
    assert not clean_anatomy(anatomy, grid)[island].any()


def test_cleaning_leaves_a_clean_map_as_it_is(whole_spine):
    anatomy, grid = whole_spine.segmentation.anatomy, whole_spine.segmentation.grid
    changed = clean_anatomy(anatomy, grid) != anatomy
    assert changed.mean() < 1e-4


def test_an_empty_map_has_no_instances(lumbar_spine):
    grid = lumbar_spine.segmentation.grid
    empty = np.zeros(grid.shape, np.uint8)
    assert not split_vertebrae(empty, None, grid).any()
    assert not clean_anatomy(empty, grid).any()


def test_a_thin_sheet_mistaken_for_bodies_is_no_error():
    grid = Grid((9, 60, 90), np.diag([4.0, 1.0, 1.0, 1.0]))
    anatomy = np.zeros(grid.shape, dtype=np.uint8)
    anatomy[2:7, 10:20] = Structure.THECAL_SAC
    anatomy[2:7, 30:31, 20:70] = Structure.VERTEBRAL_BODY
    assert split_vertebrae(anatomy, None, grid).max() <= 1


def seen_below(phantom: Phantom, cut_mm: float) -> tuple[np.ndarray, Grid]:
    """The phantom's label map and grid without what lies above a height of C2, its top being 0."""
    grid = phantom.segmentation.grid
    place = phantom.point("C2", phantom.body_front_mm("C2"), rise=cut_mm / phantom.heights_mm["C2"])
    top = round(float(grid.to_index(place)[2]))
    return phantom.segmentation.anatomy[:, :, :top], Grid((*grid.shape[:2], top), grid.affine)


def highest_names(phantom: Phantom, anatomy: np.ndarray, grid: Grid, count: int = 3) -> list[str]:
    """The true levels of the uppermost instances."""
    instances = split_vertebrae(anatomy, None, grid)
    shown = phantom.level_map[:, :, : anatomy.shape[2]]
    body = anatomy == Structure.VERTEBRAL_BODY
    return [
        LEVELS[int(np.bincount(shown[(instances == label) & body]).argmax()) - 1].value
        for label in range(1, count + 1)
    ]


def with_wide_dens(phantom: Phantom) -> np.ndarray:
    """The label map with a dens nearly as wide as C2's body, as soft label maps show it."""
    grid, anatomy = phantom.segmentation.grid, phantom.segmentation.anatomy.copy()
    front = phantom.body_front_mm("C2")
    for rise in np.arange(0.1, 0.95, 0.05):
        disc = ellipsoid(grid, phantom.point("C2", front, rise=float(rise)), (7.5, 6.5, 3.0))
        anatomy[disc & (anatomy == Structure.BACKGROUND)] = Structure.VERTEBRAL_BODY
    return anatomy


NECKS = [
    {"lowest": "T3", "spacing_mm": (1.0, 1.0, 1.0), "half_width_mm": 14.0},
    {"lowest": "T3", "spacing_mm": (3.0, 0.8, 0.8), "half_width_mm": 14.0},
    {"lowest": "T3", "spacing_mm": (1.0, 1.0, 3.0), "half_width_mm": 14.0},
]


@pytest.mark.parametrize("options", NECKS, ids=str)
@pytest.mark.parametrize("cut_mm", [-9.0, 4.0, 10.0, 16.0, 22.0, 28.0])
def test_c2_is_one_instance_wherever_the_image_cuts_it(options, cut_mm):
    phantom = draw_phantom(**options)
    whole = with_wide_dens(phantom)
    top = seen_below(phantom, cut_mm)[0].shape[2]
    grid = Grid((*whole.shape[:2], top), phantom.segmentation.grid.affine)
    assert highest_names(phantom, whole[:, :, :top], grid) == ["C2", "C3", "C4"]


@pytest.mark.parametrize("cut_mm", [16.0, 24.0, 30.0, 32.0])
@pytest.mark.parametrize("radius_mm", [4.0, 5.5])
def test_a_cut_c2_bridged_to_c3_beside_a_small_disc_stays_its_own(cut_mm, radius_mm):
    phantom = draw_phantom(**NECKS[0])
    anatomy, grid = seen_below(phantom, cut_mm)
    anatomy = anatomy.copy()
    rise = 1.0 + 2.5 / phantom.heights_mm["C2"]
    centre = phantom.point("C2", phantom.body_front_mm("C2"), rise=rise)
    gap = ellipsoid(grid, centre, (12.0, 12.0, 5.0)) & (anatomy == Structure.DISC)
    anatomy[gap] = Structure.BACKGROUND
    anatomy[gap & ellipsoid(grid, centre, (radius_mm, radius_mm, 8.0))] = Structure.DISC
    behind = phantom.point("C2", phantom.body_front_mm("C2") + 4.5, rise=rise)
    anatomy[gap & ellipsoid(grid, behind, (6.0, 3.5, 9.0))] = Structure.VERTEBRAL_BODY
    assert highest_names(phantom, anatomy, grid) == ["C2", "C3", "C4"]
    third = phantom.level_map[:, :, : anatomy.shape[2]] == LEVELS.index(VertebralLevel.C3) + 1
    body = third & (anatomy == Structure.VERTEBRAL_BODY)
    assert (split_vertebrae(anatomy, None, grid)[body] == 2).mean() > 0.97


@pytest.mark.parametrize(("lowest", "seed"), [("C4", 11), ("C6", 9)])
def test_collapsed_neighbours_do_not_cut_c2(lowest, seed):
    collapsed = (("C3", 0.7), ("C4", 0.7))
    view = {"highest": "C2", "lowest": lowest, "margin_mm": 6.0, "spacing_mm": (4.0, 1.2, 1.2)}
    phantom = draw_phantom(collapsed=collapsed, seed=seed, **view)
    assert names_of(phantom, split(phantom))[:3] == ["C2", "C3", "C4"]


def test_low_body_probability_inside_the_dens_does_not_cut_c2():
    phantom = draw_phantom(**NECKS[0])
    anatomy, grid = with_wide_dens(phantom), phantom.segmentation.grid
    probability = np.where(anatomy == Structure.VERTEBRAL_BODY, 0.95, 0.0).astype(np.float32)
    base = phantom.point("C2", phantom.body_front_mm("C2"), rise=0.6)
    line = ellipsoid(grid, base, (9.0, 9.0, 2.0)) & (anatomy == Structure.VERTEBRAL_BODY)
    probability[line] = 0.55
    instances = split_vertebrae(anatomy, probability, grid)
    assert names_of(phantom, instances)[:3] == ["C2", "C3", "C4"]


def test_the_arch_of_the_atlas_is_c1_only_where_it_was_labelled_apart_from_the_dens():
    with_arch = draw_phantom(atlas=True, **NECKS[0])
    without = draw_phantom(**NECKS[0])
    assert names_of(with_arch, split(with_arch))[:2] == ["C1", "C2"]
    assert names_of(without, split(without))[:2] == ["C2", "C3"]


def test_a_fused_blob_does_not_hide_the_usual_height_of_the_bodies_about_it():
    # Height, depth and volume from C2 with C3 down to T2, C7 and T1 being fused.
    sizes = [(25.0, 14, 3400), (13.0, 16, 2700), (12.0, 16, 2600), (10.5, 16, 3000), (14.5, 15.5, 5100)]
    sizes += [(34.5, 17.0, 11700), (16.0, 19.0, 5100)]
    pieces, top = [], 0.0
    for height, depth, volume in sizes:
        pieces.append(Piece(np.zeros(1, np.intp), top, top + height, depth, 15.0, 0.0, volume))
        top += height + 5.0
    assert 10.5 <= _expected_height_mm(pieces[0], pieces) <= 13.0


def test_bone_that_clings_to_a_body_s_side_hides_no_neighbour():
    """Three bodies high beside the canal, it once swallowed the body between its ends."""
    phantom = draw_phantom(highest="C3", lowest="T2", spacing_mm=(1.0, 1.0, 1.0))
    anatomy = phantom.segmentation.anatomy.copy()
    body = anatomy == Structure.VERTEBRAL_BODY
    level = phantom.level_map
    rows = {name: LEVELS.index(VertebralLevel[name]) + 1 for name in ("C5", "C7")}
    lower, upper = (np.argwhere(body & (level == rows[name])) for name in ("C7", "C5"))
    edge = int(lower[:, 0].min())
    middle = int(np.median(lower[:, 1]))
    strip = (
        slice(edge - 6, edge + 2),
        slice(middle - 3, middle + 4),
        slice(lower[:, 2].min(), upper[:, 2].max()),
    )
    anatomy[strip] = np.where(body[strip], anatomy[strip], Structure.VERTEBRAL_BODY)
    assert set(names_of(phantom, split(phantom, anatomy))) >= {"C4", "C5", "C6", "C7"}


def test_scraps_beside_every_body_are_no_vertebrae():
    phantom = draw_phantom(highest="T9", lowest="L3", sacrum=False)
    anatomy = phantom.segmentation.anatomy.copy()
    body = anatomy == Structure.VERTEBRAL_BODY
    for label in np.unique(phantom.level_map[body]):
        voxels = np.argwhere(body & (phantom.level_map == label))
        top, (x, y) = int(voxels[:, 2].max()), np.median(voxels[:, :2], axis=0).astype(int)
        anatomy[x - 1 : x + 2, y - 3 : y + 4, top + 3 : top + 5] = Structure.VERTEBRAL_BODY
    assert names_of(phantom, split(phantom, anatomy)) == list(phantom.names)


def test_cleaning_twice_changes_nothing_more():
    phantom = draw_phantom(highest="T9", spacing_mm=(3.0, 1.5, 1.5))
    grid, anatomy = phantom.segmentation.grid, phantom.segmentation.anatomy.copy()
    # A false piece of sac before the spine bends the curve towards a false body beside it.
    front = np.argwhere(anatomy == Structure.VERTEBRAL_BODY)[:, 1].max()
    anatomy[4:8, front + 8 : front + 16, -18:] = Structure.THECAL_SAC
    anatomy[4:8, front + 18 : front + 26, -14:] = Structure.VERTEBRAL_BODY
    cleaned = clean_anatomy(anatomy, grid)
    assert np.array_equal(clean_anatomy(cleaned, grid), cleaned)


def test_a_disc_beyond_the_end_of_a_blob_does_not_cut_it():
    """A dumbbell as high as many bodies, whose extent is taken for larger than it is."""
    grid = Grid((24, 60, 200), np.diag([1.0, 1.0, 1.0, 1.0]))
    anatomy = np.zeros(grid.shape, np.uint8)
    anatomy[6:18, 10:20, :] = Structure.THECAL_SAC
    anatomy[9:15, 30:36, 20:170] = Structure.VERTEBRAL_BODY
    for end in (slice(20, 26), slice(164, 170)):
        anatomy[2:22, 26:40, end] = Structure.VERTEBRAL_BODY
    anatomy[2:22, 26:40, 171:176] = Structure.DISC
    instances = split_vertebrae(anatomy, None, grid)
    assert (instances[anatomy == Structure.VERTEBRAL_BODY] > 0).mean() > 0.9
