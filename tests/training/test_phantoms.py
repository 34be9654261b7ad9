"""Phantoms as training scans."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from spinemets.anatomy import Structure
from spinemets.channels import Channel
from spinemets.errors import OutputError
from spinemets.training import phantoms
from spinemets.training.data import read_sources
from spinemets.training.phantoms import draw_diseased_phantom, draw_phantom_scan, with_open_edges
from spinemets.training.recipe import Recipe, SourceSettings
from spinemets.training.scans import bit
from spinemets.volume import Weighting


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture(scope="module")
def diseased(cache):
    return draw_diseased_phantom(3, 0, cache)


def test_a_diseased_phantom_has_lesions_in_bone_sac_and_cord(diseased):
    within = {Structure(int(value)) for value in np.unique(diseased.structures[diseased.lesions > 0])}
    assert within >= {Structure.VERTEBRAL_BODY, Structure.THECAL_SAC, Structure.CORD}
    assert diseased.weighting is Weighting.T2


def test_after_contrast_with_fat_suppressed_disease_of_the_sac_is_the_brightest(cache):
    scan = draw_diseased_phantom(3, 3, cache)
    assert scan.weighting is Weighting.T1_FS_GD
    ill = (scan.lesions > 0) & (scan.structures == Structure.THECAL_SAC)
    for healthy in (Structure.THECAL_SAC, Structure.CORD, Structure.VERTEBRAL_BODY):
        there = (scan.structures == healthy) & (scan.lesions == 0)
        assert np.median(scan.image[ill]) > 1.5 * np.median(scan.image[there])


def test_disease_keeps_the_name_of_what_it_is_in(diseased):
    ill = (diseased.lesions > 0) & (diseased.structures == Structure.CORD)
    assert (diseased.allowed[ill] & bit(Channel.CORD)).all()


def test_disease_of_the_cord_is_brighter_than_the_cord_on_t2(diseased):
    cord = diseased.structures == Structure.CORD
    ill = cord & (diseased.lesions > 0)
    assert np.median(diseased.image[ill]) > 1.2 * np.median(diseased.image[cord & ~ill])


def test_a_diseased_phantom_is_kept_and_read_again(diseased, cache):
    (kept,) = cache.glob("diseased_3_0000_*.npz")
    drawn = kept.stat().st_mtime_ns
    again = draw_diseased_phantom(3, 0, cache)
    assert kept.stat().st_mtime_ns == drawn
    for name in ("image", "allowed", "structures", "lesions"):
        assert np.array_equal(getattr(again, name), getattr(diseased, name))


def test_a_phantom_kept_in_another_contrast_is_not_taken_for_this_one(cache, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (4, 40, 40)).astype(np.uint8)
    drawn = []
    monkeypatch.setattr(phantoms, "_draw", lambda *given: drawn.append(given[2]) or (noise,) * 4)
    for weighting in (Weighting.T1, Weighting.T2, Weighting.T1):
        monkeypatch.setattr(phantoms, "_WEIGHTINGS", (weighting,))
        assert draw_phantom_scan(5, 0, cache).weighting is weighting
    assert drawn == [Weighting.T1, Weighting.T2]


def test_a_full_disk_is_told_and_leaves_no_half_of_a_phantom(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (4, 40, 40)).astype(np.uint8)
    monkeypatch.setattr(phantoms, "_draw", lambda *_: (noise, noise.astype(np.uint16), noise, noise))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal of a file that grows too large: writing fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"phantom_3_0000_t1\.npz: cannot be written"):
            draw_phantom_scan(3, 0, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_diseased_phantoms_are_a_source_of_their_own(diseased, cache, tmp_path):
    sources = SourceSettings(diseased_phantoms=1, shares={"diseased_phantom": 1.0})
    pools = read_sources(Recipe(task="lesion", seed=3, steps=1, sources=sources), tmp_path, cache)
    assert {name: len(pool) for name, pool in pools.items() if pool} == {"diseased_phantom": 1}
    assert np.array_equal(pools["diseased_phantom"][0].lesions, diseased.lesions)


def test_the_rim_of_a_structure_may_be_background_and_its_core_may_not():
    structures = np.zeros((2, 9, 9), dtype=np.uint8)
    structures[:, 2:7, 2:7] = Structure.DISC
    allowed = np.where(structures > 0, bit(Channel.DISC), bit(Channel.BACKGROUND)).astype(np.uint16)
    opened = with_open_edges(allowed, structures)
    assert (opened[:, 3:6, 3:6] == bit(Channel.DISC)).all()
    rim = structures > 0
    rim[:, 3:6, 3:6] = False
    assert (opened[rim] == bit(Channel.DISC, Channel.BACKGROUND)).all()
    assert (opened[structures == 0] == bit(Channel.BACKGROUND)).all()


def test_the_border_of_cord_and_sac_stays_closed():
    structures = np.full((1, 6, 6), Structure.THECAL_SAC, dtype=np.uint8)
    structures[:, 2:4] = Structure.CORD
    allowed = np.full(structures.shape, bit(Channel.CORD), dtype=np.uint16)
    assert np.array_equal(with_open_edges(allowed, structures), allowed)
