"""Sample i is sample i, and what it shows fits what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from spinemets.channels import Channel, condition_vector
from spinemets.errors import ConfigError
from spinemets.training import samples
from spinemets.training.data import SampleStream, read_sources, read_validation
from spinemets.training.recipe import Recipe
from spinemets.training.samples import SampleOptions, draw_sample
from spinemets.training.scans import ANY, bit
from spinemets.volume import Weighting

SHAPE = (4, 64, 80)


@pytest.fixture(scope="module")
def scan(tiny):
    return tiny.spider()


@pytest.fixture(scope="module")
def recipe():
    return Recipe.model_validate(
        {
            "task": "anatomy", "seed": 3, "steps": 8, "patch": SHAPE,
            "sources": {
                "spider": "spider", "spider_subjects": ["tiny"], "spider_validation": ["tiny"],
                "sct": "sct", "sct_subjects": ["tiny"], "shares": {"spider": 0.5, "sct": 0.5},
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def pools(recipe, tiny, tmp_path_factory):
    return read_sources(recipe, tiny.folder, tmp_path_factory.mktemp("cache"))


def draw(scan, seed, **options):
    return draw_sample(scan, SampleOptions(shape=SHAPE, **options), np.random.default_rng(seed))


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_sample_has_the_shapes_and_types_it_claims(scan):
    sample = draw(scan, 1)
    assert (sample.image.shape, sample.image.dtype) == ((1, *SHAPE), torch.float32)
    assert (sample.allowed.shape, sample.allowed.dtype) == (SHAPE, torch.int16)
    assert (sample.lesion.shape, sample.lesion.dtype) == (SHAPE, torch.uint8)
    assert sample.condition.shape == (4,)
    assert torch.isfinite(sample.image).all()
    assert sample.spacing_mm[1:] == (1.0, 1.0)
    assert 2.6 <= sample.spacing_mm[0] <= 5.0


def test_the_seed_decides_a_sample(scan):
    first, second, other = (draw(scan, seed) for seed in (5, 5, 6))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.allowed, second.allowed)
    assert torch.equal(first.lesion, second.lesion)
    assert not torch.equal(first.image, other.image)


def test_a_sample_leaves_its_scan_alone(scan, tiny):
    for seed in range(4):
        draw(scan, seed, lesion_chance=1.0, mimic_chance=1.0, real_contrast_chance=0.0)
    fresh = tiny.spider()
    assert np.array_equal(scan.image, fresh.image)
    assert np.array_equal(scan.allowed, fresh.allowed)
    assert np.array_equal(scan.structures, fresh.structures)


def test_every_voxel_may_be_something(scan):
    for seed in range(6):
        allowed = draw(scan, seed).allowed
        assert int(allowed.min()) > 0
        assert int(allowed.max()) <= ANY


def test_without_lesions_and_with_them(scan):
    assert not any((draw(scan, seed, lesion_chance=0.0).lesion == 1).any() for seed in range(6))
    ill = [bool((draw(scan, seed, lesion_chance=1.0).lesion == 1).any()) for seed in range(10)]
    assert sum(ill) >= 6


def test_a_lesion_s_bone_is_still_bone(scan):
    bones = bit(Channel.LUMBAR_BODY, Channel.THORACIC_BODY, Channel.POSTERIOR_ELEMENTS, Channel.SACRUM)
    canal = bit(Channel.THECAL_SAC, Channel.CORD, Channel.BACKGROUND)
    shares = []
    for seed in range(8):
        sample = draw(scan, seed, lesion_chance=1.0)
        inside = sample.allowed[(sample.lesion == 1) & (sample.allowed != ANY)].int()
        if len(inside):
            assert ((inside & (bones | canal)) > 0).all()
            shares.append(float(((inside & bones) > 0).float().mean()))
    assert max(shares) > 0.9


def test_what_lies_outside_the_scan_is_unknown_and_empty(scan):
    """A patch wider than the scan's 28 mm."""
    sample = draw(scan, 2, slice_spacing_mm=(12.0, 13.0))
    assert sample.spacing_mm[0] > 12
    outside = sample.lesion == 255
    assert outside.any()
    assert (sample.allowed[outside] == ANY).all()
    assert not sample.image[0][outside].any()
    assert not outside.all()


def test_the_network_is_told_the_weighting_of_what_it_sees_or_nothing(scan):
    told = draw(scan, 3, real_contrast_chance=1.0, known_weighting_chance=1.0).condition
    assert told.tolist() == condition_vector(Weighting.T2).tolist()
    assert not draw(scan, 3, known_weighting_chance=0.0).condition.any()
    seen = {tuple(draw(scan, s, real_contrast_chance=0.0, known_weighting_chance=1.0).condition.tolist())
            for s in range(16)}  # fmt: skip
    assert tuple(condition_vector(Weighting.T1).tolist()) in seen
    assert tuple(condition_vector(Weighting.T2_FS).tolist()) in seen


