"""Normal variants change marrow and the surroundings of the sac, never the truth, and look as known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from phantoms import draw_phantom
from spinemets.anatomy import Structure
from spinemets.simulation import mimics
from spinemets.simulation.mimics import add_mimics, marrow_variation
from spinemets.simulation.references import measure_references, spread_about_trend
from spinemets.volume import Weighting

SPACING_MM = (4.0, 1.0, 1.0)
GREY = np.array((300, 170, 170, 90, 40, 100, 170), dtype=np.float32)
SEEDS = range(15)
WEIGHTINGS = (Weighting.T1, Weighting.T2, Weighting.T2_FS, Weighting.UNKNOWN)
VARIANTS = (
    mimics.basivertebral_vein,
    mimics.endplate_change,
    mimics.corner_change,
    mimics.fatty_focus,
    mimics.haemangioma,
)


@pytest.fixture(scope="module")
def structures():
    return draw_phantom(highest="L1", lowest="L3", spacing_mm=SPACING_MM).segmentation.anatomy


@pytest.fixture(scope="module")
def image(structures):
    noise = np.random.default_rng(1).normal(0, 6, structures.shape)
    values = (GREY[structures] + noise).astype(np.float32)
    values.setflags(write=False)
    return values


@pytest.fixture(scope="module")
def one_body(structures, image):
    """A patch around the largest body, that body, and the references of the whole scan."""
    bodies, labels = bodies_of(structures)
    box = ndimage.find_objects(bodies)[labels[0] - 1]
    return image[box], bodies[box] == labels[0], measure_references(image, structures)


def bodies_of(structures):
    """Components of bone, and the labels of the three largest."""
    bodies, _ = ndimage.label(structures == Structure.VERTEBRAL_BODY)
    return bodies, np.argsort(np.bincount(bodies.ravel())[1:])[:-4:-1] + 1


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_bodies_and_sac_change_and_nothing_given_does(structures, image, weighting):
    labels = structures.copy()
    labels.setflags(write=False)
    changed = add_mimics(image, labels, SPACING_MM, weighting, np.random.default_rng(2))
    body = structures == Structure.VERTEBRAL_BODY
    spared = np.isin(structures, (Structure.DISC, Structure.CORD, Structure.POSTERIOR_ELEMENTS))
    assert changed.shape == image.shape
    assert changed.dtype == np.float32
    assert np.array_equal(changed[spared], image[spared])
    assert (changed[body] != image[body]).mean() > 0.9
    assert np.array_equal(labels, structures)


def test_the_seed_decides_everything(structures, image):
    first, second, other = (
        add_mimics(image, structures, SPACING_MM, Weighting.T2, np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_scan_without_bodies_stays_as_it_is(image):
    changed = add_mimics(
        image, np.zeros(image.shape, dtype=np.uint8), SPACING_MM, Weighting.T2, np.random.default_rng(5)
    )
    assert np.array_equal(changed, image)


def test_marrow_varies_between_vertebrae_and_within_them(structures, image):
    bodies, labels = bodies_of(structures)
    references = measure_references(image, structures)
    usual = references.spread
    change = marrow_variation(image, bodies, SPACING_MM, references, np.random.default_rng(6)) - image
    means = [change[bodies == label].mean() for label in labels]
    assert np.ptp(means) > 0.2 * usual
    assert change[bodies == labels[0]].std() > 0.05 * usual
    assert np.abs(change).max() < 8 * usual


def test_coil_fall_off_makes_no_vertebra_vary_more(structures, image):
    bodies, _ = bodies_of(structures)
    even = spread_about_trend(image, bodies > 0)
    falling = image * np.linspace(1.6, 0.4, image.shape[1], dtype=np.float32)[None, :, None]
    marrow = structures == Structure.VERTEBRAL_BODY
    assert falling[marrow].std() > 2 * image[marrow].std()
    assert spread_about_trend(falling, bodies > 0) < 2 * even


def test_patches_of_marrow_are_what_it_differs_by(structures, image):
    bodies, _ = bodies_of(structures)
    even = spread_about_trend(image, bodies > 0)
    patchy = image + 40 * np.sin(np.indices(image.shape)[2] / 3.0).astype(np.float32)
    assert spread_about_trend(patchy, bodies > 0) > 5 * even
    assert spread_about_trend(image, bodies < 0) == 0


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_variant_changes_part_of_its_body_and_returns_a_new_patch(one_body, variant, weighting):
    patch, body, references = one_body
    patch = patch.copy()
    before = patch.copy()
    for seed in SEEDS:
        changed = variant(patch, body, SPACING_MM, references, weighting, np.random.default_rng(seed))
        assert np.array_equal(patch, before)
        assert np.array_equal(changed[~body], before[~body])
        assert (changed[body] != before[body]).mean() < 0.8


def shifts(one_body, variant, weighting):
    """Mean change where a variant changed anything, over several seeds."""
    patch, body, references = one_body
    found = []
    for seed in SEEDS:
        change = variant(patch, body, SPACING_MM, references, weighting, np.random.default_rng(seed)) - patch
        if change.any():
            found.append(change[change != 0].mean())
    return np.array(found)


def test_the_basivertebral_vein_is_dark_on_t1(one_body):
    found = shifts(one_body, mimics.basivertebral_vein, Weighting.T1)
    assert len(found) > 10
    assert (found < 0).all()


def test_the_basivertebral_vein_enters_from_behind(one_body):
    patch, body, references = one_body
    rows = np.argwhere(body)[:, 1]
    for seed in SEEDS:
        changed = mimics.basivertebral_vein(
            patch, body, SPACING_MM, references, Weighting.T2, np.random.default_rng(seed)
        )
        where = np.argwhere(changed != patch)
        if len(where):
            assert where[:, 1].mean() < np.median(rows)


def test_fat_is_bright_on_t1_and_dark_where_it_is_suppressed(one_body):
    assert (shifts(one_body, mimics.fatty_focus, Weighting.T1) > 0).all()
    assert (shifts(one_body, mimics.fatty_focus, Weighting.T2_FS) < 0).all()


@pytest.mark.parametrize("weighting", [Weighting.T2, Weighting.UNKNOWN])
def test_fat_that_could_be_taken_for_a_lesion_is_not_drawn(one_body, weighting):
    assert shifts(one_body, mimics.fatty_focus, weighting).size == 0


def test_endplate_changes_lie_along_an_endplate(one_body):
    patch, body, references = one_body
    heights = np.argwhere(body)[:, 2]
    for seed in SEEDS:
        changed = mimics.endplate_change(
            patch, body, SPACING_MM, references, Weighting.T1, np.random.default_rng(seed)
        )
        where = np.argwhere(np.abs(changed - patch) > references.spread)[:, 2]
        assert min(where.min() - heights.min(), heights.max() - where.max()) <= 1
        assert np.ptp(where) <= 16


def test_schmorl_nodes_are_of_one_piece_with_the_disc_and_have_its_signal(structures, image):
    """The endplate between is as dark as cortical bone, and broken; other discs have another signal."""
    bodies, labels = bodies_of(structures)
    body = bodies == labels[0]
    discs = structures == Structure.DISC
    heights = np.argwhere(body)[:, 2]
    above = discs & (np.arange(body.shape[2]) > heights.mean())
    scan = np.where(above, 130, np.where(discs, 60, image)).astype(np.float32)
    scan.setflags(write=False)
    references = measure_references(scan, structures)
    signals = []
    for seed in range(30):
        changed = mimics.schmorl_node(
            scan, body, discs, SPACING_MM, references, Weighting.T2, np.random.default_rng(seed)
        )
        assert np.array_equal(changed[discs], scan[discs])
        assert (changed[body] != scan[body]).mean() < 0.8
        altered = np.abs(changed - scan) > 4 * references.spread
        where = np.argwhere(altered & body)
        if len(where) < 5:
            continue
        upper = where[:, 2].mean() > heights.mean()
        node = changed[altered & body]
        signals.append((upper, float(np.median(node))))
    upper, lower = ([signal for side, signal in signals if side == wanted] for wanted in (True, False))
    assert len(upper) > 5
    assert len(lower) > 5
    assert np.median(upper) == pytest.approx(130, abs=25)
    assert np.median(lower) == pytest.approx(60, abs=25)


def test_changed_corners_lie_at_a_corner(one_body):
    patch, body, references = one_body
    where = np.argwhere(body)
    low, high = where.min(axis=0)[1:], where.max(axis=0)[1:]
    for seed in SEEDS:
        changed = mimics.corner_change(
            patch, body, SPACING_MM, references, Weighting.T2, np.random.default_rng(seed)
        )
        rows_and_heights = np.argwhere(np.abs(changed - patch) > references.spread)[:, 1:]
        if len(rows_and_heights):
            middle = rows_and_heights.mean(axis=0)
            assert (np.minimum(middle - low, high - middle) < 0.4 * (high - low)).all()


def bright_share(one_body, variant, weighting):
    """How many of the changes that seeds ask for make a body brighter."""
    patch, body, references = one_body
    brighter = [
        (variant(patch, body, SPACING_MM, references, weighting, np.random.default_rng(seed)) - patch).max()
        > references.spread
        for seed in range(200)
    ]
    return np.mean(brighter)


@pytest.mark.parametrize("variant", [mimics.endplate_change, mimics.corner_change], ids=lambda f: f.__name__)
def test_what_is_bright_on_t2_is_seldom_benign(one_body, variant):
    """Without another weighting nothing tells it from disease; a corner may also look like a disc."""
    with_all, on_t2 = (bright_share(one_body, variant, w) for w in (Weighting.PD, Weighting.T2))
    assert 0.05 < on_t2 < 0.7 * with_all


def test_noise_makes_no_variant_plainer(structures, image):
    """An eye sees what tissue differs by from place to place; noise only hides it."""
    noise = 30.0
    noisy = image + np.random.default_rng(8).normal(0, noise, image.shape).astype(np.float32)
    body = structures == Structure.VERTEBRAL_BODY
    plainest = []
    for seed in SEEDS:
        changed = add_mimics(noisy, structures, SPACING_MM, Weighting.T1, np.random.default_rng(seed))
        plainest.append(np.quantile(np.abs(changed - noisy)[body], 0.97))
    assert measure_references(noisy, structures).spread > 0.9 * noise
    assert np.mean(plainest) < noise


def test_haemangiomas_are_bright_and_striped_and_drawn_where_that_tells(one_body):
    patch, body, references = one_body
    assert (shifts(one_body, mimics.haemangioma, Weighting.T1) > 0).all()
    assert (shifts(one_body, mimics.haemangioma, Weighting.T2) > 0).all()
    for weighting in (Weighting.T2_FS, Weighting.UNKNOWN):
        assert shifts(one_body, mimics.haemangioma, weighting).size == 0
    changed = mimics.haemangioma(patch, body, SPACING_MM, references, Weighting.T1, np.random.default_rng(0))
    inside = changed - patch
    assert inside[inside > 0].std() > 0.15 * inside.max()


def test_radiation_makes_a_stretch_of_marrow_fatty(structures, image):
    bodies, _ = bodies_of(structures)
    references = measure_references(image, structures)
    found = [
        mimics.radiation_change(
            image, bodies, SPACING_MM, references, Weighting.T1, np.random.default_rng(seed)
        )
        - image
        for seed in SEEDS
    ]
    assert sum(change.any() for change in found) > 8
    for change in found:
        assert (change >= 0).all()
        assert not change[bodies == 0].any()
    unknown = mimics.radiation_change(
        image, bodies, SPACING_MM, references, Weighting.T2, np.random.default_rng(0)
    )
    assert np.array_equal(unknown, image)


def test_specks_labelled_as_bodies_get_no_variants(image):
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[3, 50:55, 50:55] = Structure.VERTEBRAL_BODY
    references = measure_references(image, labels)
    changed = add_mimics(image, labels, SPACING_MM, Weighting.T1, np.random.default_rng(7))
    assert np.abs(changed - image).max() < 6 * references.spread
