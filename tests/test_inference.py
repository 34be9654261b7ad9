"""The engine finds its device, and out of memory it goes on in tiles, then on the CPU, and says so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from spinemets import inference
from spinemets.errors import DeviceUnavailableError, OutOfMemoryError
from spinemets.inference import Engine, choose_device, choose_precision
from spinemets.network import NetworkDefinition, SpineUNet

SMALL = NetworkDefinition(image_channels=1, conditions=4, outputs=3, filters=(4, 6, 8))
CPU = torch.device("cpu")
T2 = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
ALLOCATOR_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"


class LittleMemory(SpineUNet):
    """A network that runs out of memory above so many voxels on each type of device."""

    def __init__(self, room: dict[str, int], error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__(SMALL)
        self.room, self.error = room, error
        self.place = "cpu"
        self.moves: list[str] = []

    def to(self, device):
        self.place = torch.device(device).type
        self.moves.append(self.place)
        return self

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        if image[0, 0].numel() > self.room[self.place]:
            raise self.error(ALLOCATOR_MESSAGE)
        return super().forward(image, condition)


class StaysPut(Tensor):
    """A tensor that pretends to move, for a machine that has one device only."""

    def to(self, *args, **kwargs):
        return self if args and isinstance(args[0], torch.device) else super().to(*args, **kwargs)

    def cpu(self):
        return self.as_subclass(Tensor)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return SpineUNet(SMALL)


def noise(*shape):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(8))


def cuda_machine(monkeypatch, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)


@pytest.mark.parametrize(("name", "devices"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 2)])
def test_an_absent_gpu_is_refused_with_the_number_there_is(monkeypatch, name, devices):
    cuda_machine(monkeypatch, devices)
    with pytest.raises(DeviceUnavailableError, match=f"{name}: this machine has {devices} CUDA"):
        choose_device(name)


def test_a_gpu_that_is_there_is_taken(monkeypatch):
    cuda_machine(monkeypatch, 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("auto") == torch.device("cuda")


def test_apple_s_device_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceUnavailableError, match="device mps"):
        choose_device("mps")


def test_auto_falls_back_to_apple_s_device_and_then_to_the_cpu(monkeypatch):
    cuda_machine(monkeypatch, 0)
    for available, device in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda a=available: a)
        assert choose_device("auto").type == device


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta"])
def test_what_is_no_device_of_ours_is_refused(name):
    with pytest.raises(DeviceUnavailableError, match="use auto"):
        choose_device(name)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_precision_is_taken_at_its_word(name):
    assert choose_precision(name, CPU) == getattr(torch, name)


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_cpu_computes_in_bfloat16_only_where_it_has_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert choose_precision("auto", CPU) is expected


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_an_old_gpu_computes_in_float16(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert choose_precision("auto", torch.device("cuda")) is expected


@pytest.mark.parametrize("shape", [(3, 16, 24), (5, 17, 23), (1, 9, 30)])
def test_padding_is_removed(network, shape):
    engine = Engine(network, CPU, torch.float32)
    image = noise(*shape)
    rows, columns = (-n % SMALL.in_plane_multiple for n in shape[1:])
    padded = torch.nn.functional.pad(image, (0, columns, 0, rows))
    logits = engine.run(image, T2, engine.new_report())
    assert logits.shape == (1, 3, *shape)
    with torch.inference_mode():
        assert torch.equal(logits, network(padded, T2)[..., : shape[1], : shape[2]])


def test_one_pass_is_said_in_the_report(network):
    engine = Engine(network, CPU, torch.bfloat16)
    report = engine.new_report()
    engine.run(noise(2, 16, 16), T2, report)
    assert (report.device, report.precision, report.strategy) == ("cpu", "bfloat16", "whole volume")
    assert report.cautions == []


def without_normalisation(network):
    """The same network with nothing that depends on a tile's statistics."""
    bare = copy.deepcopy(network)
    for module in list(bare.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.InstanceNorm3d):
                setattr(module, name, torch.nn.Identity())
    return bare


def whole_and_tiled(network, image, monkeypatch):
    engine = Engine(network, CPU, torch.float32)
    whole = engine.run(image, T2, engine.new_report())
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 0.0)
    report = engine.new_report()
    tiled = engine.run(image, T2, report)
    assert report.strategy == "tiles"
    inner = (..., slice(8, -8), slice(8, -8))
    return whole[inner], tiled[inner]


