"""The fast execution computes what ``SpineUNet`` computes, in one piece or in parts, without MONAI."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from spinemets.execution import FusedNetwork, NetworkWeights, parameter_shapes, peak_bytes
from spinemets.network import NetworkDefinition, build_network

CPU = torch.device("cpu")
NOWHERE = torch.device("meta")  # computes nothing, and what it would is the execution without replacements
DEFINITIONS = [
    NetworkDefinition(image_channels=1, conditions=4, outputs=10, filters=(6, 8, 12, 16)),
    NetworkDefinition(image_channels=8, conditions=4, outputs=1, filters=(4, 6, 8)),
    NetworkDefinition(image_channels=2, conditions=0, outputs=3, filters=(5, 7, 9)),
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def trained(definition):
    """A network whose gains and shifts are not those of a fresh one."""
    torch.manual_seed(4)
    network = build_network(definition).eval()
    for name, parameter in network.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data.uniform_(-0.5, 1.5)
    return network


def image_for(definition, shape=(3, 48, 64)):
    random = torch.Generator().manual_seed(8)
    image = torch.randn(1, definition.image_channels, *shape, generator=random)
    return image, torch.rand(1, definition.conditions, generator=random)


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_execution_computes_what_the_trained_network_does(definition, slices):
    network, (image, condition) = trained(definition), image_for(definition, (slices, 48, 64))
    with torch.inference_mode():
        expected = network(image, condition)
        found = FusedNetwork(network, CPU, torch.float32).run(image, condition)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.std()))


@pytest.mark.parametrize("part_bytes", [1, 20_000, 300_000])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_parts_give_the_result_of_one_piece(definition, part_bytes):
    """Rounding aside: the normalisation sees the whole volume, and every part its neighbours."""
    fused, (image, condition) = FusedNetwork(trained(definition), CPU, torch.float32), image_for(definition)
    with torch.inference_mode():
        whole, parts = fused.run(image, condition), fused.run(image, condition, part_bytes)
    assert torch.allclose(parts, whole, atol=1e-4 * float(whole.std()))


def test_a_part_large_enough_for_everything_is_the_only_one(monkeypatch):
    definition = DEFINITIONS[0]
    fused, (image, condition) = FusedNetwork(trained(definition), CPU, torch.float32), image_for(definition)
    calls = []
    original = torch.nn.functional.conv3d
    monkeypatch.setattr(torch.nn.functional, "conv3d", lambda *a: (calls.append(1), original(*a))[1])
    with torch.inference_mode():
        fused.run(image, condition, 2**30)
    assert len(calls) == 2 * (4 + 3)  # two in each block of four levels down and three up


def test_bfloat16_agrees_with_float32_as_well_as_autocast_does():
    definition = DEFINITIONS[0]
    network, (image, condition) = trained(definition), image_for(definition)
    with torch.inference_mode():
        exact = network(image, condition)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = network(image, condition).float()
        found = FusedNetwork(network, CPU, torch.bfloat16).run(image, condition)
    assert found.dtype == torch.float32
    assert float((found - exact).std()) < 1.2 * float((autocast - exact).std()) < 0.05 * float(exact.std())


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_parameters_are_those_of_the_trained_network(definition):
    expected = {name: tuple(p.shape) for name, p in build_network(definition).named_parameters()}
    assert parameter_shapes(definition) == expected


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("conditions", [0, 1, 3])
def test_any_number_of_conditions_will_do(conditions, precision):
    definition = NetworkDefinition(1, conditions, 3, (5, 7, 9))
    network, (image, condition) = trained(definition), image_for(definition)
    with torch.inference_mode():
        exact = network(image, condition)
        found = FusedNetwork(network, CPU, precision).run(image, condition)
    assert float((found - exact).std()) < 0.05 * float(exact.std())


@pytest.mark.parametrize(("channels", "seen"), [(1, True), (8, False)])
def test_the_network_of_a_single_image_sees_what_rounding_takes_from_it(channels, seen):
    definition = NetworkDefinition(channels, 4, 3, (5, 7, 9))
    fused, (image, condition) = (
        FusedNetwork(trained(definition), CPU, torch.bfloat16),
        image_for(definition),
    )
    with torch.inference_mode():
        found = fused.run(image, condition)
        without = fused.run(image.to(torch.bfloat16).float(), condition)
    assert torch.equal(found, without) is not seen


def test_a_volume_of_one_pixel_per_channel_at_the_bottom_is_no_error():
    definition = DEFINITIONS[1]
    image, condition = image_for(definition, (1, 8, 8))
    logits = FusedNetwork(trained(definition), CPU, torch.float32).run(image, condition)
    assert bool(torch.isfinite(logits).all())


def operations(slices, device):
    definition = DEFINITIONS[0]
    fused = FusedNetwork(trained(definition), device, torch.float32)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        fused.run(*image_for(definition, (slices, 64, 96)))
    return counter.get_total_flops()


def test_operations_grow_with_the_voxels_and_no_faster():
    assert operations(20, NOWHERE) == 10 * operations(2, NOWHERE)
    assert operations(20, CPU) <= 10 * operations(2, CPU)


def test_the_execution_does_no_more_operations_than_the_trained_network():
    definition = DEFINITIONS[0]
    network = trained(definition)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*image_for(definition, (2, 64, 96)))
    assert operations(2, CPU) < operations(2, NOWHERE) == counter.get_total_flops()


def layers_run(monkeypatch, run):
    """How often each kind of convolution is called."""
    calls = Counter()
    for name in ("conv2d", "conv3d", "conv_transpose3d"):
        original = getattr(torch.nn.functional, name)

        def counted(*arguments, name=name, original=original, **options):
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(torch.nn.functional, name, counted)
    with torch.inference_mode():
        run()
    monkeypatch.undo()
    return calls


@pytest.mark.parametrize("rows", [16, 48])
def test_each_layer_is_computed_once_whatever_the_size_of_the_volume(monkeypatch, rows):
    definition = NetworkDefinition(1, 4, 3, (4, 6, 8))
    fused = FusedNetwork(trained(definition), NOWHERE, torch.float32)
    calls = layers_run(monkeypatch, partial(fused.run, *image_for(definition, (7, rows, 2 * rows))))
    assert calls == {"conv3d": 2 * (3 + 2), "conv_transpose3d": 2}


@pytest.mark.parametrize("rows", [16, 48])
@pytest.mark.parametrize(("precision", "flat"), [(torch.bfloat16, 0), (torch.float32, 2)])
def test_a_processor_joins_nothing_and_takes_four_coarse_slices_at_once(monkeypatch, precision, flat, rows):
    definition = NetworkDefinition(1, 4, 3, (4, 6, 8))
    fused = FusedNetwork(trained(definition), CPU, precision)
    few = layers_run(monkeypatch, partial(fused.run, *image_for(definition, (2, rows, 2 * rows))))
    many = layers_run(monkeypatch, partial(fused.run, *image_for(definition, (8, rows, 2 * rows))))
    # On the way up, the coarse and the skipped half of each block's first layer.
    assert few == Counter(conv3d=2 * 3 - flat + 3 * 2, conv2d=flat)
    # The second layer at the bottom is six products of slices.
    assert many == Counter(conv3d=2 * 3 - flat - 1 + 3 * 2, conv2d=flat + 6)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_a_processor_does_fewer_operations(precision):
    definition = NetworkDefinition(1, 4, 3, (24, 48, 96, 128))

    def operations_on(device):
        fused = FusedNetwork(trained(definition), device, precision)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            fused.run(*image_for(definition, (12, 32, 32)))
        return counter.get_total_flops()

    assert operations_on(CPU) < 0.9 * operations_on(NOWHERE)


class Casts(TorchDispatchMode):
    """Counts the tensors that are moved or change their numbers' type, by shape."""

    def __init__(self):
        super().__init__()
        self.shapes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        copies = (torch.ops.aten.to, torch.ops.aten._to_copy)
        if func.overloadpacket in copies and result.data_ptr() != args[0].data_ptr():
            self.shapes[tuple(args[0].shape)] += 1
        return result


