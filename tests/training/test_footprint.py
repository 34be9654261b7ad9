"""The measured footprint is what a pass takes, at other sizes too, and again on another day."""

from __future__ import annotations

import sys

import pytest
import torch

from spinemets.network import NetworkDefinition
from spinemets.training import footprint
from spinemets.training.footprint import measure_footprints, peak_growth_bytes

# Fewer filters would meet the unfolding of small volumes that ``footprint._SIZES`` tells of.
DEFINITIONS = {
    "anatomy": NetworkDefinition(image_channels=1, conditions=4, outputs=10, filters=(12, 12, 12)),
    "lesion": NetworkDefinition(image_channels=8, conditions=4, outputs=1, filters=(12, 12, 12)),
}
PRECISIONS = ("float32", "bfloat16") if torch.cpu._is_avx512_bf16_supported() else ("float32",)
OTHER_SIZE = (15, 256, 288)
CASES = [(name, precision) for name in DEFINITIONS for precision in PRECISIONS]

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux and the GNU C library")


@pytest.fixture(scope="module")
def growth():
    """Growth in one process, case by case: at the sizes measured at, then twice at another one."""
    sizes = [*footprint._SIZES, OTHER_SIZE, OTHER_SIZE]
    found = peak_growth_bytes([(DEFINITIONS[name], p) for name, p in CASES], sizes)
    return dict(zip(CASES, found, strict=True))


@pytest.fixture(scope="module")
def measured(growth):
    """The footprints that follow from the growth at the sizes measured at."""

    def asked_for(networks, sizes):
        assert [*networks] == [(DEFINITIONS[name], precision) for name, precision in CASES]
        assert sizes == footprint._SIZES
        return [growth[case][: len(sizes)] for case in CASES]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footprint, "peak_growth_bytes", asked_for)
        return measure_footprints(DEFINITIONS)


@pytest.fixture(scope="module")
def peaks(growth):
    """Growth over two passes at a size that the footprint was not measured at."""
    return {case: found[len(footprint._SIZES) :] for case, found in growth.items()}


@on_linux
@pytest.mark.parametrize("case", CASES)
def test_the_footprint_foretells_the_peak_at_another_size(case, measured, peaks):
    name, precision = case
    voxels = OTHER_SIZE[0] * OTHER_SIZE[1] * OTHER_SIZE[2]
    assert peaks[case][0] / 1.3 < measured[name][precision] * voxels < 1.3 * peaks[case][0]


@on_linux
@pytest.mark.parametrize("case", CASES)
def test_a_peak_measured_again_is_the_same(case, peaks):
    first, second = peaks[case]
    assert second == pytest.approx(first, rel=0.04)


@on_linux
@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_footprint_holds_at_least_the_image_and_the_outputs(name, measured):
    definition = DEFINITIONS[name]
    assert set(measured[name]) == set(PRECISIONS)
    assert min(measured[name].values()) > 4 * (definition.image_channels + definition.outputs)


def test_where_memory_cannot_be_measured_there_is_no_footprint(monkeypatch):
    monkeypatch.setattr(footprint, "hold_no_freed_memory", lambda: False)
    assert footprint._measured(((DEFINITIONS["lesion"], "float32"),), (OTHER_SIZE,)) is None
    monkeypatch.setattr(footprint, "peak_growth_bytes", lambda *_: None)
    assert measure_footprints(DEFINITIONS) == {}


def test_a_constant_part_makes_the_footprint_no_smaller(monkeypatch):
    """Nor does a large volume that takes less for each voxel than a small one."""
    definition = DEFINITIONS["lesion"]
    small, large = (footprint._voxels(definition, size) for size in footprint._SIZES)
    monkeypatch.setattr(
        footprint, "peak_growth_bytes", lambda networks, _: [[90 * small, 50 * large]] * len(networks)
    )
    assert set(measure_footprints({"lesion": definition})["lesion"].values()) == {50.0}
    constant = 10_000_000
    monkeypatch.setattr(
        footprint,
        "peak_growth_bytes",
        lambda networks, _: [[50 * small - constant, 50 * large - constant]] * len(networks),
    )
    assert set(measure_footprints({"lesion": definition})["lesion"].values()) == {50.0}
