"""Every recipe loads, and one that means something else than it says is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spinemets.errors import ConfigError
from spinemets.training.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "configs/train").glob("*.yaml"))
# Held out for the model card's figures.
TEST_SUBJECTS = {"011", "045", "065", "110", "141", "166", "220", "errsm_20", "errsm_23"}
MINIMAL = {"task": "anatomy", "steps": 5, "sources": {"phantoms": 1}}


def written(tmp_path, values):
    path = tmp_path / "recipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_the_recipes_of_the_released_networks_are_here():
    assert {path.stem for path in RECIPES} >= {"anatomy", "lesion", "smoke"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_its_patch_fits_its_network(path):
    recipe = load_recipe(path)
    multiple = 2 ** len(recipe.network.filters)
    assert recipe.patch[1] % multiple == recipe.patch[2] % multiple == 0
    shares = [*recipe.sources.shares.values(), *(one.share for one in recipe.sources.datasets)]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_training_validation_and_test_subjects_are_apart(path):
    sources = load_recipe(path).sources
    trained = {*sources.spider_subjects, *sources.sct_subjects}
    assert not trained & set(sources.spider_validation)
    assert not TEST_SUBJECTS & (trained | set(sources.spider_validation))


def test_the_lesion_network_is_validated_on_no_subject_that_the_anatomy_network_saw():
    anatomy, lesion = (load_recipe(next(p for p in RECIPES if p.stem == n)) for n in ("anatomy", "lesion"))
    assert not set(anatomy.sources.spider_subjects) & set(lesion.sources.spider_validation)


@pytest.mark.parametrize(
    "change",
    [
        {"stepz": 3}, {"steps": 0}, {"steps": None}, {"task": "levels"}, {"batch_size": 0},
        {"patch": [6, 160]},
        {"lesion_chance": 1.5}, {"learning_rate": 0}, {"network": {"filter": [4]}},
        {"sources": {"phantoms": 1, "verse": "x"}}, {"sources": {"shares": {"verse": 1.0}}},
        {"sources": {"shares": {"phantom": -1.0}}}, {"sources": {"shares": {"phantom": float("inf")}}},
        {"patch": [6, 160, 200]}, {"patch": [0, 160, 224]}, {"network": {"filters": [4, 8]}},
        {"network": {"filters": [0, 4, 8]}}, {"seed": -1},
        {"slice_spacing_mm": [5.0, 2.6]}, {"slice_spacing_mm": [0.0, 5.0]},
    ],
    ids=str,
)  # fmt: skip
def test_unknown_keys_and_bad_values_are_refused_by_name(tmp_path, change):
    assert load_recipe(written(tmp_path, MINIMAL)).steps == 5
    with pytest.raises(ConfigError, match=next(iter(change))):
        load_recipe(written(tmp_path, {**MINIMAL, **change}))


def test_a_misspelt_key_is_refused_with_what_is_meant(tmp_path):
    dataset = {"kind": "spider", "foldr": "x"}
    values = {"task": "anatomy", "stepps": 5, "sources": {"datasets": [dataset]}}
    with pytest.raises(ConfigError) as refusal:
        load_recipe(written(tmp_path, values))
    assert str(refusal.value).split("; ")[1:] == [
        "sources.datasets.0.folder: Field required",
        "sources.datasets.0.foldr: there is no such setting",
        "did you mean folder?",
        "stepps: there is no such setting",
        "did you mean steps?",
    ]


@pytest.mark.parametrize("text", ["task: [", "- a\n- list\n", ""])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_recipe(written(tmp_path, text))


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
