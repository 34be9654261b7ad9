"""A network is recorded once for each shape, and what is replayed is what the plain run gives."""

from __future__ import annotations

import pytest
import torch

from spinemets.execution import FusedNetwork
from spinemets.graphs import ReplayedNetwork
from spinemets.inference import Engine
from spinemets.network import NetworkDefinition, SpineUNet

SMALL = NetworkDefinition(image_channels=1, conditions=4, outputs=3, filters=(4, 6, 8))
T2 = torch.tensor([[0.0, 1.0, 0.0, 0.0]])


class Recorded:
    """Stands in for a CUDA graph: counts recordings and replays, and computes as the run does."""

    def __init__(self, error: Exception | None = None, off_by: float = 0.0) -> None:
        self.error, self.off_by = error, off_by
        self.recordings = self.replays = 0

    def __call__(self, run, *_):
        self.recordings += 1
        if self.error is not None:
            raise self.error

        def replay(image, condition):
            self.replays += 1
            return run(image, condition) + self.off_by

        return replay


class Stuck(Recorded):
    """A recording in which nothing was recorded: it gives the logits that the run gave meanwhile."""

    def __call__(self, run, *inputs):
        self.recordings += 1
        logits = run(*inputs)
        return lambda *_: logits


class Runs:
    """The plain run, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, image, condition):
        self.count += 1
        return image * 2 + condition.sum()


def image(rows, seed=0):
    return torch.randn(1, 1, 3, rows, 32, generator=torch.Generator().manual_seed(seed))


def test_a_second_image_of_a_shape_is_recorded_and_a_third_replayed():
    run, record = Runs(), Recorded()
    network = ReplayedNetwork(run, record)
    for seed, (recordings, replays) in enumerate([(0, 0), (1, 1), (1, 2), (1, 3)]):
        logits = network(image(32, seed), T2)
        assert torch.equal(logits, image(32, seed) * 2 + 1)
        assert (record.recordings, record.replays) == (recordings, replays)
    assert network.recorded == 1


def test_images_padded_to_one_shape_share_a_recording():
    torch.manual_seed(3)
    fused = FusedNetwork(SpineUNet(SMALL), torch.device("cpu"), torch.float32)
    engine = Engine(SpineUNet(SMALL), torch.device("cpu"), torch.float32)
    record = Recorded()
    engine._replayed = ReplayedNetwork(fused.run, record)
    for columns in (28, 30, 32, 26, 31):
        engine.run(image(16, columns)[..., :columns], T2, engine.new_report())
    assert record.recordings == 1


def test_only_so_many_shapes_are_kept_and_the_least_used_go_first():
    record = Recorded()
    network = ReplayedNetwork(Runs(), record)
    for rows in range(1, 9):
        network(image(rows), T2)
        network(image(rows), T2)
    assert record.recordings == 8
    before = record.replays
    network(image(8), T2)
    assert record.replays == before + 1
    network(image(1), T2)
    # Shape 1 had to go, so it is recorded again.
    assert record.recordings == 9


@pytest.mark.parametrize("record", [Recorded(RuntimeError("no capture")), Recorded(off_by=1.0), Stuck()])
def test_what_cannot_be_recorded_truly_runs_plainly_for_good(record, caplog):
    network = ReplayedNetwork(Runs(), record)
    for seed in range(4):
        assert torch.equal(network(image(32, seed), T2), image(32, seed) * 2 + 1)
    assert record.recordings == 1
    assert network.recorded == 0
    assert "record" in caplog.text


def test_forgetting_gives_the_recordings_up():
    network = ReplayedNetwork(Runs(), Recorded())
    assert not network.forget()
    network(image(32), T2)
    network(image(32), T2)
    assert network.forget()
    assert not network.forget()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_gives_the_logits_of_the_plain_run(precision):
    torch.manual_seed(3)
    fused = FusedNetwork(SpineUNet(SMALL), torch.device("cuda"), precision)
    network = ReplayedNetwork(fused.run)
    with torch.inference_mode():
        for seed in range(4):
            for rows in (32, 64):
                shown = image(rows, seed)
                plain = fused.run(shown, T2)
                assert torch.allclose(network(shown, T2), plain, atol=0.05 * float(plain.std()))
    assert network.recorded == 2
