"""Names of vertebrae against a truth of known places."""

import pytest

from spinemets.anatomy import VertebralLevel as Level
from spinemets.evaluation.levels import identification_rates, match_levels, studies_all_right

TRUTH = {Level.L5: (0.0, 0.0, 0.0), Level.L4: (0.0, 0.0, 35.0), Level.L3: (0.0, 0.0, 70.0)}


def test_right_names_near_the_truth_are_right():
    outcomes = match_levels("a", TRUTH, {level: (1.0, 2.0, z + 3) for level, (_, _, z) in TRUTH.items()})
    assert [outcome.is_right for outcome in outcomes] == [True] * 3
    assert [outcome.truth for outcome in outcomes] == [Level.L3, Level.L4, Level.L5]
    assert outcomes[0].field_of_view == "L3-L5"


def test_names_shifted_by_one_vertebra_are_all_wrong():
    predicted = {Level.L4: TRUTH[Level.L5], Level.L3: TRUTH[Level.L4], Level.L2: TRUTH[Level.L3]}
    outcomes = match_levels("a", TRUTH, predicted)
    assert not any(outcome.is_right for outcome in outcomes)
    assert [outcome.predicted for outcome in outcomes] == [Level.L2, Level.L3, Level.L4]


def test_a_vertebra_further_than_20_mm_is_not_found():
    outcomes = match_levels("a", {Level.L5: (0.0, 0.0, 0.0)}, {Level.L5: (0.0, 0.0, 20.1)})
    assert outcomes[0].predicted is None
    assert match_levels("a", {Level.L5: (0.0, 0.0, 0.0)}, {Level.L5: (0.0, 0.0, 20.0)})[0].is_right


def test_without_any_prediction_every_vertebra_is_missed():
    assert [outcome.predicted for outcome in match_levels("a", TRUTH, {})] == [None] * 3


def test_rates_are_grouped_and_a_study_counts_only_where_every_level_is_right():
    thorax = {Level.T12: (0.0, 0.0, 0.0), Level.L1: (0.0, 0.0, -30.0)}
    wrong = {Level.T12: (0.0, 0.0, 0.0), Level.L2: (0.0, 0.0, -30.0)}
    outcomes = match_levels("a", TRUTH, TRUTH) + match_levels("b", thorax, wrong)
    by_region = {
        row.group: (row.right, row.total)
        for row in identification_rates(outcomes, lambda o: o.truth.region.value)
    }
    assert by_region == {"lumbar": (3, 4), "thoracic": (1, 1)}
    assert identification_rates(outcomes)[0].rate == pytest.approx(4 / 5)
    by_view = {row.group: row.rate for row in identification_rates(outcomes, lambda o: o.field_of_view)}
    assert by_view == {"L3-L5": 1.0, "T12-L1": 0.5}
    assert (studies_all_right(outcomes).right, studies_all_right(outcomes).total) == (1, 2)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="no vertebrae"):
        studies_all_right([])
