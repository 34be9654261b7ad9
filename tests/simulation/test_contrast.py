"""Signals: the order of tissues that radiologists read each weighting by."""

from __future__ import annotations

import numpy as np
import pytest

from spinemets.simulation.contrast import draw_properties, draw_protocol, random_contrast, signal
from spinemets.simulation.tissues import Tissue
from spinemets.volume import Weighting

SEEDS = range(3)


def medians(labels, weighting, seed):
    rng = np.random.default_rng(seed)
    image = signal(labels, weighting, rng, draw_properties(rng, 45.0))
    return {
        tissue: float(np.median(image[labels.tissue == tissue]))
        for tissue in Tissue
        if (labels.tissue == tissue).any()
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_on_t1_fat_outshines_marrow_marrow_disc_and_disc_csf(usual, seed):
    m = medians(usual[1], Weighting.T1, seed)
    assert m[Tissue.FAT] > m[Tissue.BODY_MARROW] > m[Tissue.MUSCLE] > m[Tissue.CSF]
    assert m[Tissue.BODY_MARROW] > m[Tissue.ANNULUS] > m[Tissue.CSF]
    assert m[Tissue.CORD] > m[Tissue.CSF]


@pytest.mark.parametrize("seed", SEEDS)
def test_on_t2_csf_outshines_cord_and_marrow_and_cortex_is_dark(usual, seed):
    m = medians(usual[1], Weighting.T2, seed)
    assert m[Tissue.CSF] > 1.5 * m[Tissue.CORD] > 0
    assert m[Tissue.CSF] > 1.5 * m[Tissue.BODY_MARROW]
    assert m[Tissue.BODY_MARROW] > m[Tissue.MUSCLE] > m[Tissue.LIGAMENT]
    assert m[Tissue.BODY_CORTEX] < 0.5 * m[Tissue.BODY_MARROW]


@pytest.mark.parametrize("seed", SEEDS)
def test_on_fat_suppressed_t2_fat_is_dark_and_csf_bright(usual, seed):
    m = medians(usual[1], Weighting.T2_FS, seed)
    assert m[Tissue.FAT] < 0.25 * m[Tissue.CSF]
    assert m[Tissue.BODY_MARROW] < 0.5 * m[Tissue.CSF]


def test_gadolinium_brightens_veins_and_leaves_csf(usual):
    rng = np.random.default_rng(3)
    labels, properties = usual[1], draw_properties(rng)
    plain = draw_protocol(np.random.default_rng(8), Weighting.T1)
    enhanced = draw_protocol(np.random.default_rng(8), Weighting.T1_GD)
    before, after = (signal(labels, protocol, rng, properties) for protocol in (plain, enhanced))
    vein, csf = labels.tissue == Tissue.BASIVERTEBRAL_VEIN, labels.tissue == Tissue.CSF
    assert np.median(after[vein]) > 1.3 * np.median(before[vein])
    assert np.median(after[csf]) == pytest.approx(np.median(before[csf]))


def test_dixon_images_hold_water_and_fat_alone(usual):
    water = medians(usual[1], Weighting.DIXON_WATER, 1)
    fat = medians(usual[1], Weighting.DIXON_FAT, 1)
    assert water[Tissue.FAT] < 0.35 * water[Tissue.CSF]
    assert fat[Tissue.CSF] < 0.1 * fat[Tissue.FAT]


@pytest.mark.parametrize("weighting", list(Weighting))
def test_every_weighting_gives_a_finite_image_with_dark_air(usual, weighting):
    labels = usual[1]
    image = signal(labels, weighting, np.random.default_rng(2))
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image[labels.tissue == Tissue.AIR].max() < 0.1 * np.quantile(image, 0.99)


def test_equal_seeds_give_equal_signals(usual):
    first, again = (signal(usual[1], Weighting.T1, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, again)


def test_marrow_grows_fatter_and_brighter_on_t1_with_age(usual):
    labels = usual[1]

    def ratio(age: float, seed: int) -> float:
        rng = np.random.default_rng(seed)
        image = signal(labels, Weighting.T1, rng, draw_properties(rng, age))
        return float(
            np.median(image[labels.tissue == Tissue.BODY_MARROW])
            / np.median(image[labels.tissue == Tissue.MUSCLE])
        )

    assert np.mean([ratio(80, s) for s in range(4)]) > np.mean([ratio(20, s) for s in range(4)])


def test_random_contrast_gives_every_label_its_own_mean(usual):
    labels = usual[1]
    first, other = (random_contrast(labels.tissue, labels.grid, np.random.default_rng(s)) for s in (1, 2))
    csf, cord = labels.tissue == Tissue.CSF, labels.tissue == Tissue.CORD
    assert abs(first[csf].mean() - first[cord].mean()) > 0.01
    assert abs(first[csf].mean() - other[csf].mean()) > 0.01
    assert first.dtype == np.float32
