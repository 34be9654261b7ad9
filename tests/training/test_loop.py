"""A training learns, and one that is cut short goes on as if it had not been."""

from __future__ import annotations

import logging
import re
import resource
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spinemets.errors import ConfigError, OutputError
from spinemets.training import loop
from spinemets.training.loop import TrainingFiles, train
from spinemets.training.recipe import NetworkSettings, Recipe, load_recipe
from spinemets.training.trained import built, read_trained

CPU = torch.device("cpu")
SMOKE = Path(__file__).parents[2] / "configs/train/smoke.yaml"


class PowerCutError(Exception):
    """What ends a training in the middle of a step."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all trainings of this module write, so that they share one phantom."""
    return tmp_path_factory.mktemp("runs")


def checkpoint_of(output):
    return torch.load(output / "checkpoint.pt", map_location="cpu", weights_only=True)


def flat(state, prefix=""):
    """Every number of a checkpoint by its path."""
    if isinstance(state, dict):
        return {k: v for name, value in state.items() for k, v in flat(value, f"{prefix}/{name}").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in flat(value, f"{prefix}/{i}").items()}
    return {prefix: state}


def same(first, second):
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    return all(
        torch.equal(v, second[k]) if isinstance(v, torch.Tensor) else v == second[k] for k, v in first.items()
    )


def cut_after(monkeypatch, step):
    """Let the current goes out in the middle of a step."""
    update = loop._State.update_average

    def update_or_stop(self, decay):
        if self.step > step:
            raise PowerCutError
        update(self, decay)

    monkeypatch.setattr(loop._State, "update_average", update_or_stop)


def test_the_smoke_training_s_loss_falls(folder, caplog):
    caplog.set_level(logging.INFO, "spinemets")
    mean = train(load_recipe(SMOKE), TrainingFiles(Path(), folder / "smoke"), CPU)
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)", caplog.text)]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.9 * losses[0]
    assert losses[2] < mean < losses[0]
    assert (folder / "phantoms").is_dir()
    assert any((folder / "smoke/events").iterdir())


def test_a_training_cut_short_and_resumed_ends_with_the_same_weights(folder, monkeypatch):
    recipe = load_recipe(SMOKE).model_copy(update={"steps": 12, "save_every": 5, "validate_every": 12})
    train(recipe, TrainingFiles(Path(), folder / "whole"), CPU)
    whole = checkpoint_of(folder / "whole")
    with monkeypatch.context() as patch:
        cut_after(patch, 8)
        with pytest.raises(PowerCutError):
            train(recipe, TrainingFiles(Path(), folder / "cut"), CPU)
    halfway = checkpoint_of(folder / "cut")
    assert halfway["step"] == 5
    assert not same(halfway["network"], whole["network"])
    train(recipe, TrainingFiles(Path(), folder / "cut"), CPU)
    assert same(checkpoint_of(folder / "cut"), whole)


@pytest.mark.parametrize("kept", [True, False], ids=["resumed", "begun anew"])
def test_tensorboard_shows_every_step_once_after_a_training_was_cut_short(folder, monkeypatch, kept):
    recipe = load_recipe(SMOKE).model_copy(update={"steps": 40, "save_every": 15, "validate_every": 40})
    files = TrainingFiles(Path(), folder / f"curve {kept}")
    with monkeypatch.context() as patch:
        cut_after(patch, 22)
        with pytest.raises(PowerCutError):
            train(recipe, files, CPU)
    if not kept:
        files.checkpoint.unlink()
    train(recipe, files, CPU)
    shown = EventAccumulator(str(files.output / "events"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("loss")] == [20, 40]


def test_a_finished_training_stays_as_it_is(folder):
    recipe = load_recipe(SMOKE).model_copy(update={"steps": 2, "save_every": 2})
    files = TrainingFiles(Path(), folder / "done")
    assert train(recipe, files, CPU) > 0
    before = (folder / "done/checkpoint.pt").read_bytes()
    assert train(recipe, files, CPU) is None
    assert (folder / "done/checkpoint.pt").read_bytes() == before


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"taken: cannot be made \(File exists\)"):
        train(load_recipe(SMOKE), TrainingFiles(Path(), tmp_path / "taken"), CPU)


def test_the_average_lags_behind_the_weights_and_is_what_is_loaded(folder):
    recipe = load_recipe(SMOKE).model_copy(update={"steps": 3, "save_every": 3})
    train(recipe, TrainingFiles(Path(), folder / "average"), CPU)
    state = checkpoint_of(folder / "average")
    assert not same(state["network"], state["average"])
    network = built(read_trained(folder / "average/checkpoint.pt", "anatomy").weights)
    assert not network.training
    assert same(dict(network.state_dict()), dict(state["average"]))


@pytest.fixture(scope="module")
def tiny_recipe():
    """Both tasks on the tiny labelled scans, with validation."""
    return {
        "seed": 4, "steps": 3, "batch_size": 1, "patch": [3, 48, 48], "workers": 0, "save_every": 3,
        "validate_every": 3, "warmup_steps": 1, "network": {"filters": [4, 6, 8]},
        "sources": {"spider": "spider", "spider_subjects": ["tiny"], "spider_validation": ["tiny"]},
    }  # fmt: skip


