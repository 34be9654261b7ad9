"""The overview's labels: one for each lesion, in order, without overlap, as near to it as can be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinemets.reporting import overview
from spinemets.reporting.overview import _spread, draw_overview, midline_plane
from spinemets.reporting.scene import make_scene

STEP, HEIGHT = 19, 900


@pytest.fixture
def labels(monkeypatch):
    """The texts beside the picture and their rows, in the order of writing."""
    found = []

    def record(_image, place, text, *_):
        found.append((text, place[1]))

    monkeypatch.setattr(overview, "draw_text", record)
    return found


def with_lesions(report, count):
    """The report with copies of one lesion, the later the surer, in a picture of a few vertebrae."""
    lesion = report.findings[1].lesion
    copies = tuple(
        replace(report.findings[1], lesion=replace(lesion, number=number, confidence=number / 100))
        for number in range(1, count + 1)
    )
    few = {vertebra.instance for vertebra in report.vertebrae[3:5]}
    segmentation = report.segmentation
    seen = segmentation.vertebrae * sum(segmentation.vertebrae == instance for instance in few)
    anatomy = segmentation.anatomy * (seen > 0)
    part = replace(segmentation, vertebrae=seen, anatomy=anatomy)
    vertebrae = tuple(vertebra for vertebra in report.vertebrae if vertebra.instance in few)
    return make_scene(replace(report, findings=copies, segmentation=part, vertebrae=vertebrae), 0.8)


def test_a_short_picture_makes_room_for_the_labels_of_all_lesions(make_report, labels):
    scene = with_lesions(make_report(series=1), 30)
    assert midline_plane(scene).size[1] < 30 * STEP
    picture = draw_overview(scene)
    assert sorted(int(text.split()[0]) for text, _ in labels) == list(range(1, 31))
    rows = [row for _, row in labels]
    assert all(below - above >= STEP for above, below in pairwise(rows))
    assert rows[-1] < picture.size[1]


def test_where_there_is_not_room_for_all_lesions_the_surest_are_labelled(make_report, labels):
    picture = draw_overview(with_lesions(make_report(series=1), 80))
    assert picture.size[1] < 1000
    *lesions, (rest, last) = labels
    numbers = sorted(int(text.split()[0]) for text, _ in lesions)
    assert numbers == list(range(81 - len(lesions), 81))
    assert rest == f"and {80 - len(lesions)} less sure, see the table"
    assert max(row for _, row in lesions) + STEP <= last < picture.size[1]


def test_labels_are_pooled_about_the_lesions_that_they_belong_to():
    assert _spread([100.0, 100.0, 100.0, 400.0], STEP, HEIGHT) == [81.0, 100.0, 119.0, 400.0]
    assert _spread([0.0, 2.0], STEP, HEIGHT) == [9.5, 28.5]
    assert _spread([], STEP, HEIGHT) == []


@given(st.lists(st.floats(-50, HEIGHT + 50), max_size=HEIGHT // STEP).map(sorted))
def test_labels_stay_in_order_and_inside_without_overlap(wanted):
    rows = _spread(wanted, STEP, HEIGHT)
    assert all(below - above >= STEP - 1e-6 for above, below in pairwise(rows))
    assert all(STEP / 2 <= row <= HEIGHT - STEP / 2 + 1e-6 for row in rows)
