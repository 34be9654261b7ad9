"""A training on a GPU mixes nothing up with main memory, and learns what it learns on a processor."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from pretended_gpu import GPU, pretended_gpu
from spinemets.training import loop
from spinemets.training.loop import TrainingFiles, train
from spinemets.training.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipes():
    """Both tasks, with validation."""
    settings = {
        "seed": 4, "steps": 2, "batch_size": 1, "patch": [3, 48, 48], "workers": 0, "save_every": 2,
        "validate_every": 2, "warmup_steps": 1, "network": {"filters": [4, 6, 8]},
        "sources": {"spider": "spider", "spider_subjects": ["tiny"], "spider_validation": ["tiny"]},
    }  # fmt: skip
    return {task: Recipe.model_validate({"task": task, **settings}) for task in ("anatomy", "lesion")}


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")
def test_both_networks_train_and_are_validated(tiny, recipes, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("spinemets.training.validation._IMPLANTS_PER_SCAN", 1)
    caplog.set_level(logging.INFO, "spinemets")
    for task, recipe in recipes.items():
        anatomy = tmp_path / "cpu-anatomy/checkpoint.pt" if task == "lesion" else None
        losses, scores = [], []
        losses.append(train(recipe, TrainingFiles(tiny.folder, tmp_path / f"cpu-{task}", anatomy), CPU))
        scores.append(re.findall(r"validation ([a-z ]+?) (\S+)$", caplog.text, re.MULTILINE))
        caplog.clear()
        with pretended_gpu(monkeypatch), monkeypatch.context() as patch:
            patch.setattr(loop._State, "save", lambda *_: None)
            losses.append(train(recipe, TrainingFiles(tiny.folder, tmp_path / f"gpu-{task}", anatomy), GPU))
        scores.append(re.findall(r"validation ([a-z ]+?) (\S+)$", caplog.text, re.MULTILINE))
        caplog.clear()
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
        assert [name for name, _ in scores[0]] == [name for name, _ in scores[1]] != []