def test_the_lesion_network_trains_on_the_anatomy_network_and_both_are_validated(
    tiny, tiny_recipe, folder, caplog, monkeypatch
):
    monkeypatch.setattr("spinemets.training.validation._IMPLANTS_PER_SCAN", 1)
    caplog.set_level(logging.INFO, "spinemets")
    anatomy = Recipe.model_validate({"task": "anatomy", **tiny_recipe})
    train(anatomy, TrainingFiles(tiny.folder, folder / "tiny-anatomy"), CPU)
    lesion = Recipe.model_validate({"task": "lesion", **tiny_recipe, "network": {"filters": [4, 4, 4]}})
    checkpoint = folder / "tiny-anatomy/checkpoint.pt"
    loss = train(lesion, TrainingFiles(tiny.folder, folder / "tiny-lesion", checkpoint), CPU)
    assert loss > 0
    assert checkpoint_of(folder / "tiny-lesion")["step"] == 3
    validated = set(re.findall(r"validation ([a-z ]+?) \d", caplog.text))
    assert validated == {"vertebra", "disc", "canal", "sensitivity", "false positives per scan"}
    assert same(checkpoint_of(folder / "tiny-anatomy"), torch.load(checkpoint, weights_only=True))


def test_the_learning_rate_warms_up_and_then_falls():
    recipe = Recipe.model_validate(
        {"task": "anatomy", "steps": 1000, "warmup_steps": 100, "learning_rate": 1e-3, "sources": {}}
    )
    rates = [loop._learning_rate(recipe, step) for step in range(1001)]
    assert rates[0] < 2e-5
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert 90 < rates.index(max(rates)) < 110
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5, rel=0.01)


def test_a_training_begins_with_weights_that_are_given(tiny, tiny_recipe, folder):
    recipe = Recipe.model_validate({"task": "anatomy", **tiny_recipe})
    train(recipe, TrainingFiles(tiny.folder, folder / "first"), CPU)
    start = folder / "first/checkpoint.pt"
    still = recipe.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0})
    train(still, TrainingFiles(tiny.folder, folder / "second", start=start), CPU)
    before, after = (checkpoint_of(folder / name)["average"] for name in ("first", "second"))
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())


def test_weights_of_another_size_are_refused(tiny, tiny_recipe, folder):
    recipe = Recipe.model_validate({"task": "anatomy", **tiny_recipe})
    train(recipe, TrainingFiles(tiny.folder, folder / "first"), CPU)
    larger = recipe.model_copy(update={"network": NetworkSettings(filters=(4, 6, 8, 10))})
    files = TrainingFiles(tiny.folder, folder / "larger", start=folder / "first/checkpoint.pt")
    with pytest.raises(ConfigError, match="filters"):
        train(larger, files, CPU)


def test_a_checkpoint_of_another_network_is_refused_by_name(tiny, tiny_recipe, folder):
    recipe = Recipe.model_validate({"task": "anatomy", **tiny_recipe})
    train(recipe, TrainingFiles(tiny.folder, folder / "first"), CPU)
    for filters in ((4, 6, 10), (4, 6, 8, 10)):
        other = recipe.model_copy(update={"network": NetworkSettings(filters=filters)})
        with pytest.raises(ConfigError, match=r"checkpoint.pt: does not fit .*--output") as caught:
            train(other, TrainingFiles(tiny.folder, folder / "first"), CPU)
        assert len(str(caught.value)) < 600


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tiny_recipe, tmp_path):
    state = loop._State(Recipe.model_validate({"task": "anatomy", **tiny_recipe}), CPU)
    path = tmp_path / "checkpoint.pt"
    state.save(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal of a file that grows too large: writing fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"checkpoint.pt: cannot be written"):
            state.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("damage", ["cut short", "empty", "no checkpoint", "another object", "a part"])
def test_a_damaged_checkpoint_is_refused_by_name(tiny, tiny_recipe, tmp_path, damage):
    recipe = Recipe.model_validate({"task": "anatomy", **tiny_recipe})
    path = tmp_path / "checkpoint.pt"
    if damage == "cut short":
        loop._State(recipe, CPU).save(path)
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "a part":
        torch.save({"network": {}, "step": 3}, path)
    elif damage == "another object":
        torch.save([1, 2], path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"step 3")
    with pytest.raises(ConfigError, match=r"checkpoint.pt: is no checkpoint .*--output"):
        train(recipe, TrainingFiles(tiny.folder, tmp_path), CPU)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_steps_are_in_bfloat16_only_where_the_device_computes_in_it(
    tiny, tiny_recipe, tmp_path, monkeypatch, precision
):
    monkeypatch.setattr(loop, "choose_precision", lambda *_: precision)
    recipe = Recipe.model_validate({"task": "anatomy", **tiny_recipe, "steps": 1})
    seen, loss = [], loop.partial_label_loss

    def watched(logits, allowed):
        seen.append(logits.dtype)
        return loss(logits, allowed)

    monkeypatch.setattr(loop, "partial_label_loss", watched)
    train(recipe, TrainingFiles(tiny.folder, tmp_path / "run"), CPU)
    assert seen == [torch.bfloat16 if precision is torch.bfloat16 else torch.float32]
