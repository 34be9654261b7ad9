"""The engine finds its device, and out of memory it goes on in parts, then on the CPU, and says so."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from spinemets import inference
from spinemets.errors import DeviceUnavailableError, OutOfMemoryError
from spinemets.execution import FusedNetwork, peak_bytes
from spinemets.inference import Engine, choose_device, choose_precision, usable_device
from spinemets.network import NetworkDefinition, SpineUNet

SMALL = NetworkDefinition(image_channels=1, conditions=4, outputs=3, filters=(4, 6, 8))
CPU = torch.device("cpu")
T2 = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
ALLOCATOR_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"


class LittleMemory:
    """Stands in for the network's execution: runs out of memory above so many voxels on each device."""

    def __init__(self, room: dict[str, int], error: Exception | None = None) -> None:
        self.room, self.error = room, error or torch.OutOfMemoryError(ALLOCATOR_MESSAGE)
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, network, device, precision):
        place = torch.device(device).type
        fused = FusedNetwork(network, CPU, precision)
        run = fused.run

        def run_within_memory(image, condition, part_bytes=None):
            self.calls.append((place, part_bytes is not None))
            if image[0, 0].numel() > self.room[f"{place} in parts" if part_bytes else place]:
                raise self.error
            return run(image, condition, part_bytes)

        fused.run = run_within_memory
        return fused


def engine_with(monkeypatch, network, device, memory):
    monkeypatch.setattr(inference, "FusedNetwork", memory)
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 1e12)
    return Engine(network, torch.device(device), torch.float32)


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


def gpu_that_fails(monkeypatch, message):
    """PyTorch sees a GPU; whatever is put there fails."""
    ones = torch.ones

    def ones_elsewhere(*shape, device=None, **others):
        if torch.device(device or "cpu").type == "cuda":
            raise RuntimeError(message)
        return ones(*shape, device=device, **others)

    cuda_machine(monkeypatch, 1)
    monkeypatch.setattr(torch, "ones", ones_elsewhere)


NO_KERNELS = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might"


def test_a_gpu_that_pytorch_has_no_kernels_for_is_left_for_the_cpu_and_it_is_said(monkeypatch, caplog):
    gpu_that_fails(monkeypatch, NO_KERNELS)
    assert usable_device("auto") == CPU
    assert "cuda cannot compute (CUDA error: no kernel image" in caplog.text
    assert "might" not in caplog.text


@pytest.mark.parametrize("message", [NO_KERNELS, "CUDA out of memory. Tried to allocate 20.00 MiB"])
def test_a_gpu_that_was_named_and_cannot_compute_is_an_error_that_says_why(monkeypatch, message):
    gpu_that_fails(monkeypatch, message)
    with pytest.raises(DeviceUnavailableError, match=r"cuda:0 cannot compute \(CUDA .*--device cpu"):
        usable_device("cuda:0")


def test_the_cpu_is_not_tried_out(monkeypatch):
    monkeypatch.setattr(inference, "_fault_of", pytest.fail)
    assert usable_device("cpu") == CPU


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_precision_is_taken_at_its_word(name, caplog):
    assert choose_precision(name, CPU) == getattr(torch, name)
    assert ("float16 is very slow" in caplog.text) == (name == "float16")


def test_float16_is_not_warned_of_on_a_gpu(caplog):
    assert choose_precision("float16", torch.device("cuda:0")) is torch.float16
    assert not caplog.text


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_cpu_computes_in_bfloat16_only_where_it_has_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert choose_precision("auto", CPU) is expected


