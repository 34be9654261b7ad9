"""Calibration of lesions' confidence."""

from __future__ import annotations

from dataclasses import replace

import cc3d
import numpy as np
import pytest

import calibrate
from spinemets.confidence import Evidence, confidence
from spinemets.config import LesionConfig
from spinemets.evaluation.lesions import match_lesions
from spinemets.io import write_label_map
from spinemets.training.calibration import (
    Candidate,
    StudyCandidates,
    find_candidates,
    fit_confidence,
    fit_cord,
    operating_points,
)
from spinemets.volume import Grid


def test_candidates_are_told_true_false_or_neither():
    truth = np.zeros((10, 40, 40), dtype=np.int32)
    truth[2:8, 2:14, 2:14], truth[2:8, 20:38, 20:38] = 1, 2
    probability = np.full(truth.shape, 0.01, dtype=np.float32)
    probability[2:8, 2:14, 2:14] = 0.9
    probability[4:6, 22:26, 22:26] = 0.8  # a fragment too small to find lesion 2
    probability[2:8, 2:12, 28:38] = 0.6  # made up
    study = find_candidates(probability, truth, 2.0, 0.4, (20.0, 1000.0))
    assert sorted(c.is_lesion for c in study.candidates) == [False, True]
    assert [None if place is None else study.candidates[place].is_lesion for place in study.found_by] == [
        True,
        None,
    ]


def test_what_is_unknown_makes_no_candidate_a_lesion_and_hides_one_that_mostly_lies_there():
    truth = np.zeros((10, 40, 40), dtype=np.int32)
    truth[2:8, 2:14, 2:14] = 1
    truth[2:8, 20:32, 20:23] = truth[2:8, 20:32, 30:37] = 255
    probability = np.full(truth.shape, 0.01, dtype=np.float32)
    probability[2:8, 2:14, 2:14] = 0.9
    probability[2:8, 20:32, 20:28] = 0.8  # made up, and partly where nothing is known
    probability[2:8, 20:32, 29:37] = 0.7  # mostly there
    study = find_candidates(probability, truth, 2.0, 0.4, (20.0, 1000.0))
    assert sorted(c.is_lesion for c in study.candidates) == [False, True]
    outcome = match_lesions(
        ("", ""),
        np.asarray(cc3d.connected_components(probability > 0.4)),
        truth,
        voxel_volume_mm3=2.0,
        confidences={},
        known={},
    )
    assert len(outcome.false_positive_scores) == 1


def test_a_candidate_knows_whether_it_lies_in_the_cord():
    probability = np.zeros((10, 40, 40), dtype=np.float32)
    probability[2:8, 2:12, 2:12] = probability[2:8, 2:12, 28:38] = 0.8
    cord = np.zeros(probability.shape, dtype=np.bool_)
    cord[:, :14, :14] = True
    study = find_candidates(probability, np.zeros(probability.shape, np.int32), 2.0, 0.4, cord=cord)
    assert sorted(candidate.evidence.in_cord for candidate in study.candidates) == [False, True]


def test_the_cord_s_weight_is_found_and_the_others_stay():
    true = weighted(-0.5, 2.0, 0.6, 1.0).model_copy(update={"confidence_cord": 1.5})
    ill = [
        StudyCandidates((Candidate(replace(c.evidence, in_cord=True), c.is_lesion),), s.found_by)
        for s in studies(3000, weighted(1.0, 2.0, 0.6, 1.0))
        for c in s.candidates
    ]
    fitted = fit_cord(ill, true.model_copy(update={"confidence_cord": 0.0}))
    assert fitted.confidence_cord == pytest.approx(1.5, abs=0.2)
    assert fitted.model_copy(update={"confidence_cord": 1.5}) == true
    with pytest.raises(ValueError, match="in the cord"):
        fit_cord(studies(100, true), true)


def studies(n: int, config: LesionConfig) -> list[StudyCandidates]:
    """Candidates that are lesions as often as the configuration says."""
    rng = np.random.default_rng(5)
    result = []
    for log_odds, volume in zip(rng.normal(0, 1.5, n), np.exp(rng.normal(6, 1.5, n)), strict=True):
        evidence = Evidence(float(log_odds), float(volume), int(rng.integers(1, 4)))
        real = bool(rng.random() < confidence(evidence, config))
        result.append(StudyCandidates((Candidate(evidence, real),), (0,) if real else ()))
    return result


def weighted(shift: float, evidence: float, size: float, series: float) -> LesionConfig:
    return LesionConfig(
        confidence_shift=shift,
        confidence_evidence=evidence,
        confidence_size=size,
        confidence_series=series,
    )


def test_the_weights_that_made_the_outcomes_are_found():
    fitted = fit_confidence(studies(6000, weighted(-0.5, 2.0, 0.6, 1.0)), LesionConfig(threshold=0.3))
    assert fitted.confidence_shift == pytest.approx(-0.5, abs=0.25)
    assert fitted.confidence_evidence == pytest.approx(2.0, rel=0.15)
    assert fitted.confidence_size == pytest.approx(0.6, rel=0.15)
    assert fitted.confidence_series == pytest.approx(1.0, rel=0.3)
    assert fitted.threshold == 0.3