def test_tiles_agree_with_the_whole_volume(network, monkeypatch):
    """Where they do not, a tile's border is within the network's reach; tile centres agree exactly."""
    whole, tiled = whole_and_tiled(without_normalisation(network), noise(6, 128, 128), monkeypatch)
    assert float((tiled - whole).abs().mean() / whole.std()) < 0.12
    assert float((tiled.argmax(1) == whole.argmax(1)).float().mean()) > 0.94
    assert float(((tiled - whole).abs() < 1e-4).float().mean()) > 0.1


def test_tiles_that_are_normalised_one_by_one_still_agree_for_the_most_part(network, monkeypatch):
    whole, tiled = whole_and_tiled(network, noise(6, 128, 128), monkeypatch)
    assert float((tiled.argmax(1) == whole.argmax(1)).float().mean()) > 0.8


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_volume_that_does_not_fit_is_computed_in_tiles_and_the_report_says_so(error):
    engine = Engine(LittleMemory({"cpu": 2 * 64 * 64}, error), CPU, torch.float32)
    report = engine.new_report()
    logits = engine.run(noise(2, 96, 96), T2, report)
    assert logits.shape == (1, 3, 2, 96, 96)
    assert report.strategy == "tiles"
    assert len(report.cautions) == 1
    assert "tiles" in report.cautions[0]


def test_a_volume_that_cannot_fit_is_not_even_tried_in_one_pass(monkeypatch, network):
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 1e5)
    engine = Engine(network, CPU, torch.float32)
    report = engine.new_report()
    engine.run(noise(2, 80, 80), T2, report)
    assert report.strategy == "tiles"


def test_out_of_memory_on_the_device_goes_on_on_the_cpu_and_says_so(monkeypatch):
    monkeypatch.setattr(inference, "_free_bytes", lambda _: float("inf"))
    network = LittleMemory({"cuda": 0, "cpu": 10**9})
    engine = Engine(network, torch.device("cuda:0"), torch.float32)
    report = engine.new_report()
    image, condition = (t.as_subclass(StaysPut) for t in (noise(2, 16, 16), T2))
    logits = engine.run(image, condition, report)
    assert logits.shape == (1, 3, 2, 16, 16)
    assert (report.device, report.precision, report.strategy) == ("cpu", "float32", "tiles")
    assert any("cuda:0 ran out of memory" in caution and "CPU" in caution for caution in report.cautions)
    # The next study starts on the device again.
    assert network.moves == ["cuda", "cpu", "cuda"]


def test_no_room_anywhere_is_an_error_of_its_own_and_leaves_the_network_on_its_device(monkeypatch):
    monkeypatch.setattr(inference, "_free_bytes", lambda _: float("inf"))
    network = LittleMemory({"cuda": 0, "cpu": 0})
    engine = Engine(network, torch.device("cuda"), torch.float32)
    image, condition = (t.as_subclass(StaysPut) for t in (noise(2, 16, 16), T2))
    with pytest.raises(OutOfMemoryError, match="close other programs"):
        engine.run(image, condition, engine.new_report())
    assert network.place == "cuda"
    with pytest.raises(OutOfMemoryError):
        Engine(LittleMemory({"cpu": 0}), CPU, torch.float32).run(noise(2, 16, 16), T2, engine.new_report())


def test_another_error_of_the_network_is_not_taken_for_a_lack_of_memory(network):
    engine = Engine(network, CPU, torch.float32)
    with pytest.raises(RuntimeError, match="channels"):
        engine.run(noise(2, 16, 16).expand(-1, 2, -1, -1, -1), T2, engine.new_report())


def test_what_pytorch_keeps_from_the_last_study_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1e9, 8e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2e9)
    assert inference._free_bytes(torch.device("cuda")) == 4e9


def test_the_cpu_s_free_memory_is_a_plausible_number():
    assert 1e7 < inference._free_bytes(CPU) < 1e15


def test_deterministic_runs_are_equal_bit_by_bit_and_leave_the_setting_as_it_was(network):
    engine = Engine(network, CPU, torch.bfloat16, deterministic=True)
    first, second = (engine.run(noise(3, 40, 40), T2, engine.new_report()) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.are_deterministic_algorithms_enabled()


def test_bfloat16_names_the_same_structures_as_float32(network):
    image = noise(4, 64, 64)
    exact, short = (
        engine.run(image, T2, engine.new_report())
        for engine in (Engine(network, CPU, p) for p in (torch.float32, torch.bfloat16))
    )
    assert short.dtype == torch.float32
    assert not torch.equal(exact, short)
    assert float((exact.argmax(1) == short.argmax(1)).float().mean()) > 0.97


def test_inference_keeps_no_gradients(network):
    engine = Engine(network, CPU, torch.float32)
    assert not engine.run(noise(2, 16, 16), T2, engine.new_report()).requires_grad