def test_a_stream_that_starts_later_gives_the_same_samples(pools, recipe):
    whole, rest = SampleStream(pools, recipe, 0, 16), SampleStream(pools, recipe, 10, 16)
    assert (len(whole), len(rest)) == (16, 6)
    for index in (0, 3, 5):
        assert equal(whole[10 + index], rest[index])
    assert not equal(whole[10], whole[11])


def test_samples_come_from_every_source_that_has_a_share(pools, recipe):
    stream = SampleStream(pools, recipe, 0, 12)
    from_sct = [bool((stream[i][2] == (ANY & ~bit(Channel.CORD))).any()) for i in range(12)]
    assert 0 < sum(from_sct) < 12


def test_sources_are_read_as_the_recipe_says(pools, recipe, tiny):
    assert {name: len(scans) for name, scans in pools.items()} == {"spider": 1, "sct": 1, "phantom": 0}
    assert [scan.subject for scan in read_validation(recipe, tiny.folder)] == ["spider/tiny"]


def test_shares_of_absent_sources_only_are_refused(pools, recipe):
    sources = recipe.sources.model_copy(update={"shares": {"phantom": 1.0}})
    with pytest.raises(ConfigError, match="shares"):
        SampleStream(pools, recipe.model_copy(update={"sources": sources}), 0, 4)


def with_lesions(scan):
    """The scan with two lesions of its own, the second one unknown."""
    lesions = np.zeros(scan.image.shape, np.uint8)
    lesions[:, 55:75, 50:200] = 1
    lesions[:, 30:45, 50:200] = 255
    return dataclasses.replace(scan, lesions=lesions)


def test_a_scan_s_own_lesions_become_the_truth_and_its_contrast_stays(tiny):
    options = SampleOptions((4, 64, 64), lesion_chance=0.0, mimic_chance=0.0, known_weighting_chance=1.0)
    scan = with_lesions(tiny.spider())
    drawn = [draw_sample(scan, options, np.random.default_rng(seed)) for seed in range(6)]
    assert {int(v) for sample in drawn for v in sample.lesion.unique()} == {0, 1, 255}
    assert {tuple(sample.condition.tolist()) for sample in drawn} == {(0.0, 1.0, 0.0, 0.0)}
    healthy = draw_sample(tiny.spider(), options, np.random.default_rng(1))
    assert set(healthy.lesion.unique().tolist()) <= {0, 255}


def test_implanted_lesions_are_numbered_above_the_scan_s_own(tiny):
    options = SampleOptions(shape=(4, 64, 64), lesion_chance=1.0, mimic_chance=0.0)
    scan = with_lesions(tiny.spider())
    numbers = {
        int(v)
        for seed in range(8)
        for v in draw_sample(scan, options, np.random.default_rng(seed)).lesion.unique()
    }
    assert {1, 2} <= numbers


def test_benign_changes_leave_a_scan_s_own_lesions_alone(tiny, monkeypatch):
    monkeypatch.setattr(samples, "add_mimics", lambda image, *_: image + 100)
    monkeypatch.setattr(samples, "_acquire", lambda image, *_: image)
    monkeypatch.setattr(samples, "normalise", lambda image: image)
    options = SampleOptions((4, 64, 64), lesion_chance=0.0, collapse_chance=0.0, real_contrast_chance=1.0)
    scan = with_lesions(tiny.spider())
    for seed in range(4):
        plain, changed = (
            draw_sample(scan, dataclasses.replace(options, mimic_chance=chance), np.random.default_rng(seed))
            for chance in (0.0, 1.0)
        )
        own = changed.lesion == 1
        if own.any():
            change = (changed.image - plain.image)[0]
            assert change[own].abs().max() < 1e-3
            assert change[changed.lesion == 0].median() > 50


def test_a_scan_that_shows_lesions_alone_is_given_no_others(tiny):
    scan = with_lesions(tiny.spider())
    own = (scan.lesions > 0) & (scan.lesions < 255)
    alone = dataclasses.replace(scan, structures=np.where(own, scan.structures, 0).astype(np.uint8))
    options = SampleOptions(shape=(4, 64, 64), lesion_chance=1.0, mimic_chance=1.0, collapse_chance=0.0)
    for seed in range(4):
        drawn = draw_sample(alone, options, np.random.default_rng(seed))
        assert set(drawn.lesion.unique().tolist()) <= {0, 1, 255}
