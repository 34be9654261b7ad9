"""By patient, by size, by exam without lesions, and whether a confidence can be trusted; and the plots."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from spinemets.anatomy import Compartment, SpineRegion, Structure
from spinemets.anatomy import VertebralLevel as Level
from spinemets.evaluation.lesions import ExamOutcome, LesionOutcome, LesionTruth, diameter_group
from spinemets.evaluation.levels import LevelOutcome
from spinemets.evaluation.plots import _froc_figure, save_plots
from spinemets.evaluation.results import ExamScore, summarise
from spinemets.evaluation.statistics import reliability, wilson_interval

KINDS = list(Compartment)


def sphere_mm3(diameter_mm):
    return np.pi * diameter_mm**3 / 6


def exam(number, diameters=(), found=True, false=(), review=False):
    """One exam of patient ``number // 2``; its lesions take the compartments in turn."""
    patient, study = f"p{number // 2}", f"s{number}"
    lesions = tuple(
        LesionOutcome(
            place + 1, sphere_mm3(d), LesionTruth(KINDS[place % 3], SpineRegion.LUMBAR),
            place + 1 if found else None, 0.9 if found else 0.0,
        )
        for place, d in enumerate(diameters)
    )  # fmt: skip
    names = [one.truth.compartment.value for one in lesions if found]
    return ExamScore(
        study=study,
        dice={"vertebral_body": 0.9 if number % 2 else 0.8, "cord": None},
        surface_dice={"vertebral_body": 0.95, "cord": None},
        levels=(LevelOutcome(study, "T12-L5", Level.L3, Level.L3 if found else Level.L2),),
        level_calls=((0.95, found),),
        lesions=ExamOutcome(patient, study, lesions, tuple(false)),
        compartment_calls=tuple((name, name) for name in names),
        region_calls=tuple(("lumbar", "lumbar") for _ in names),
        patient=patient,
        compartment_trust=tuple((0.8, True, review, False) for _ in names),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scores():
    """Four patients with two exams each; the last one's exams are healthy."""
    return [
        exam(0, (30.0, 12.0, 6.0)), exam(1, (8.0,), found=False, false=(0.6,)), exam(2, (25.0,)),
        exam(3, (4.0,), found=False), exam(4, (18.0, 9.0)), exam(5, (22.0,), review=True),
        exam(6, false=(0.7, 0.55)), exam(7),
    ]  # fmt: skip


def test_structures_and_sequences_are_told_apart_where_they_are_known(scores):
    assert not {"structures", "sequences", "signals"} & set(summarise(scores))
    in_arches = LesionTruth(KINDS[0], structure=Structure.POSTERIOR_ELEMENTS, signal_ratio=1.4)
    in_bodies = LesionTruth(KINDS[0], structure=Structure.VERTEBRAL_BODY)
    lesions = (
        LesionOutcome(1, 2000.0, in_arches, None, 0.0),
        LesionOutcome(2, 2000.0, in_bodies, 2, 0.9),
        LesionOutcome(3, 500.0, in_bodies, 3, 0.9),
    )
    t1, both = (
        replace(
            scores[0], sequences=name, lesions=ExamOutcome(f"p{name}", f"s{name}", lesions[:count], (0.5,))
        )
        for name, count in (("T1", 1), ("T1 + T2", 3))
    )
    found = summarise([t1, both])
    by_structure = {
        (row["structure"], row["lesions"]): (row["of"], row["found"]) for row in found["structures"]
    }
    assert by_structure["posterior_elements", ">= 1 mL"] == (2, 0.0)
    assert by_structure["vertebral_body", ">= 1 mL"] == (1, 1.0)
    assert by_structure["vertebral_body", "0.1-1 mL"] == (1, 1.0)
    rows = {row["sequences"]: row for row in found["sequences"]}
    assert (rows["T1"][">= 1 mL of"], rows["T1"][">= 1 mL found"]) == (1, 0.0)
    assert (rows["T1 + T2"][">= 1 mL of"], rows["T1 + T2"][">= 1 mL found"]) == (2, 0.5)
    assert rows["T1"]["false positives per exam"] == 1.0
    by_signal = [(row["sequences"], row["signal ratio"], row["of"], row["found"]) for row in found["signals"]]
    assert by_signal == [("T1", "1.3-2", 1, 0.0), ("T1 + T2", "1.3-2", 1, 0.0)]


@pytest.fixture(scope="module")
def tables(scores):
    return summarise(scores)


def row(table, **wanted):
    return next(one for one in table if all(one[key] == value for key, value in wanted.items()))


def test_a_patient_s_exams_are_taken_together(tables):
    first = row(tables["patients"], patient="p0")
    assert (first["exams"], first["lesions"], first["sensitivity"]) == (2, 4, 0.75)
    assert first["mean Dice"] == pytest.approx(0.85)
    assert first["false positives per exam"] == 0.5
    assert row(tables["patients"], patient="p3")["sensitivity"] is None


def test_a_patient_whose_lesions_no_truth_tells_has_no_number_of_them(scores):
    (unknown,) = summarise([replace(scores[0], lesions=None)])["patients"]
    assert (unknown["lesions"], unknown["false positives per exam"]) == (None, None)


def test_false_positives_of_healthy_exams_are_told_apart(tables):
    assert row(tables["lesions"], lesions="false positives per exam")["found"] == pytest.approx(3 / 8)
    healthy = row(tables["lesions"], lesions="false positives per healthy exam")
    assert (healthy["of"], healthy["found"]) == (2, 1.0)


def test_sensitivity_is_given_by_diameter(tables):
    by = {one["diameter"]: (one["of"], one["found"]) for one in tables["diameters"]}
    assert by == {"< 5 mm": (1, 0.0), "5-10 mm": (3, 2 / 3), "10-20 mm": (2, 1.0), ">= 20 mm": (3, 1.0)}
    assert [diameter_group(one) for one in (4.99, 5.0, 19.9, 20.0)] == [
        "< 5 mm",
        "5-10 mm",
        "10-20 mm",
        ">= 20 mm",
    ]


def test_means_have_intervals_over_patients(tables):
    dice = row(tables["means"], figure="vertebral_body Dice")
    assert dice["value"] == pytest.approx(0.85)
    # Every patient has the same mean, so there is nothing to vary.
    assert dice["low"] == pytest.approx(dice["high"])
    levels = row(tables["means"], figure="studies with every level right")
    assert levels["value"] == 0.75
    assert levels["low"] < 0.75 < levels["high"]
    assert not [one for one in tables["means"] if one["figure"].startswith("cord")]


def test_compartments_are_judged_with_and_without_those_flagged(tables):
    clear = row(tables["lesions found"], **{"of lesions found": "compartment right, not flagged for review"})
    flagged = row(tables["lesions found"], **{"of lesions found": "flagged for review"})
    assert (clear["of"], clear["share"]) == (6, 1.0)
    assert flagged["share"] == pytest.approx(1 / 7)
    assert row(tables["lesions found"], **{"of lesions found": "region right"})["of"] == 7


def test_confidence_of_compartments_is_calibrated_too(tables):
    error = row(tables["calibration"], **{"confidence of": "compartments"})
    assert (error["count"], error["expected calibration error"]) == (7, pytest.approx(0.2))


def test_reliability_is_by_filled_bins_alone():
    means, shares, counts = reliability([0.31, 0.39, 0.99, 1.0], [1, 0, 1, 1])
    assert means.tolist() == pytest.approx([0.35, 0.995])
    assert shares.tolist() == [0.5, 1.0]
    assert counts.tolist() == [2, 2]


def test_wilson_intervals_hold_at_the_ends():
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.404, abs=1e-3), pytest.approx(0.596, abs=1e-3))


