"""A split is stored, always drawn alike, and keeps every patient to one part."""

from __future__ import annotations

import json
import re

import pytest

import make_splits
from dataset_files import bids, spider
from spinemets.errors import ConfigError
from spinemets.training.datasets.cases import Case
from spinemets.training.splits import draw_split, read_split

SHARES = {"validation": 0.1, "test": 0.2}


def cases(names, subset=None):
    return [Case(name, f"{name}_{series}", {}, subset=subset) for name in names for series in ("T1", "T2")]


def test_shares_are_kept_and_every_patient_is_in_one_part():
    split = draw_split(cases(map(str, range(2000))), SHARES)
    sizes = [len(part) for part in (split.train, split.validation, split.test)]
    assert sum(sizes) == 2000
    assert sizes[1] == pytest.approx(200, abs=40)
    assert sizes[2] == pytest.approx(400, abs=60)


def test_a_patient_s_part_does_not_change_when_others_join():
    few, many = (draw_split(cases(map(str, range(n))), SHARES) for n in (100, 300))
    assert few.test <= many.test
    assert few.train <= many.train
    assert draw_split(cases(map(str, range(100))), SHARES, seed=1) != few


def test_fixed_patients_and_the_data_set_s_own_subsets_stand():
    everyone = [*cases(["a", "b"]), *cases(["c"], "validation"), *cases(["d"], "train")]
    split = draw_split(everyone, {"test": 1.0}, {"train": ["a", "unheard-of"], "validation": ["d"]})
    assert (split.train, split.validation, split.test) == ({"a"}, {"c", "d"}, {"b"})


def test_a_share_for_the_test_is_drawn_from_what_the_data_set_calls_training():
    training = cases(map(str, range(500)), "train")
    own = cases(["v1", "v2"], "validation")
    split = draw_split([*training, *own], SHARES)
    assert split.validation == {"v1", "v2"}
    assert len(split.test) == pytest.approx(100, abs=30)
    assert len(split.train) + len(split.test) == 500
    alike = draw_split(cases(map(str, range(500))), SHARES)
    assert split.test == alike.test


@pytest.mark.parametrize(("part", "other"), [("test", "validation"), ("validation", "test")])
def test_of_a_part_that_the_data_set_has_itself_no_share_is_drawn(part, other):
    everyone = [*cases(map(str, range(300)), "train"), *cases(["own"], part), *cases(["unsaid"])]
    split = draw_split(everyone, {"validation": 0.5, "test": 0.5})
    assert split.part(part) == {"own"}
    assert len(split.part(other)) == pytest.approx(150, abs=40)


def test_an_image_that_the_data_set_says_nothing_of_follows_its_patient():
    split = draw_split([*cases(["a"]), *cases(["a"], "validation")], {"test": 1.0})
    assert (split.validation, split.test) == ({"a"}, frozenset())


def test_a_patient_asked_for_in_two_parts_is_refused():
    with pytest.raises(ConfigError, match="patient a"):
        draw_split(cases(["a"]), SHARES, {"train": ["a"], "test": ["a"]})
    for shares in (SHARES, {"test": 1.0}, {}):
        with pytest.raises(ConfigError, match="patient a is in train and in test"):
            draw_split([*cases(["a"], "train"), *cases(["a"], "test")], shares)


def test_one_part_may_be_named_for_a_patient_of_two_subsets():
    twice = [*cases(["a"], "train"), *cases(["a"], "test")]
    assert draw_split(twice, SHARES, {"train": ["a"]}).train == {"a"}


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["make_splits.py", *map(str, arguments)])
    return make_splits.main()


def test_the_script_writes_what_a_recipe_reads_and_the_same_again(tmp_path, monkeypatch, capsys):
    folder = bids(tmp_path / "data", ("amu01", "ucl02", "vall03"))
    for name in ("one.json", "two.json"):
        options = ("-o", tmp_path / name, "--test", "ucl02", "--test-share", "0", "--validation-share", "0")
        assert run(monkeypatch, "spine_generic", folder, *options) == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    split = read_split(tmp_path / "one.json")
    assert (split.train, split.test) == ({"amu01", "vall03"}, {"ucl02"})
    assert "2 to train on" in capsys.readouterr().out


def test_the_script_draws_a_test_where_the_data_set_marks_training_and_validation(tmp_path, monkeypatch):
    folder = spider(tmp_path / "data", ("1", "2", "3"), ("t2",))
    rows = "1_t2,training\n2_t2,training\n3_t2,validation\n"
    (folder / "overview.csv").write_text(f"new_file_name,subset\n{rows}")
    assert run(monkeypatch, "spider", folder, "-o", tmp_path / "split.json", "--test-share", "1") == 0
    split = read_split(tmp_path / "split.json")
    assert (split.train, split.validation, split.test) == (frozenset(), {"3"}, {"1", "2"})


def test_the_script_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "verse", tmp_path, "-o", tmp_path / "x.json") == 2
    assert "seg-vert_msk" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_a_place_that_cannot_be_written_to_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    assert run(monkeypatch, "spider", "--patients", "1..9", "-o", tmp_path / "file/split.json") == 2
    assert re.fullmatch("make_splits: .*cannot be written .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--patients", "1..x"), "1..x names no patient"),
        (("--patients", "Case1..Case3"), "Case1..Case3 names no patient"),
        (("--patients", "5..1"), "5..1 names no patient"),
        (("--patients", "1..9", "--test-share", "-1"), "must be 0 to 1"),
        (("--patients", "1..9", "--test-share", "nan"), "must be 0 to 1"),
        (("--patients", "1..9", "--validation-share", "20"), "must be 0 to 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(tmp_path, monkeypatch, capsys, options, reason):
    with pytest.raises(SystemExit):
        run(monkeypatch, "spider", *options, "-o", tmp_path / "split.json")
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "split.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "make_splits"),
        ("[", "no split"),
        ("[1]", "no split"),
        (json.dumps({"train": ["a"], "test": ["a"]}), "twice"),
    ],
)
def test_what_is_no_split_is_refused(tmp_path, text, reason):
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_split(path)


def test_the_script_refuses_a_patient_that_the_data_set_does_not_have(tmp_path, monkeypatch, capsys):
    folder = bids(tmp_path / "data", ("amu01", "ucl02"))
    with pytest.raises(SystemExit):
        run(monkeypatch, "spine_generic", folder, "-o", tmp_path / "split.json", "--test", "ucl02", "ucl2")
    assert "no such patients in the data set: " in capsys.readouterr().err
    assert not (tmp_path / "split.json").exists()