@pytest.mark.parametrize(("place", "expected"), [("cuda:0", torch.bfloat16), ("cuda:1", torch.float16)])
def test_an_old_gpu_computes_in_float16(monkeypatch, place, expected):
    generations = {"cuda:0": (8, 6), "cuda:1": (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generations[str(device)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # PyTorch says yes of a GPU that emulates it.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_precision("auto", torch.device(place)) is expected


@pytest.mark.parametrize("shape", [(3, 16, 24), (5, 17, 23), (1, 9, 30)])
def test_padding_is_removed(network, shape):
    engine = Engine(network, CPU, torch.float32)
    image = noise(*shape)
    rows, columns = (-n % SMALL.in_plane_multiple for n in shape[1:])
    padded = torch.nn.functional.pad(image, (0, columns, 0, rows))
    logits = engine.run(image, T2, engine.new_report())
    assert logits.shape == (1, 3, *shape)
    with torch.inference_mode():
        expected = network(padded, T2)[..., : shape[1], : shape[2]]
    assert torch.allclose(logits, expected, atol=1e-4)


def test_one_pass_is_said_in_the_report(network):
    engine = Engine(network, CPU, torch.bfloat16)
    report = engine.new_report()
    engine.run(noise(2, 16, 16), T2, report)
    assert (report.device, report.precision, report.strategy) == ("cpu", "bfloat16", "whole volume")
    assert report.fallbacks == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError(ALLOCATOR_MESSAGE),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_volume_that_does_not_fit_the_gpu_is_computed_in_parts_and_the_report_says_so(
    monkeypatch, network, error
):
    memory = LittleMemory({"cuda": 0, "cuda in parts": 10**9}, error)
    engine = engine_with(monkeypatch, network, "cuda:0", memory)
    report = engine.new_report()
    image = noise(3, 40, 56)
    logits = engine.run(image, T2, report)
    monkeypatch.undo()
    assert memory.calls == [("cuda", False), ("cuda", True)]
    assert report.strategy == "parts"
    ran = report.execution()
    assert (ran.device, ran.passes, ran.parts) == ("cuda:0", 1, 1)
    assert ran.fallbacks == tuple(report.fallbacks)
    assert len(report.fallbacks) == 1
    assert "cuda:0 has no room" in report.fallbacks[0]
    whole = Engine(network, CPU, torch.float32)
    assert torch.allclose(logits, whole_logits(whole, image), atol=1e-4)


def whole_logits(engine, image):
    return engine.run(image, T2, engine.new_report())


def test_a_volume_that_cannot_fit_the_gpu_is_not_even_tried_in_one_pass(monkeypatch, network):
    memory = LittleMemory({"cuda": 10**9, "cuda in parts": 10**9})
    engine = engine_with(monkeypatch, network, "cuda", memory)
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 1e5)
    monkeypatch.setattr(inference, "_SMALLEST_PART", 10_000)
    report = engine.new_report()
    engine.run(noise(2, 80, 80), T2, report)
    assert memory.calls == [("cuda", True)]
    assert report.execution().parts > 1


def test_a_gpu_without_room_for_a_part_leaves_the_study_to_the_cpu_and_the_report_says_so(
    monkeypatch, network
):
    memory = LittleMemory({"cuda": 0, "cuda in parts": 0, "cpu": 10**9})
    engine = engine_with(monkeypatch, network, "cuda:0", memory)
    for _ in range(2):  # the next study starts on the device again
        report = engine.new_report()
        logits = engine.run(noise(2, 16, 16), T2, report)
        assert logits.shape == (1, 3, 2, 16, 16)
        assert (report.device, report.precision, report.strategy) == ("cpu", "float32", "whole volume")
        assert any("cuda:0 ran out of memory" in caution and "CPU" in caution for caution in report.fallbacks)
    assert memory.calls == 2 * [("cuda", False), ("cuda", True), ("cpu", False)]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_no_room_anywhere_is_an_error_of_its_own(monkeypatch, network, device):
    memory = LittleMemory({"cuda": 0, "cuda in parts": 0, "cpu": 0})
    engine = engine_with(monkeypatch, network, device, memory)
    with pytest.raises(OutOfMemoryError, match="close other programs"):
        engine.run(noise(2, 16, 16), T2, engine.new_report())


def test_a_volume_beyond_the_cpu_s_free_memory_is_refused_before_the_machine_swaps(monkeypatch, network):
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 1e6)
    engine = Engine(network, CPU, torch.float32)
    with pytest.raises(OutOfMemoryError, match=r"0\.3 million voxels needs about"):
        engine.run(noise(3, 320, 320), T2, engine.new_report())


def test_a_footprint_takes_the_place_of_the_estimate_from_the_shape(monkeypatch, network):
    image = noise(3, 320, 320)
    voxels = image.numel()
    estimate = peak_bytes(SMALL, voxels, 4)
    for footprint, free, fits in [
        (None, 1.2 * estimate, True),
        (None, 1.0 * estimate, False),
        (0.25 * estimate / voxels, 0.6 * estimate, True),
        (1.0 * estimate / voxels, 1.2 * estimate, False),
    ]:
        monkeypatch.setattr(inference, "_free_bytes", lambda _, free=free: free)
        engine = Engine(network, CPU, torch.float32, footprint_bytes_per_voxel=footprint)
        if fits:
            assert engine.run(image, T2, engine.new_report()).shape == (1, 3, 3, 320, 320)
            continue
        with pytest.raises(OutOfMemoryError, match=r"0\.3 million voxels needs about"):
            engine.run(image, T2, engine.new_report())


def test_the_footprint_counts_the_padding(monkeypatch, network):
    image = noise(3, 9, 9)
    padded = 3 * 16 * 16
    for spare, fits in ((1.01, True), (0.99, False)):
        free = spare * padded * 100 * inference._HELD_PER_USED / inference._USABLE
        monkeypatch.setattr(inference, "_free_bytes", lambda _, free=free: free)
        engine = Engine(network, CPU, torch.float32, footprint_bytes_per_voxel=100)
        with nullcontext() if fits else pytest.raises(OutOfMemoryError):
            engine.run(image, T2, engine.new_report())


def test_a_footprint_of_the_cpu_is_not_taken_for_that_of_a_gpu(monkeypatch, network):
    memory = LittleMemory({"cuda": 10**9})
    monkeypatch.setattr(inference, "FusedNetwork", memory)
    image = noise(2, 80, 80)
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 2.0 * peak_bytes(SMALL, image.numel(), 4))
    engine = Engine(network, torch.device("cuda"), torch.float32, footprint_bytes_per_voxel=1e6)
    engine.run(image, T2, engine.new_report())
    assert memory.calls == [("cuda", False)]


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