def test_every_plot_is_drawn_and_shows_something(scores, tmp_path):
    names = {
        "froc",
        "sensitivity_by_diameter",
        "confusion_compartments",
        "confusion_regions",
        "calibration",
        "dice",
    }
    paths = save_plots(scores, tmp_path)
    assert {path.stem for path in paths} == names
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 150
            assert len(picture.getcolors(1 << 20) or [()] * 999) > 20


def test_the_froc_curve_rises_where_a_threshold_says_and_nowhere_else():
    scores = [exam(0, (30.0,), false=(0.95, 0.95)), exam(1, false=(0.95, 0.5)), exam(2)]
    figure = _froc_figure([one.lesions for one in scores])
    (line,) = figure.axes[0].lines
    assert line.get_drawstyle() == "steps-post"
    # At 0.95 there are three false positives in three exams, at 0.9 the lesion for the same price.
    assert line.get_xydata().tolist() == [[0.02, 0.0], [1.0, 1.0], [4 / 3, 1.0], [8.0, 1.0]]


def test_what_was_not_scored_is_not_drawn(tmp_path):
    anatomy = exam(0)
    assert {path.stem for path in save_plots([anatomy], tmp_path)} == {"calibration", "dice"}


def test_one_patient_alone_has_no_interval_in_tables_and_plots(tmp_path):
    alone = [exam(0, (30.0, 12.0)), exam(1, (8.0,), found=False, false=(0.6,))]
    tables = summarise(alone)
    for name in ("means", "lesions", "froc", "diameters"):
        assert {(one["low"], one["high"]) for one in tables[name]} == {(None, None)}, name
    assert "froc" in {path.stem for path in save_plots(alone, tmp_path)}


def test_tables_are_json(tables):
    from spinemets.evaluation.tables import to_json

    assert json.loads(to_json(tables))["patients"][0]["patient"] == "p0"
