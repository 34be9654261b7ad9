"""A T2 scan made to look like T1 or STIR has the order of signals that those show."""

from __future__ import annotations

import numpy as np
import pytest

from phantoms import draw_phantom
from spinemets.anatomy import Structure
from spinemets.training.contrast import recontrast, resemble, vary
from spinemets.volume import Weighting

# T2 grey values in the order of ``Structure``: background (fat), body, posterior, disc, sac, cord, sacrum.
T2 = np.array((250, 130, 60, 90, 280, 110, 180), dtype=np.float32)


@pytest.fixture(scope="module")
def structures():
    return draw_phantom(highest="T12", lowest="S1", conus="L2").segmentation.anatomy


def medians(structures, weighting, seed):
    image = T2[structures] + np.random.default_rng(1).normal(0, 6, structures.shape).astype(np.float32)
    image = resemble(image, structures, weighting, np.random.default_rng(seed))
    return {one: float(np.median(image[structures == one])) for one in Structure if (structures == one).any()}


@pytest.mark.parametrize("seed", range(8))
def test_t1_marrow_is_alike_in_the_whole_spine_and_brighter_than_disc_and_csf(structures, seed):
    level = medians(structures, Weighting.T1, seed)
    body = level[Structure.VERTEBRAL_BODY]
    assert level[Structure.DISC] < 0.85 * body
    assert level[Structure.THECAL_SAC] < 0.6 * body
    for bone in (Structure.POSTERIOR_ELEMENTS, Structure.SACRUM):
        if bone in level:
            assert level[bone] == pytest.approx(body, rel=0.2)


@pytest.mark.parametrize("seed", range(8))
def test_stir_shows_fluid_brightest_and_marrow_dark(structures, seed):
    level = medians(structures, Weighting.T2_FS, seed)
    assert max(level, key=lambda one: level[one]) is Structure.THECAL_SAC
    assert level[Structure.VERTEBRAL_BODY] < 0.5 * level[Structure.THECAL_SAC]


@pytest.mark.parametrize("seed", range(8))
def test_bright_marrow_of_a_t2_scan_is_fat_and_dark_on_stir_and_cortex_stays_dark(structures, seed):
    body = structures == Structure.VERTEBRAL_BODY
    image = T2[structures] + np.random.default_rng(1).normal(0, 6, structures.shape).astype(np.float32)
    place = np.indices(structures.shape).sum(axis=0) // 8 % 4  # blocks, as borders of tissues are blurred
    fatty, cortical = body & (place == 0), body & (place == 2)
    image[fatty] += 60
    image[cortical] -= 80
    stir = resemble(image, structures, Weighting.T2_FS, np.random.default_rng(seed))
    level = np.median(stir[body & ~fatty & ~cortical])
    assert np.median(stir[fatty]) < level
    assert np.median(stir[cortical]) < level


@pytest.mark.parametrize("weighting", [Weighting.T1, Weighting.T2_FS])
@pytest.mark.parametrize("seed", range(8))
def test_marrow_that_is_not_labelled_has_the_signal_of_marrow(structures, weighting, seed):
    sacrum, body = structures == Structure.SACRUM, structures == Structure.VERTEBRAL_BODY
    heights = np.nonzero(sacrum.any(axis=(0, 1)))[0]
    lower = np.arange(structures.shape[2])[None, None] < np.median(heights)
    labels = np.where(sacrum & lower, np.uint8(Structure.BACKGROUND), structures)
    t2 = T2.copy()
    t2[Structure.SACRUM] = t2[Structure.VERTEBRAL_BODY]
    image = resemble(t2[structures], labels, weighting, np.random.default_rng(seed))
    level = float(np.median(image[body]))
    assert np.median(image[sacrum & lower]) == pytest.approx(np.median(image[sacrum & ~lower]), rel=0.02)
    assert np.median(image[sacrum & lower]) == pytest.approx(level, rel=0.2)


