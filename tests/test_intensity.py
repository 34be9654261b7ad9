"""What the networks see does not depend on scanner units, and stands out against normal marrow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spinemets.channels import Channel
from spinemets.intensity import LESION_INPUTS, lesion_input, marrow_score, normalise

SPACING_MM = (4.0, 1.0, 1.0)
SHAPE = (7, 64, 160)
LESION = (slice(2, 5), slice(26, 38), slice(70, 82))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def image():
    values = np.random.default_rng(3).gamma(3.0, 40.0, SHAPE)
    values[:, :, :20] = 0
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture
def marrow():
    """Five bodies of marrow with noise: (image, body probability), (1, 1, slices, rows, columns)."""
    rng = np.random.default_rng(5)
    body = np.zeros(SHAPE, dtype=np.float32)
    for foot in range(5, 155, 32):
        body[1:6, 20:50, foot : foot + 24] = 1
    intensities = np.where(body > 0, 1.0, 0.3) + rng.normal(0, 0.05, SHAPE)
    return torch.from_numpy(intensities.astype(np.float32))[None, None], torch.from_numpy(body)[None, None]


@pytest.mark.parametrize(("gain", "shift"), [(1.0, 0.0), (0.01, 0.0), (37.5, -400.0), (5.0, 1e4)])
def test_normalising_forgets_gain_and_offset(image, gain, shift):
    assert normalise(image * gain + shift) == pytest.approx(normalise(image).numpy(), abs=5e-3)


def test_normalised_tissue_has_zero_mean_and_unit_spread(image):
    values = normalise(image)
    tissue = values[values > values.min() + 0.05 * (values.max() - values.min())]
    assert abs(float(tissue.mean())) < 0.05
    assert float(tissue.std()) == pytest.approx(1.0, abs=0.05)


def test_a_hot_pixel_does_not_move_the_scale(image):
    spoilt = image.clone()
    spoilt[3, 30, 100] = 1e7
    assert normalise(spoilt)[0] == pytest.approx(normalise(image)[0].numpy(), abs=0.02)


def test_a_constant_image_becomes_zeros():
    assert torch.equal(normalise(torch.full((3, 4, 5), 812.0)), torch.zeros(3, 4, 5))


def test_normalising_keeps_the_shape_and_the_image(image):
    before = image.clone()
    assert normalise(image[None, None]).shape == (1, 1, *SHAPE)
    assert torch.equal(image, before)


def test_normal_bodies_score_low(marrow):
    image, body = marrow
    inside = marrow_score(image, body, SPACING_MM)[body > 0]
    assert abs(float(inside.median())) < 0.3
    assert float((inside.abs() > 3).float().mean()) < 0.02


@pytest.mark.parametrize("change", [-0.5, 0.6])
def test_a_lesion_scores_high_while_other_bodies_stay_low(marrow, change):
    image, body = marrow
    image[0, 0][LESION] += change
    score = marrow_score(image, body, SPACING_MM)
    lesion = score[0, 0][LESION]
    assert float((lesion * np.sign(change)).median()) > 5
    others = body.clone()
    others[0, 0, :, :, 60:100] = 0
    assert float(score[others > 0].abs().median()) < 1.5


def test_a_lesion_that_fills_its_vertebra_does_not_become_its_own_reference(marrow):
    image, body = marrow
    vertebra = (slice(None), slice(None), slice(1, 6), slice(20, 50), slice(69, 93))
    assert body[vertebra].all()
    image[vertebra] -= 0.5
    score = marrow_score(image, body, SPACING_MM)
    assert float(score[vertebra].median()) < -6
    others = body.clone()
    others[vertebra] = 0
    assert float(score[others > 0].abs().median()) < 1.5


def test_disease_in_most_of_the_marrow_does_not_become_the_reference(marrow):
    image, body = marrow
    generator = torch.Generator().manual_seed(4)
    # Patchy disease of many signals, all darker, in six voxels of ten; what is healthy is alike.
    ill = torch.rand(image.shape, generator=generator) < 0.6
    image = torch.where(ill, image - 0.3 - 0.7 * torch.rand(image.shape, generator=generator), image)
    score = marrow_score(image, body, SPACING_MM)
    assert float(score[(body > 0) & ~ill].abs().median()) < 1.5
    assert float(score[(body > 0) & ill].median()) < -4


def test_coil_fall_off_cancels(marrow):
    image, body = marrow
    rows = torch.linspace(1.6, 0.6, SHAPE[1])[None, None, None, :, None]
    columns = torch.linspace(0.8, 1.25, SHAPE[2])
    flat, tilted = (
        marrow_score(image * gain, body, SPACING_MM)[body > 0] for gain in (torch.ones(1), rows * columns)
    )
    raw = (image * rows * columns)[body > 0]
    # Without the smooth reference the fall-off alone is many standard deviations of the marrow.
    assert float((raw.quantile(0.95) - raw.quantile(0.05)) / 0.05) > 10
    assert float(tilted.abs().quantile(0.9)) < float(flat.abs().quantile(0.9)) + 1.0


def test_scores_are_clipped(marrow):
    image, body = marrow
    image[0, 0][LESION] = 1e4
    assert float(marrow_score(image, body, SPACING_MM).abs().max()) == 8


def test_a_scan_without_bodies_scores_zero(marrow):
    image, body = marrow
    assert not marrow_score(image, torch.zeros_like(body), SPACING_MM).any()


def test_marrow_of_no_spread_scores_finite():
    body = torch.ones(1, 1, 3, 16, 16)
    assert torch.isfinite(marrow_score(torch.full_like(body, 0.4), body, SPACING_MM)).all()


@pytest.mark.parametrize("bone", [Channel.POSTERIOR_ELEMENTS, Channel.SACRUM])
def test_arches_and_sacrum_are_compared_with_themselves_too(marrow, bone):
    image, other = marrow
    bodies = torch.zeros_like(other)
    bodies[..., : SHAPE[2] // 2] = other[..., : SHAPE[2] // 2]
    arches = other - bodies
    # Brighter than bodies all over by more than disease makes it darker in one place.
    image = image + 1.0 * arches
    spot = torch.zeros_like(other)
    spot[0, 0][LESION] = 1
    spot *= arches
    image = image - 0.5 * spot
    anatomy = torch.zeros(1, len(Channel), *SHAPE)
    anatomy[:, Channel.LUMBAR_BODY], anatomy[:, bone] = bodies[:, 0], arches[:, 0]
    planes = dict(zip(LESION_INPUTS, lesion_input(image, anatomy, SPACING_MM)[0], strict=True))
    own, ill = planes["own marrow score"], spot[0, 0] > 0
    assert float(planes["marrow score"][ill].median()) > 1
    assert float(own[ill].median()) < -1
    assert abs(float(own[(arches[0, 0] > 0) & ~ill].median())) < 0.2
    assert not own[arches[0, 0] == 0].any()


def test_the_lesion_input_is_in_the_order_of_its_names(marrow):
    image, body = marrow
    anatomy = torch.zeros(1, len(Channel), *SHAPE)
    bodies = (Channel.C2, Channel.CERVICAL_BODY, Channel.THORACIC_BODY, Channel.LUMBAR_BODY)
    anatomy[:, bodies[2]] = 0.6 * body[:, 0]
    anatomy[:, bodies[3]] = 0.4 * body[:, 0]
    named = {"posterior": Channel.POSTERIOR_ELEMENTS, "disc": Channel.DISC, "sac": Channel.THECAL_SAC,
             "cord": Channel.CORD, "sacrum": Channel.SACRUM}  # fmt: skip
    for number, channel in enumerate(named.values(), start=1):
        anatomy[:, channel, 0, 0, number] = 0.1 * number
    stacked = lesion_input(image, anatomy, SPACING_MM)
    assert stacked.shape == (1, len(LESION_INPUTS), *SHAPE)
    planes = dict(zip(LESION_INPUTS, stacked[0], strict=True))
    assert torch.equal(planes["intensity"], image[0, 0])
    assert planes["body"] == pytest.approx(body[0, 0].numpy())
    assert planes["marrow score"] == pytest.approx(marrow_score(image, body, SPACING_MM)[0, 0].numpy() / 4)
    for name, channel in named.items():
        assert torch.equal(planes[name], anatomy[0, channel])
