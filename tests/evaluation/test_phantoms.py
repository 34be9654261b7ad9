"""Simulated studies ask for what is in view, and a wrong name that is marked uncertain is no silent error."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import evaluate
from spinemets.anatomy import SpineRegion
from spinemets.anatomy import VertebralLevel as Level
from spinemets.evaluation import phantoms
from spinemets.evaluation.phantoms import KINDS, draw_study, judge, phantom_tables
from spinemets.findings import Vertebra


@pytest.fixture(autouse=True)
def no_scan(monkeypatch):
    """Fields of view are what is tested; a scan takes seconds."""
    monkeypatch.setattr(phantoms, "acquire", lambda _p, grid, *_: (np.zeros(grid.shape, np.float32), None))


def report(study, shift=0, confidence=0.9, leave_out=0):
    """Every vertebra in its place, named some levels too low."""
    order = [level for level in Level if not level.is_supernumerary]
    names = sorted(study.truth)
    renamed = [order[order.index(one) + shift] for one in names] if shift else names
    found = [
        Vertebra(number, name, confidence, (), study.truth[true], True)
        for number, (true, name) in enumerate(zip(names, renamed, strict=True), start=1)
    ]
    return SimpleNamespace(vertebrae=tuple(found[leave_out:]), cautions=("No C2.",))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(4))
def test_what_is_in_view_fits_the_kind(kind, index):
    study = draw_study(kind, index)
    grid = study.study.reference.grid
    height_mm = grid.shape[2] * grid.spacing_mm[2]
    assert 180 < height_mm < (800 if kind.endswith("whole") else 450)
    assert all(level.region is not SpineRegion.SACRAL and level is not Level.C1 for level in study.truth)
    assert len(study.truth) >= 5
    if kind == "neither":
        assert Level.C2 not in study.truth
        assert grid.affine[2, 3] > study.truth[max(study.truth)][2] - 45
    else:
        assert max(study.truth) is (Level.L6 if kind.startswith("L6") else Level.L5)
        # The sacrum's upper endplate is the phantom's origin.
        assert grid.affine[2, 3] < -20
        assert (Level.C2 in study.truth) == kind.endswith("whole")
    assert (Level.T13 in study.truth) == kind.startswith("T13")


def test_a_study_is_always_the_same_and_another_seed_gives_another():
    first, again, other = draw_study("sacrum", 1), draw_study("sacrum", 1), draw_study("sacrum", 1, seed=5)
    assert first.truth == again.truth
    assert first.truth != other.truth


def test_right_flagged_and_silently_wrong_are_told_apart():
    study = draw_study("sacrum", 0)
    shifted = draw_study("neither", 0)
    right = judge(study, report(study), 0.7)
    flagged = judge(shifted, report(shifted, 1, 0.5), 0.7)
    wrong = judge(shifted, report(shifted, 1, 0.9), 0.7)
    missed = judge(study, report(study, leave_out=1), 0.7)
    assert (right.right, right.flagged, right.wrong, right.missed) == (True, False, 0, 0)
    assert (flagged.right, flagged.flagged) == (False, True)
    assert flagged.wrong == len(shifted.truth)
    assert (wrong.right, wrong.flagged) == (False, False)
    assert (missed.right, missed.flagged, missed.missed) == (False, False, 1)


def test_a_caution_alone_flags_nothing():
    study = draw_study("neither", 0)
    verdict = judge(study, report(study, 1, 0.9), 0.7)
    assert verdict.cautioned
    assert not verdict.flagged


def test_rates_are_given_by_kind_with_intervals():
    study = draw_study("neither", 0)
    verdicts = [judge(study, report(study, *how), 0.7) for how in ((0,), (1, 0.5), (1, 0.9), (0,))]
    row = phantom_tables(verdicts)["kinds"][0]
    assert (row["kind"], row["studies"], row["all right"], row["right or flagged"]) == (
        "neither",
        4,
        0.5,
        0.75,
    )
    assert row["low"] < 0.75 < row["high"]
    assert row["vertebrae right"] == 0.5
    assert " as " in phantom_tables(verdicts)["studies"][1]["errors"]


def test_the_command_writes_json_and_markdown(tmp_path, monkeypatch):
    drawn = {kind: draw_study(kind, 0) for kind in KINDS}
    monkeypatch.setattr("spinemets.detection.load_models", lambda *_: None)
    monkeypatch.setattr(
        "spinemets.detection.detect",
        lambda study, *_: report(next(one for one in drawn.values() if one.name == study.uid)),
    )
    result = CliRunner().invoke(evaluate.main, ["phantoms", "-n", "1", "-o", str(tmp_path / "levels.json")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "levels.json").read_text())["kinds"]
    assert [(row["kind"], row["all right"]) for row in rows] == [(kind, 1.0) for kind in KINDS]
    assert "| sacrum | 1 | 1.000 |" in (tmp_path / "levels.md").read_text()


@pytest.mark.parametrize(("option", "value"), [("--seed", "-1"), ("--device", "nothing")])
def test_what_means_nothing_is_refused_by_name(option, value):
    result = CliRunner().invoke(evaluate.main, ["phantoms", "-n", "1", option, value])
    assert isinstance(result.exception, SystemExit), result.exception
    assert option.strip("-") in result.output
    assert value in result.output