@pytest.mark.parametrize("weighting", [Weighting.T1, Weighting.T2_FS])
def test_marrow_without_a_labelled_sacrum_goes_by_the_bodies(structures, weighting):
    sacrum, body = structures == Structure.SACRUM, structures == Structure.VERTEBRAL_BODY
    labels = np.where(sacrum, np.uint8(Structure.BACKGROUND), structures)
    t2 = T2.copy()
    t2[Structure.SACRUM] = t2[Structure.VERTEBRAL_BODY]
    image = resemble(t2[structures], labels, weighting, np.random.default_rng(2))
    assert np.median(image[sacrum]) == pytest.approx(float(np.median(image[body])), rel=0.02)


@pytest.mark.parametrize(
    "weighting", [Weighting.T2_FS, Weighting.T1_FS_GD, Weighting.DIXON_FAT, Weighting.UNKNOWN]
)
def test_no_t1_is_made_of_a_scan_without_bright_fat(structures, weighting):
    image = T2[structures]
    made = [recontrast(image, structures, weighting, np.random.default_rng(seed))[1] for seed in range(40)]
    assert set(made) <= {Weighting.UNKNOWN, weighting}


def test_t1_stir_and_fat_suppressed_t1_after_contrast_are_made_of_t2(structures):
    made = [
        recontrast(T2[structures], structures, Weighting.T2, np.random.default_rng(seed))[1]
        for seed in range(40)
    ]
    assert set(made) == {
        Weighting.T1, Weighting.T2_FS, Weighting.T1_FS_GD, Weighting.UNKNOWN, Weighting.T2
    }  # fmt: skip


def test_after_contrast_with_fat_suppressed_fluid_and_fat_are_dark_and_nothing_healthy_is_bright(structures):
    drawn = (
        recontrast(T2[structures], structures, Weighting.T2, np.random.default_rng(s)) for s in range(60)
    )
    made = [image for image, weighting in drawn if weighting is Weighting.T1_FS_GD]
    assert len(made) > 4
    for image in made:
        level = {one: float(np.median(image[structures == one])) for one in Structure}
        assert level[Structure.THECAL_SAC] < level[Structure.CORD]
        assert level[Structure.BACKGROUND] < 1.2 * level[Structure.VERTEBRAL_BODY]
        assert max(level.values()) < 0.6


def test_another_patient_of_the_same_weighting_has_its_own_levels_in_the_same_order(structures):
    image = T2[structures] + np.random.default_rng(1).normal(0, 6, structures.shape).astype(np.float32)
    ratios = []
    for seed in range(12):
        varied = vary(image, structures, np.random.default_rng(seed))
        assert varied.dtype == np.float32
        assert varied.min() >= 0
        assert varied.max() <= 1.2
        level = {one: float(np.median(varied[structures == one])) for one in Structure}
        assert level[Structure.THECAL_SAC] > level[Structure.VERTEBRAL_BODY]
        ratios.append(level[Structure.VERTEBRAL_BODY] / level[Structure.THECAL_SAC])
    assert max(ratios) > 1.5 * min(ratios)


def test_a_scan_without_labels_can_be_varied(structures):
    varied = vary(T2[structures], np.zeros_like(structures), np.random.default_rng(0))
    assert np.isfinite(varied).all()
    assert np.ptp(varied) > 0.5


@pytest.mark.parametrize("weighting", [Weighting.T1, Weighting.T2_FS])
@pytest.mark.parametrize("marrow", [0, 300])
def test_marrow_that_is_the_darkest_or_the_brightest_is_no_error(structures, weighting, marrow):
    t2 = T2.copy()
    t2[[Structure.VERTEBRAL_BODY, Structure.SACRUM]] = marrow
    for seed in range(4):
        image = resemble(t2[structures], structures, weighting, np.random.default_rng(seed))
        assert np.isfinite(image).all()
        assert 0 <= image.min() < image.max() <= 1.2
