"""The rule by which lesions count as found, missed or made up, case by case."""

import numpy as np
import pytest

from spinemets.anatomy import Compartment
from spinemets.evaluation.lesions import (
    LesionTruth,
    false_positives_per_exam,
    match_lesions,
    sensitivity,
    size_group,
)


def line(**lesions):
    """A row of 100 voxels; each lesion is a number and the voxels from-to it takes, as in n1=(0, 10)."""
    labels = np.zeros((100, 1, 1), np.uint8)
    for name, (start, end) in lesions.items():
        labels[start:end] = int(name[1:])
    return labels


def match(predicted, truth, confidences=None, known=None, study="p"):
    return match_lesions(
        (study, study),
        predicted,
        truth,
        voxel_volume_mm3=2.0,
        confidences=confidences or {},
        known=known or {},
    )


def test_a_lesion_is_found_at_an_intersection_over_union_of_a_tenth():
    truth = line(n1=(0, 10))
    assert match(line(n1=(9, 10)), truth).lesions[0].found_by == 1
    assert match(line(n1=(9, 11)), truth).lesions[0].found_by is None


def test_a_prediction_without_a_tenth_of_it_inside_a_lesion_is_made_up():
    truth = line(n1=(0, 10))
    assert match(line(n1=(9, 19)), truth).false_positive_scores == ()
    assert match(line(n1=(9, 20)), truth).false_positive_scores == (1.0,)
    assert match(line(n1=(50, 60)), truth).false_positive_scores == (1.0,)


def test_a_prediction_of_everything_finds_nothing():
    exam = match(line(n1=(0, 100)), line(n1=(40, 45)))
    assert exam.lesions[0].found_by is None
    assert exam.false_positive_scores == (1.0,)


def test_a_fragment_inside_a_lesion_is_neither_found_nor_made_up():
    exam = match(line(n1=(0, 2)), line(n1=(0, 30)))
    assert exam.lesions[0].found_by is None
    assert exam.false_positive_scores == ()


def test_what_is_unknown_is_neither_missed_nor_made_up():
    truth = line(n1=(0, 10), n255=(30, 60))
    exam = match(line(n1=(0, 10), n2=(40, 50), n3=(70, 80)), truth, confidences={1: 0.9, 2: 0.8, 3: 0.7})
    assert [(lesion.number, lesion.found_by) for lesion in exam.lesions] == [(1, 1)]
    assert exam.false_positive_scores == (0.7,)


def test_a_finding_that_reaches_into_what_is_unknown_still_finds_its_lesion():
    # A rim that readers left open around the lesion, and a finding that takes most of it.
    truth = line(n255=(10, 50), n1=(24, 36))
    exam = match(line(n3=(11, 49)), truth, {3: 0.8})
    assert [(lesion.number, lesion.found_by) for lesion in exam.lesions] == [(1, 3)]
    assert exam.false_positive_scores == ()


def test_the_255th_lesion_is_one_where_it_is_known_as_such():
    exam = match(line(), line(n255=(30, 60)), known={255: LesionTruth()})
    assert [lesion.number for lesion in exam.lesions] == [255]


def test_one_prediction_finds_two_lesions_that_it_joins():
    exam = match(line(n4=(0, 20)), line(n1=(0, 9), n2=(11, 20)), {4: 0.7})
    assert [(lesion.found_by, lesion.score) for lesion in exam.lesions] == [(4, 0.7), (4, 0.7)]


def test_the_most_confident_of_several_predictions_counts():
    exam = match(line(n1=(0, 5), n2=(5, 10)), line(n7=(0, 10)), {1: 0.6, 2: 0.9})
    lesion = exam.lesions[0]
    assert (lesion.number, lesion.found_by, lesion.score, lesion.volume_mm3) == (7, 2, 0.9, 20.0)


def test_without_lesions_in_either_there_is_nothing_to_report():
    exam = match(line(), line())
    assert exam.lesions == ()
    assert exam.false_positive_scores == ()


def test_sensitivity_and_false_positives_depend_on_the_threshold_and_the_selection():
    known = {
        1: LesionTruth(compartment=Compartment.EXTRADURAL),
        2: LesionTruth(compartment=Compartment.INTRAMEDULLARY),
    }
    truth = line(n1=(0, 10), n2=(20, 30))
    exams = [
        match(line(n1=(0, 10), n2=(60, 70)), truth, {1: 0.8, 2: 0.4}, known),
        match(line(n1=(20, 30)), truth, {1: 0.5}, known),
    ]
    assert sensitivity(exams) == 0.5
    assert sensitivity(exams, 0.8) == 0.25
    assert sensitivity(exams, select=lambda one: one.truth.compartment is Compartment.INTRAMEDULLARY) == 0.5
    assert sensitivity(exams, select=lambda one: one.volume_mm3 > 1e6) is None
    assert false_positives_per_exam(exams) == 0.5
    assert false_positives_per_exam(exams, 0.5) == 0.0
    with pytest.raises(ValueError, match="no exams"):
        false_positives_per_exam([])


def test_sizes_are_grouped_at_a_tenth_and_one_millilitre():
    assert [size_group(v) for v in (99.9, 100.0, 999.9, 1000.0)] == [
        "< 0.1 mL",
        "0.1-1 mL",
        "0.1-1 mL",
        ">= 1 mL",
    ]
