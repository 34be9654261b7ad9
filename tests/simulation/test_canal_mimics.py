"""Roots, flow and fat change the sac and its neighbourhood, not the bones, and look as they should."""

from __future__ import annotations

import numpy as np
import pytest

from phantoms import draw_phantom
from spinemets.anatomy import Structure
from spinemets.simulation.canal_mimics import epidural_fat, flow_voids, narrowed_canal, nerve_roots
from spinemets.simulation.mimics import add_mimics
from spinemets.simulation.references import measure_references
from spinemets.volume import Weighting

SPACING_MM = (4.0, 1.0, 1.0)
# Signals of a T2 weighting and of a T1 weighting, by structure.
T2 = np.array((150, 170, 170, 90, 400, 120, 170), dtype=np.float32)
T1 = np.array((250, 200, 200, 110, 40, 120, 200), dtype=np.float32)
SEEDS = range(12)


@pytest.fixture(scope="module")
def structures():
    labels = draw_phantom(highest="T11", lowest="L5", spacing_mm=SPACING_MM).segmentation.anatomy.copy()
    labels.setflags(write=False)
    return labels


def scan(structures, grey):
    noise = np.random.default_rng(1).normal(0, 6, structures.shape)
    image = (grey[structures] + noise).astype(np.float32)
    # Fat lies in the background, so its brightest tenth is what fat is measured from.
    image[structures == Structure.BACKGROUND] += np.random.default_rng(2).uniform(
        0, 200, (structures == Structure.BACKGROUND).sum()
    )
    image.setflags(write=False)
    return image


def changes(function, structures, grey):
    """What a variant adds, over several seeds, where it adds anything."""
    image = scan(structures, grey)
    references = measure_references(image, structures)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        change = function(image, structures, SPACING_MM, references, rng) - image
        if change.any():
            yield change


@pytest.mark.parametrize("function", [nerve_roots, flow_voids])
def test_inside_the_sac_only_and_towards_the_cord_s_signal(function, structures):
    found = list(changes(function, structures, T2))
    assert len(found) > 6
    for change in found:
        assert not change[structures != Structure.THECAL_SAC].any()
        assert change.min() < -20
        assert change.max() < 40  # where noise lay below the cord's signal


def test_roots_run_below_the_cord_and_along_the_sac(structures):
    cord_heights = (structures == Structure.CORD).any(axis=(0, 1))
    for change in changes(nerve_roots, structures, T2):
        where = np.argwhere(np.abs(change) > 20)
        assert not cord_heights[where[:, 2]].any()
        assert np.ptp(where[:, 2]) >= 20


def test_canal_is_narrowed_at_discs_by_what_is_darker_than_csf_and_by_no_bone(structures):
    discs = np.flatnonzero((structures == Structure.DISC).any(axis=(0, 1)))
    found = list(changes(narrowed_canal, structures, T2))
    assert len(found) > 6
    for change in found:
        touched = np.argwhere(np.abs(change) > 60)
        kinds = np.unique(structures[tuple(touched.T)])
        assert set(kinds) <= {Structure.THECAL_SAC, Structure.BACKGROUND}
        assert np.mean(change[tuple(touched.T)] < 0) > 0.95
        # Discs of a lordotic spine are oblique: their backs lie within a few millimetres of them.
        gaps = np.abs(touched[:, 2][:, None] - discs[None]).min(axis=1) * SPACING_MM[2]
        assert np.quantile(gaps, 0.95) < 10


def test_canal_is_narrowed_where_there_is_one(structures):
    without = np.where(structures == Structure.THECAL_SAC, Structure.BACKGROUND, structures).astype(np.uint8)
    without[without == Structure.CORD] = Structure.BACKGROUND
    assert not list(changes(narrowed_canal, without, T2))


def test_where_csf_is_dark_nothing_seems_to_flow(structures):
    assert not list(changes(flow_voids, structures, T1))


def test_epidural_fat_lies_behind_the_sac_and_is_bright(structures):
    found = list(changes(epidural_fat, structures, T1))
    assert len(found) == len(SEEDS)
    sac_rows = np.argwhere(structures == Structure.THECAL_SAC)[:, 1]
    for change in found:
        where = np.argwhere(change != 0)
        assert (structures[tuple(where.T)] == Structure.BACKGROUND).all()
        assert where[:, 1].max() < sac_rows.max()
        assert change.mean() > 0


@pytest.mark.parametrize("function", [nerve_roots, flow_voids, epidural_fat])
def test_a_scan_without_a_sac_stays_as_it_is(function):
    bare = np.zeros((5, 40, 40), dtype=np.uint8)
    assert not list(changes(function, bare, T2))


def test_where_fat_is_suppressed_none_is_bright_around_the_sac(structures):
    image = scan(structures, T2)
    behind = structures == Structure.BACKGROUND
    brighter = {
        weighting: sum(
            (add_mimics(image, structures, SPACING_MM, weighting, np.random.default_rng(seed)) - image)[
                behind
            ].max()
            > 50
            for seed in SEEDS
        )
        for weighting in (Weighting.T2, Weighting.T2_FS)
    }
    assert brighter[Weighting.T2] > 0
    assert brighter[Weighting.T2_FS] == 0
