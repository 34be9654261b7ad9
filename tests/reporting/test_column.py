from __future__ import annotations

import itertools
from dataclasses import replace

from spinemets.anatomy import VertebralLevel
from spinemets.reporting import build_report
from spinemets.reporting.column import column_map
from spinemets.reporting.document import report_document


def map_of(report):
    document = report_document(report)
    return column_map(document.levels, document.findings)


def test_the_map_runs_from_c1_to_s5_without_overlap(report):
    rows = map_of(report).rows
    assert (rows[0].level, rows[-1].level, len(rows)) == ("C1", "S5", 29)
    assert all(lower.y >= upper.y + upper.height for upper, lower in itertools.pairwise(rows))


def test_levels_are_absent_certain_or_uncertain(report):
    states = {row.level: row.state for row in map_of(report).rows}
    assert (states["C7"], states["L2"], states["L5"]) == ("absent", "certain", "uncertain")
    assert [row.level for row in map_of(report).rows if row.cut_off] == ["S1"]


def test_t13_is_shown_only_where_it_is(report):
    assert "T13" not in [row.level for row in map_of(report).rows]
    extra = (replace(report.vertebrae[1], level=VertebralLevel.T13), *report.vertebrae[2:])
    with_t13 = build_report(report.study, report.segmentation, extra, (), report.provenance)
    levels = [row.level for row in map_of(with_t13).rows]
    assert levels[levels.index("T13") - 1 : levels.index("T13") + 2] == ["T12", "T13", "L1"]


def test_every_lesion_has_a_dot_at_its_level_and_none_hides_another(report):
    column = map_of(report)
    middles = {row.level: row.y + row.height / 2 for row in column.rows}
    assert [dot.y for dot in column.dots] == [middles[level] for level in ("T12", "L2", "L3", "L5")]
    shared = tuple(
        replace(finding, main_level=VertebralLevel.L2, levels=(VertebralLevel.L2,))
        for finding in report.findings
    )
    crowded = map_of(
        build_report(report.study, report.segmentation, report.vertebrae, shared, report.provenance)
    )
    places = sorted(dot.x for dot in crowded.dots)
    assert all(after - before >= 20 for before, after in itertools.pairwise(places))
    assert crowded.width > places[-1] + 10


def test_a_crowded_level_counts_its_last_lesions_in_one_dot(report):
    first = report.findings[0]
    many = tuple(
        replace(
            first,
            lesion=replace(first.lesion, number=number),
            main_level=VertebralLevel.L2,
            levels=(VertebralLevel.L2,),
        )
        for number in range(1, 10)
    )
    column = map_of(
        build_report(report.study, report.segmentation, report.vertebrae, many, report.provenance)
    )
    assert [dot.label for dot in column.dots] == ["1", "2", "3", "+6"]
    assert column.dots[-1].lesion == 4
    assert column.dots[-1].description == "lesions 4, 5, 6, 7, 8, 9"
    assert column.width < 220