def test_fitted_confidences_come_true():
    made = studies(3000, weighted(1.0, 0.5, 0.3, 0.0))
    config = fit_confidence(made, LesionConfig())
    candidates = [c for study in made for c in study.candidates]
    sure = [c for c in candidates if confidence(c.evidence, config) > 0.8]
    promised = np.mean([confidence(c.evidence, config) for c in sure])
    assert np.mean([c.is_lesion for c in sure]) == pytest.approx(promised, abs=0.05)


def test_where_every_study_has_one_series_their_number_weighs_nothing():
    made = [
        StudyCandidates(
            tuple(
                Candidate(Evidence(c.evidence.log_odds, c.evidence.volume_mm3, 1), c.is_lesion)
                for c in s.candidates
            ),
            s.found_by,
        )
        for s in studies(300, weighted(0.0, 1.0, 0.0, 0.0))
    ]
    assert fit_confidence(made, LesionConfig()).confidence_series == pytest.approx(0.0, abs=1e-3)


def test_higher_cuts_find_less_and_make_up_less():
    config = weighted(0.0, 1.0, 0.0, 0.0)
    points = operating_points(studies(300, config), config)
    for name in ("sensitivity", "false_positives_per_exam"):
        values = [getattr(point, name) for point in points]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1]


def test_too_few_candidates_are_refused():
    with pytest.raises(ValueError, match="too few"):
        fit_confidence(studies(5, LesionConfig()), LesionConfig())


@pytest.mark.parametrize("file", ["lesion_probability.nii.gz", "report.json", "anatomy.nii.gz"])
@pytest.mark.parametrize("content", [None, b"", b"[]"])
def test_a_result_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch, capsys, file, content):
    grid = Grid((4, 6, 6), np.diag([4.0, 1.0, 1.0, 1.0]))
    folder = tmp_path / "results" / "a"
    for kind in ("lesion_probability", "anatomy"):
        write_label_map(folder / f"{kind}.nii.gz", np.ones(grid.shape, np.uint8), grid, {1: "any"})
    (folder / "report.json").write_text('{"study": {"series": [{}, {}]}}')
    (tmp_path / "truths").mkdir()
    if content is not None:
        (folder / file).write_bytes(content)
    elif file != "lesion_probability.nii.gz":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:60])
    monkeypatch.setattr(
        "sys.argv", ["calibrate.py", "lesions", *map(str, (folder.parent, tmp_path / "truths"))]
    )
    assert calibrate.main() == 2
    assert file in capsys.readouterr().err


def test_a_folder_of_truths_that_is_not_there_is_refused_not_taken_for_healthy(tmp_path):
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1/lesion_probability.nii.gz").touch()
    with pytest.raises(ValueError, match="trut: no such folder"):
        calibrate._read_all(tmp_path, tmp_path / "trut")


def test_results_called_by_hashes_are_refused_beside_truths_not_taken_for_healthy(tmp_path):
    for name in ("study-460fc331d6a5d1d8", "a_1"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "lesion_probability.nii.gz").touch()
    (tmp_path / "truths").mkdir()
    (tmp_path / "truths/a_1_lesions.nii.gz").touch()
    with pytest.raises(ValueError, match=r"study-460fc331d6a5d1d8 is called by a hash.*--identifiers keep"):
        calibrate._read_all(tmp_path / "results", tmp_path / "truths")


def test_truths_without_a_result_are_told(tmp_path, capsys):
    result, known = tmp_path / "a_1/lesion_probability.nii.gz", {"a": tmp_path / "a", "a_1": tmp_path / "a_1"}
    assert calibrate._truths_of([result], known) == {result: tmp_path / "a_1"}
    assert capsys.readouterr().err == "calibrate: no result is called as the truth of a\n"


@pytest.mark.parametrize(
    ("results", "truths", "ill"),
    [
        (["studies"], ["phantom0"], ["studies"]),
        (["studies", "a_1"], ["phantom0"], []),
        (["a_1", "a_10", "b_1"], ["a_1", "a_10"], ["a_1", "a_10"]),
    ],
)
def test_a_result_has_the_truth_of_its_name_and_a_single_one_that_of_a_single_truth(
    tmp_path, results, truths, ill
):
    grid = Grid((4, 6, 6), np.diag([4.0, 1.0, 1.0, 1.0]))
    for place, name in enumerate(results, start=1):
        folder = tmp_path / "results" / name
        nothing = np.zeros(grid.shape, dtype=np.uint8)
        nothing[0, 0, :place] = 1
        for kind in ("lesion_probability", "anatomy"):
            write_label_map(folder / f"{kind}.nii.gz", nothing, grid, {1: "any"})
        (folder / "report.json").write_text('{"study": {"series": [{}, {}]}}')
    lesion = np.ones(grid.shape, dtype=np.uint8)
    for name in truths:
        write_label_map(tmp_path / "truths" / f"{name}_lesions.nii.gz", lesion, grid, {1: "lesion 1"})
    read = calibrate._read_all(tmp_path / "results", tmp_path / "truths")
    assert {results[int(one.probability.sum()) - 1] for one in read if one.truth.any()} == set(ill)
    assert (len(read), {one.series for one in read}) == (len(results), {2})
