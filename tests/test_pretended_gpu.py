"""The networks' stage on a GPU: nothing is mixed up with main memory, and little crosses the bus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phantoms import draw_phantom
from pretended_gpu import GPU, Traffic, pretended_gpu
from spinemets.bundles import load_bundle
from spinemets.config import SegmentationConfig
from spinemets.errors import ModelNotFoundError
from spinemets.execution import FusedNetwork
from spinemets.segmentation import load_segmenter, read_networks
from spinemets.volume import Series, Study, Volume, Weighting

GREY = np.array([150, 400, 350, 250, 800, 300, 400], dtype=np.float32)
"""Of each ``Structure``, as a T2 shows it."""
WEIGHTINGS = (Weighting.T2, Weighting.T1, Weighting.T2_FS)


@pytest.fixture(scope="module")
def bundle():
    torch.set_num_threads(1)
    try:
        return load_bundle()
    except ModelNotFoundError as error:
        pytest.skip(f"no default model: {error}")


def study(weightings=WEIGHTINGS, slice_mm=4.0):
    spine = draw_phantom(highest="L2", lowest="L4", spacing_mm=(slice_mm, 1.0, 1.0)).segmentation
    noise = np.random.default_rng(3)
    volumes = tuple(
        Volume(
            GREY[spine.anatomy] + noise.normal(0, 15, spine.anatomy.shape).astype(np.float32),
            spine.grid,
            Series("study", str(number), weighting=weighting, frame_of_reference_uid="frame"),
        )
        for number, weighting in enumerate(weightings)
    )
    return Study("study", volumes)


def segmenter(bundle, device, precision="float32"):
    return load_segmenter(bundle, SegmentationConfig(device=device, precision=precision))


def on_gpu(monkeypatch, bundle, studies, free_bytes=2**40):
    """Every study's segmentation, and what went over the bus for it."""
    found = []
    with pretended_gpu(monkeypatch, free_bytes) as traffic:
        networks = segmenter(bundle, "cuda")
        for one in studies:
            traffic.to_device.clear(), traffic.to_host.clear()
            traffic.waits = 0
            found.append((networks.segment(one), sum(traffic.to_device), sum(traffic.to_host), traffic.waits))
    return found


def assert_same(one, other):
    assert one.anatomy.any()
    assert (one.anatomy == other.anatomy).mean() > 0.9999
    np.testing.assert_allclose(one.lesion_probability, other.lesion_probability, atol=2e-3)


def test_the_result_is_the_processors(monkeypatch, bundle):
    shown = study()
    [(found, *_)] = on_gpu(monkeypatch, bundle, [shown])
    assert (found.execution.device, found.execution.strategy) == ("cuda", "whole volume")
    assert_same(found, segmenter(bundle, "cpu").segment(shown))


def test_without_room_for_the_volume_its_parts_give_the_same(monkeypatch, bundle):
    shown = study([Weighting.T2])
    [(found, *_)] = on_gpu(monkeypatch, bundle, [shown], free_bytes=2**10)
    assert found.execution.strategy == "parts"
    assert_same(found, segmenter(bundle, "cpu").segment(shown))


def test_images_go_to_the_gpu_once_and_only_maps_come_back(monkeypatch, bundle):
    shown = study()
    voxels = shown.volumes[0].intensities.size
    [(_, to_gpu, to_host, _)] = on_gpu(monkeypatch, bundle, [shown])
    images = sum(volume.intensities.nbytes for volume in shown.volumes)
    assert images <= to_gpu < 1.2 * images
    # Ten channels of anatomy and the lesion's as float32 would be 44 bytes a voxel.
    assert to_host < 20 * voxels


def test_how_often_python_waits_does_not_depend_on_the_slices(monkeypatch, bundle):
    few, many = (study([Weighting.T2], slice_mm) for slice_mm in (6.0, 3.0))
    assert len(many.volumes[0].intensities) > 1.8 * len(few.volumes[0].intensities)
    waits = [waits for *_, waits in on_gpu(monkeypatch, bundle, [few, many])]
    assert waits[0] == waits[1] < 15


@pytest.mark.parametrize("part", [0, 1], ids=["anatomy", "lesion"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_run_can_be_recorded_for_it_waits_for_nothing_and_copies_nothing(
    monkeypatch, bundle, part, precision
):
    weights = read_networks(bundle)[part]
    with pretended_gpu(monkeypatch) as traffic, torch.inference_mode():
        network = FusedNetwork(weights, GPU, precision)
        image = torch.zeros((1, weights.definition.image_channels, 2, 32, 32), device=GPU)
        condition = torch.zeros((1, weights.definition.conditions), device=GPU)
        traffic.to_device.clear()
        assert network.run(image, condition).device == GPU
    assert traffic == Traffic()


def test_what_is_pretended_refuses_what_a_gpu_refuses(monkeypatch):
    with pretended_gpu(monkeypatch) as traffic:
        there = torch.arange(6.0).view(2, 3).to("cuda")
        assert there.device == GPU
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(2, 3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert int(there.max()) == 5
        assert torch.equal((there * torch.tensor(2.0)).cpu(), 2 * torch.arange(6.0).view(2, 3))
    assert (traffic.to_device, traffic.to_host, traffic.waits) == ([24], [24], 1)