def test_nothing_of_the_whole_volume_is_cast_but_image_and_last_features_slice_by_slice():
    definition = NetworkDefinition(8, 4, 3, (4, 6, 8))
    fused = FusedNetwork(trained(definition), CPU, torch.bfloat16)
    with torch.inference_mode(), Casts() as casts:
        fused.run(*image_for(definition, (5, 16, 24)))
    assert casts.shapes == {(4,): 1, (8, 16, 24): 5, (1, 4, 8, 12): 5}


def test_the_memory_of_one_pass_is_linear_in_the_voxels_and_falls_with_the_precision():
    released = NetworkDefinition(1, 4, 10, (24, 48, 96, 128, 160))
    assert peak_bytes(released, 2_000_000, 4) == pytest.approx(2 * peak_bytes(released, 1_000_000, 4), abs=4)
    whole_spine = 20 * 720 * 320
    assert peak_bytes(released, whole_spine, 2) <= peak_bytes(released, whole_spine, 4) < 2.5e9
    lesion = NetworkDefinition(8, 4, 1, (24, 48, 80, 112))
    assert peak_bytes(lesion, whole_spine, 2) < peak_bytes(lesion, whole_spine, 4)


def test_a_run_imports_neither_monai_nor_pytorch_s_compiler():
    code = (
        "import sys, torch, spinemets.segmentation, spinemets.execution as e, spinemets.inference as i;"
        "from spinemets.network import NetworkDefinition as D;"
        "d = D(1, 4, 3, (4, 6, 8));"
        "w = e.NetworkWeights(d, {k: torch.zeros(s) for k, s in e.parameter_shapes(d).items()});"
        "engine = i.Engine(w, torch.device('cpu'), torch.float32);"
        "engine.run(torch.zeros(1, 1, 2, 8, 8), torch.zeros(1, 4), engine.new_report());"
        "print([m for m in ('monai', 'torch._dynamo', 'torch._inductor') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_the_weights_are_a_copy():
    definition = DEFINITIONS[2]
    network, (image, condition) = trained(definition), image_for(definition)
    fused = FusedNetwork(NetworkWeights(definition, dict(network.named_parameters())), CPU, torch.float32)
    with torch.inference_mode():
        before = fused.run(image, condition)
    for parameter in network.parameters():
        parameter.data.zero_()
    with torch.inference_mode():
        assert torch.equal(fused.run(image, condition), before)


@pytest.fixture(scope="module")
def imported():
    modules = "spinemets.cli, spinemets.batch, spinemets.detection, spinemets.segmentation"
    code = f"import sys, {modules}; print(*sys.modules)"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()


@pytest.mark.parametrize("package", ["scipy.stats", "monai", "matplotlib", "pandas", "highdicom"])
def test_what_a_detection_imports_leaves_out_what_is_slow_and_not_needed(package, imported):
    assert package not in imported
