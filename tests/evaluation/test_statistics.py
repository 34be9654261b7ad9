"""Curves, intervals, calibration and confusion with values worked out by hand."""

import time

import numpy as np
import pytest

from spinemets.evaluation.lesions import (
    ExamOutcome,
    LesionOutcome,
    LesionTruth,
    false_positives_per_exam,
    sensitivity,
)
from spinemets.evaluation.statistics import (
    bootstrap_interval,
    chance_calibration_error,
    confusion_matrix,
    expected_calibration_error,
    froc,
    sensitivity_at,
)


def exam(patient, found_scores, missed=0, made_up=()):
    lesions = [LesionOutcome(i, 500.0, LesionTruth(), i, score) for i, score in enumerate(found_scores, 1)]
    lesions += [LesionOutcome(100 + i, 500.0, LesionTruth(), None, 0.0) for i in range(missed)]
    return ExamOutcome(patient, patient, tuple(lesions), tuple(made_up))


EXAMS = [exam("a", (0.9, 0.5), made_up=(0.7,)), exam("b", (0.6,), missed=1, made_up=(0.5, 0.3))]


def test_froc_goes_through_every_confidence_that_occurs():
    curve = froc(EXAMS)
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.6, 0.5, 0.3]
    assert curve.false_positives_per_exam.tolist() == [0, 0.5, 0.5, 1.0, 1.5]
    assert curve.sensitivities.tolist() == [0.25, 0.25, 0.5, 0.75, 0.75]


@pytest.mark.parametrize("seed", range(20))
def test_every_point_of_froc_is_what_its_threshold_gives(seed):
    rng = np.random.default_rng(seed)
    # Scores of one decimal, so that many are equal.
    exams = [
        exam(
            str(i),
            rng.random(rng.integers(0, 4)).round(1),
            int(rng.integers(1, 3)),
            rng.random(i % 4).round(1),
        )
        for i in range(6)
    ]
    curve = froc(exams)
    assert curve.sensitivities.tolist() == [sensitivity(exams, one) for one in curve.thresholds]
    rates = [false_positives_per_exam(exams, one) for one in curve.thresholds]
    assert curve.false_positives_per_exam.tolist() == rates


def test_the_time_of_froc_grows_with_the_exams_and_not_with_their_square():
    rng = np.random.default_rng(0)
    exams = [exam(str(i), rng.random(3), made_up=rng.random(2)) for i in range(2000)]
    start = time.process_time()
    assert froc(exams).thresholds.size == 10_000
    assert time.process_time() - start < 5.0


def test_sensitivity_at_a_rate_is_the_best_that_the_rate_affords():
    curve = froc(EXAMS)
    assert [sensitivity_at(curve, rate) for rate in (0.0, 0.4, 0.5, 1.0, 8.0)] == [
        0.25,
        0.25,
        0.5,
        0.75,
        0.75,
    ]


def test_a_missed_lesion_is_not_found_at_any_threshold():
    assert froc([exam("a", (), missed=2)]).sensitivities.tolist() == [0.0]


def test_froc_without_lesions_is_refused():
    with pytest.raises(ValueError, match="no true lesions"):
        froc([exam("a", ())])


def test_the_bootstrap_draws_patients_and_not_exams():
    same = [exam(name, scores, missed) for name in "ab" for scores, missed in (((0.9,), 0), ((), 1))]
    apart = [exam("a", (0.9,)), exam("b", (), missed=1)]
    assert bootstrap_interval(same, sensitivity, repeats=50) == (0.5, 0.5)
    assert bootstrap_interval(apart, sensitivity, repeats=50) == (0.0, 1.0)


def test_the_bootstrap_repeats_and_narrows_with_more_patients():
    few = [exam(str(i), (0.9,) if i % 2 else (), missed=1 - i % 2) for i in range(6)]
    many = [exam(str(i), (0.9,) if i % 2 else (), missed=1 - i % 2) for i in range(200)]
    low, high = bootstrap_interval(few, sensitivity, repeats=200)
    assert bootstrap_interval(few, sensitivity, repeats=200) == (low, high)
    narrow_low, narrow_high = bootstrap_interval(many, sensitivity, repeats=200)
    assert low < narrow_low < 0.5 < narrow_high < high


def test_one_patient_alone_has_no_interval():
    alone = [exam("a", (0.9,)), exam("a", (), missed=1)]
    assert bootstrap_interval(alone, sensitivity) is None
    assert bootstrap_interval([*alone, exam("b", ())], sensitivity) is None
    assert bootstrap_interval([*alone, exam("b", (), missed=1)], sensitivity) == (0.0, 0.5)


def test_the_bootstrap_of_nothing_has_no_interval():
    assert bootstrap_interval([exam("a", ())], sensitivity, repeats=5) is None
    assert bootstrap_interval([], sensitivity) is None


def test_calibration_error_is_zero_where_confidence_is_accuracy():
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0.0)
    assert expected_calibration_error([1.0, 1.0], [False, False]) == 1.0
    assert expected_calibration_error([], []) is None


def test_calibration_error_weighs_bins_by_their_count():
    # Bin 0.9-1: three of confidence 0.95, two right, gap |2.85 - 2|; bin 0.2-0.3: one of 0.25, wrong.
    confidences, right = [0.95, 0.95, 0.95, 0.25], [True, True, False, False]
    assert expected_calibration_error(confidences, right) == pytest.approx((0.85 + 0.25) / 4)


def test_confusion_has_a_row_for_what_it_is_and_a_column_for_what_it_was_called():
    counts = confusion_matrix(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="do not fit"):
        confusion_matrix(["a"], [], ["a"])


def test_the_error_by_chance_falls_with_the_number_of_calls():
    few, many = (chance_calibration_error(np.linspace(0.05, 0.95, n)) for n in (50, 5000))
    assert few > 5 * many > 0
    assert chance_calibration_error([]) is None
    assert chance_calibration_error([1.0] * 9) == 0.0


def test_true_confidences_have_the_error_of_chance():
    rng = np.random.default_rng(1)
    confidence = rng.random(300)
    errors = [expected_calibration_error(confidence, rng.random(300) < confidence) for _ in range(50)]
    assert np.mean(errors) == pytest.approx(chance_calibration_error(confidence), rel=0.1)
