"""Processes that train together keep the same weights; one alone trains as if there were no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dataset_files import bids
from spinemets.errors import ConfigError
from spinemets.training.data import SampleStream
from spinemets.training.distributed import Group, local_device, process_group
from spinemets.training.loop import TrainingFiles, train
from spinemets.training.recipe import Recipe

# Keeps the weights of every process, of which only the first writes a checkpoint.
WORKER = """
import json, os, sys
from pathlib import Path
import torch
from spinemets.training import loop
from spinemets.training.distributed import process_group
from spinemets.training.recipe import Recipe

torch.set_num_threads(1)
folder = Path(sys.argv[1])
recipe = Recipe.model_validate(json.loads((folder / "recipe.json").read_text()))
states, update = [], loop._State.update_average
def remember(self, decay):
    states[:] = [self]
    update(self, decay)
loop._State.update_average = remember
device = torch.device("cpu")
with process_group(device) as group:
    loss = loop.train(recipe, loop.TrainingFiles(folder / "data", folder / "runs/x"), device, group)
    torch.save({"network": states[0].network.state_dict(), "loss": loss}, folder / f"rank{group.rank}.pt")
"""


def recipe_of(folder, **changes):
    split = folder / "split.json"
    split.write_text(json.dumps({"train": ["a", "b"], "validation": ["c"]}))
    return {
        "task": "anatomy", "seed": 3, "steps": 4, "batch_size": 1, "patch": [3, 48, 48], "workers": 0,
        "save_every": 4, "validate_every": 4, "warmup_steps": 1, "network": {"filters": [4, 6, 8]},
        "sources": {"datasets": [{"kind": "whole_spine", "folder": ".", "split": str(split)}]}, **changes,
    }  # fmt: skip


@pytest.mark.timeout(600)
def test_two_processes_of_torchrun_end_with_the_same_weights(tmp_path):
    bids(tmp_path / "data", ("a", "b", "c"))
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_of(tmp_path)))
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=550, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, second["network"][key]) for key, value in first["network"].items())
    assert first["loss"] == second["loss"]
    kept = torch.load(tmp_path / "runs/x/checkpoint.pt", weights_only=True)
    assert kept["step"] == 4
    assert all(torch.equal(value, kept["network"][key]) for key, value in first["network"].items())
    assert len(list((tmp_path / "runs/x/events").iterdir())) == 1


def numbers(recipe, group, monkeypatch):
    drawn = []

    class Stop(Exception):
        pass

    def generator(seed):
        drawn.append(seed[1])
        raise Stop

    stream = SampleStream({"phantom": [object()]}, recipe, 0, 6, group)
    monkeypatch.setattr(np.random, "default_rng", generator)
    for index in range(len(stream)):
        with pytest.raises(Stop):
            stream[index]
    monkeypatch.undo()
    return drawn


def test_processes_share_out_the_samples_and_one_alone_takes_them_all(monkeypatch):
    recipe = Recipe.model_validate(
        {"task": "anatomy", "steps": 3, "batch_size": 2, "sources": {"shares": {"phantom": 1.0}}}
    )
    assert numbers(recipe, (0, 1), monkeypatch) == [0, 1, 2, 3, 4, 5]
    first, second = (numbers(recipe, (rank, 2), monkeypatch) for rank in (0, 1))
    assert (first, second) == ([0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11])


def test_processes_that_find_different_checkpoints_are_refused(tmp_path):
    class Apart(Group):
        """One of two processes, the other of which found the checkpoint of the second step."""

        def mean(self, value):
            return (value + 2) / 2

    recipe = Recipe.model_validate(recipe_of(tmp_path))
    with pytest.raises(ConfigError, match=r"would go on from step 0, .* machines share"):
        train(recipe, TrainingFiles(tmp_path, tmp_path / "runs/x"), torch.device("cpu"), Apart(0, 2))


def test_a_process_alone_changes_nothing():
    group = Group()
    network = torch.nn.Linear(2, 2)
    network.weight.grad = torch.ones(2, 2)
    group.average_gradients(network)
    assert torch.equal(network.weight.grad, torch.ones(2, 2))
    assert group.mean(0.1) == 0.1
    assert group.is_first
    with group.first_alone():
        pass
    with process_group(torch.device("cpu")) as found:
        assert (found.rank, found.size) == (0, 1)


def test_every_process_takes_the_gpu_of_its_number_unless_one_is_named(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert local_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert local_device(torch.device("cpu")) == torch.device("cpu")
