"""Convolutions done otherwise are the convolutions that they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from spinemets.convolutions import SliceWinograd, UpsampledConvolution, flat_convolution, rounded

LAYOUT = torch.channels_last_3d


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def numbers(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features_of(*shape, seed=3):
    return numbers(*shape, seed=seed).contiguous(memory_format=LAYOUT)


def test_rounded_kernels_keep_their_sums():
    kernels = numbers(8, 6, 3, 3, 3)
    short = rounded(kernels, torch.bfloat16)
    plain = kernels.to(torch.bfloat16)
    assert short.dtype == torch.bfloat16

    def error_of_sums(found):
        return float((found.float() - kernels).flatten(2).sum(2).square().mean().sqrt())

    assert error_of_sums(short) < 0.4 * error_of_sums(plain)
    # No number goes farther than one step beyond its neighbours in bfloat16.
    assert float((short.float() - kernels).abs().max()) < 2**-6 * float(kernels.abs().max())


def test_float32_kernels_are_not_rounded():
    kernels = numbers(2, 3, 3, 3, 3)
    assert torch.equal(rounded(kernels, torch.float32), kernels)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_flat_convolution_is_that_in_three_dimensions(stride):
    features, kernel = features_of(1, 5, 4, 6, 8), numbers(4, 5, 1, 3, 3, seed=4)
    expected = F.conv3d(features, kernel, None, (1, stride, stride), (0, 1, 1))
    found = flat_convolution(features, kernel, stride)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=LAYOUT)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("slices", range(1, 14))
def test_winograd_over_slices_is_the_convolution(slices):
    features, kernel = features_of(1, 5, slices, 6, 7), numbers(4, 5, 3, 3, 3, seed=4)
    expected = F.conv3d(features, kernel, padding=1)
    found = SliceWinograd(kernel, torch.float32)(features)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=LAYOUT)
    assert torch.allclose(found, expected, atol=1e-4)


def test_winograd_over_slices_halves_the_products():
    features, kernel = features_of(1, 32, 12, 8, 8), numbers(32, 32, 3, 3, 3, seed=4)
    with FlopCounterMode(display=False) as plain:
        F.conv3d(features, kernel, padding=1)
    with FlopCounterMode(display=False) as winograd:
        SliceWinograd(kernel, torch.float32)(features)
    # What mixes the slices before and after is a small part.
    assert 0.5 <= winograd.get_total_flops() / plain.get_total_flops() < 0.6


@pytest.mark.parametrize(("slices", "pays"), [(1, False), (2, False), (4, True), (5, False), (15, True)])
def test_winograd_pays_where_groups_of_four_slices_are_full_enough(slices, pays):
    assert SliceWinograd.pays(slices) is pays


def test_winograd_in_bfloat16_errs_a_few_times_as_much_as_the_plain_convolution():
    features, kernel = features_of(1, 64, 12, 10, 10), numbers(48, 64, 3, 3, 3, seed=4)
    exact = F.conv3d(features, kernel, padding=1)
    short = features.to(torch.bfloat16)
    plain = F.conv3d(short, kernel.to(torch.bfloat16), padding=1).float()
    found = SliceWinograd(kernel, torch.bfloat16)(short).float()
    assert float((found - exact).std()) < 6 * float((plain - exact).std()) < 0.05 * float(exact.std())


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 6), (5, 3)])
def test_merged_upsampling_is_upsampling_joining_and_convolving(rows, columns):
    features = features_of(1, 6, 3, rows, columns)
    skip = features_of(1, 4, 3, 2 * rows, 2 * columns, seed=5)
    upsampling, kernel = numbers(6, 3, 1, 2, 2, seed=6), numbers(5, 3 + 4, 3, 3, 3, seed=7)
    upsampled = F.conv_transpose3d(features, upsampling, stride=(1, 2, 2))
    expected = F.conv3d(torch.cat((upsampled, skip), dim=1), kernel, padding=1)
    found = UpsampledConvolution(upsampling, kernel, torch.float32)(features, skip)
    assert torch.allclose(found, expected, atol=1e-4)
