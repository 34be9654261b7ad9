"""The recipe of every public data set trains on that data set's layout, by its split."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

import dataset_files as files
from spinemets.errors import ConfigError, OutputError, UnsupportedInputError
from spinemets.training.data import read_sources, read_validation
from spinemets.training.datasets import LAYOUTS
from spinemets.training.loop import TrainingFiles, train
from spinemets.training.packing import pack
from spinemets.training.recipe import DatasetSettings, load_recipe
from spinemets.training.splits import read_split

CONFIGS = Path(__file__).parents[2] / "configs/train"
# Recipe: where its data lies below --data, what writes it, the patients of the fixture.
DATA = {
    "spider": ("spider", files.spider, ("1", "55")),
    "spine_generic": ("data-multi-subject", files.bids, ("amu01", "amu02")),
    "whole_spine": ("ds005616", files.bids, ("amuAL", "amuAM")),
    "verse": ("verse", files.verse, ("verse004", "gl003")),
    "mrspineseg": ("mrspineseg", files.mrspineseg, ("1", "2")),
    "datalist": ("", files.datalist, None),
    "own_masks": ("own", files.own_masks, ("p01", "p02")),
}
SMALL = {
    "steps": 2, "batch_size": 1, "patch": (3, 48, 48), "workers": 0, "warmup_steps": 1, "save_every": 2,
    "validate_every": 2,
}  # fmt: skip


def small(recipe, filters, **changes):
    network = recipe.network.model_copy(update={"filters": filters})
    sources = recipe.sources.model_copy(update={"phantoms": 0})
    return recipe.model_copy(update={**SMALL, "network": network, "sources": sources, **changes})


def with_split(recipe, path, train, validation):
    path.write_text(json.dumps({"train": train, "validation": validation}))
    dataset = recipe.sources.datasets[0].model_copy(update={"split": path})
    return recipe.model_copy(update={"sources": recipe.sources.model_copy(update={"datasets": (dataset,)})})


def prepared(kind, tmp_path):
    """The recipe on a small fixture of its data set."""
    folder, make, patients = DATA[kind]
    make(tmp_path / "data" / folder, *([patients] if patients else []))
    recipe = small(load_recipe(CONFIGS / f"{kind}.yaml"), (4, 6, 8))
    dataset = recipe.sources.datasets[0]
    if dataset.split is None or kind == "spider":
        return recipe
    first, second = sorted({case.patient for case in LAYOUTS[kind].find(tmp_path / "data" / dataset.folder)})
    return with_split(recipe, tmp_path / "split.json", [first], [second])


def test_there_is_a_recipe_for_every_layout():
    assert set(DATA) == set(LAYOUTS)
    assert set(DatasetSettings.model_fields["kind"].annotation.__args__) == set(LAYOUTS)


@pytest.mark.parametrize("kind", DATA)
def test_a_recipe_trains_two_steps_on_its_data_set(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.training.validation._IMPLANTS_PER_SCAN", 1)
    recipe = prepared(kind, tmp_path)
    anatomy = None
    if recipe.task == "lesion":
        anatomy = tmp_path / "runs/anatomy/checkpoint.pt"
        first = recipe.model_copy(update={"task": "anatomy", "steps": 1})
        train(first, TrainingFiles(tmp_path / "data", anatomy.parent), torch.device("cpu"))
        recipe = small(recipe, (4, 4, 4))
    loss = train(recipe, TrainingFiles(tmp_path / "data", tmp_path / "runs/x", anatomy), torch.device("cpu"))
    assert np.isfinite(loss)
    assert torch.load(tmp_path / "runs/x/checkpoint.pt", weights_only=True)["step"] == 2


def test_who_is_trained_on_and_who_validates_follows_the_split(tmp_path, caplog):
    files.bids(tmp_path / "data", ("a", "b", "c", "d"))
    recipe = small(load_recipe(CONFIGS / "whole_spine.yaml"), (4, 6, 8))
    recipe = with_split(recipe, tmp_path / "s.json", ["a", "c"], ["d"])
    dataset = recipe.sources.datasets[0].model_copy(update={"folder": Path()})
    recipe = recipe.model_copy(update={"sources": recipe.sources.model_copy(update={"datasets": (dataset,)})})
    pools = read_sources(recipe, tmp_path / "data", tmp_path / "runs/phantoms")
    trained = {scan.subject for pool in pools.values() for scan in pool}
    assert trained == {"bids/sub-a_T2w", "bids/sub-c_T2w"}
    assert [scan.subject for scan in read_validation(recipe, tmp_path / "data")] == ["bids/sub-d_T2w"]
    assert "1 patients are in no part" in caplog.text


@pytest.mark.parametrize(("second", "torn"), [("p1_T1", True), ("p2_T2", False)])
def test_a_patient_in_two_of_the_data_set_s_own_parts_is_told(tmp_path, caplog, second, torn):
    recipe = prepared("datalist", tmp_path)
    document = json.loads((tmp_path / "data/dataset.json").read_text())
    for part, name in (("training", "p1_T2"), ("validation", second)):
        (entry,) = document[part]
        (tmp_path / "data" / entry["image"]).rename(tmp_path / f"data/imagesTr/{name}.nii.gz")
        entry["image"] = f"imagesTr/{name}.nii.gz"
    (tmp_path / "data/dataset.json").write_text(json.dumps(document))
    read_sources(recipe, tmp_path / "data", tmp_path / "runs/phantoms")
    told = "datalist: 1 patients have images in more than one of the data set's own parts"
    assert (told in caplog.text) is torn


def test_a_split_that_names_nobody_of_the_data_set_is_refused(tmp_path):
    recipe = with_split(prepared("mrspineseg", tmp_path), tmp_path / "s.json", ["Case99"], [])
    with pytest.raises(ConfigError, match="none of its 2 cases"):
        read_sources(recipe, tmp_path / "data", tmp_path / "runs/phantoms")


def test_a_missing_split_says_how_to_make_it(tmp_path):
    files.own_masks(tmp_path / "own")
    recipe = load_recipe(CONFIGS / "own_masks.yaml")
    with pytest.raises(ConfigError, match="make_splits"):
        read_validation(recipe, tmp_path)


def test_the_stored_splits_keep_the_test_subjects_of_the_released_networks_apart():
    split = read_split(CONFIGS / "splits/spider.json")
    assert {"11", "45", "65", "110", "141", "166", "220"} <= split.test
    released = load_recipe(CONFIGS / "anatomy.yaml").sources
    assert {str(int(one)) for one in released.spider_subjects} <= split.train
    assert {str(int(one)) for one in released.spider_validation} <= split.validation
    for path in (CONFIGS / "splits").glob("*.json"):
        assert min(len(read_split(path).part(name)) for name in ("train", "validation", "test")) > 10


def test_scans_are_prepared_once_and_anew_when_their_files_change(tmp_path):
    layout = LAYOUTS["own_masks"]
    files.own_masks(tmp_path / "own", ("p01",))
    cases = layout.find(tmp_path / "own")
    first = pack(layout, cases, tmp_path / "packed")[0]
    read = layout.read(cases[0])
    for name in ("image", "allowed", "structures", "lesions"):
        assert np.array_equal(getattr(first, name), getattr(read, name))
    assert (first.subject, first.spacing_mm, first.weighting) == (
        read.subject,
        read.spacing_mm,
        read.weighting,
    )
    stored = list((tmp_path / "packed").iterdir())
    pack(layout, cases, tmp_path / "packed")
    assert list((tmp_path / "packed").iterdir()) == stored
    files.write_nifti(tmp_path / "own/truth/p01_T1w_lesions.nii.gz", files.lesions()[::-1])
    assert not np.array_equal(pack(layout, cases, tmp_path / "packed")[0].lesions, first.lesions)


def test_a_disk_that_is_full_is_told_and_nothing_half_prepared_is_left(tmp_path):
    layout = LAYOUTS["own_masks"]
    files.own_masks(tmp_path / "own", ("p01",))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal of a file that grows too large: writing fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"p01_T1w_.*npz: cannot be written"):
            pack(layout, layout.find(tmp_path / "own"), tmp_path / "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "packed").iterdir())


def test_a_case_that_cannot_be_read_stops_the_training_by_name(tmp_path):
    recipe = prepared("mrspineseg", tmp_path)
    mask = tmp_path / "data/mrspineseg/train/Mask/mask_case1.nii.gz"
    files.write_nifti(mask, np.zeros(files.SHAPE, np.uint8))
    with pytest.raises(UnsupportedInputError, match="mask_case1"):
        read_sources(recipe, tmp_path / "data", tmp_path / "runs/phantoms")
