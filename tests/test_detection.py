"""A detection tells the whole story: every stage runs, in order, and is accounted for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinemets.anatomy import Compartment, VertebralLevel
from spinemets.config import DetectionConfig, LevelConfig, parse_anchor
from spinemets.detection import detect
from spinemets.errors import OutOfMemoryError
from spinemets.reporting.document import report_document
from spinemets.segmented import NetworkExecution
from spinemets.volume import Series, Study, Volume, Weighting
from standins import TruthSegmenter, models_for, without_lesions


@pytest.fixture(scope="module")
def study(truth):
    intensities = np.random.default_rng(0).normal(200, 10, truth.grid.shape).astype(np.float32)
    series = Series("study", "series", number=1, weighting=Weighting.T2)
    return Study("study", (Volume(intensities, truth.grid, series),))


@pytest.fixture(scope="module")
def report(truth, study):
    return detect(study, models_for(TruthSegmenter(truth)), DetectionConfig())


def test_every_lesion_has_its_level_and_compartment(report):
    found = {(finding.main_level, finding.compartment) for finding in report.findings}
    assert found == {
        (VertebralLevel.T11, Compartment.INTRAMEDULLARY),
        (VertebralLevel.L2, Compartment.EXTRADURAL),
    }


def test_lesions_are_numbered_from_head_to_foot(report):
    heights = [finding.lesion.centroid_mm[2] for finding in report.findings]
    assert heights == sorted(heights, reverse=True)
    assert [finding.lesion.number for finding in report.findings] == [1, 2]


def test_provenance_holds_configuration_and_every_stage(report):
    assert report.provenance.model == "stand-in"
    assert report.provenance.configuration == DetectionConfig().model_dump(mode="json")
    assert set(report.provenance.timings_s) == {"segmentation", "levels", "lesions", "classification"}
    assert min(report.provenance.timings_s.values()) >= 0


def test_provenance_says_how_the_networks_really_ran_and_not_what_was_planned(truth, study):
    said = ("cuda:0 has no room", "cuda:0 ran out of memory")
    ran = NetworkExecution("cpu", "float32", "parts", passes=2, parts=5, fallbacks=said)
    models = models_for(TruthSegmenter(replace(truth, execution=ran)))
    report = detect(study, models, DetectionConfig())
    found = report_document(report).provenance
    assert (found.device, found.precision, found.strategy) == ("cpu", "float32", "parts")
    assert (found.passes, found.parts, found.fallbacks) == (2, 5, said)


def test_healthy_spine_gives_levels_and_no_finding(truth, study, report):
    healthy = detect(study, models_for(TruthSegmenter(without_lesions(truth))), DetectionConfig())
    assert healthy.findings == ()
    assert [v.level for v in healthy.vertebrae] == [v.level for v in report.vertebrae]


def test_uncertain_numbering_reaches_the_reports_cautions(truth, study):
    from spinemets.levels import level_cautions

    sure_of_nothing = DetectionConfig(levels=LevelConfig(review_confidence=1.0))
    report = detect(study, models_for(TruthSegmenter(truth)), sure_of_nothing)
    expected = level_cautions(report.vertebrae, sure_of_nothing.levels)
    assert expected
    assert set(expected) <= set(report.cautions)


def test_that_no_vertebra_was_found_is_one_caution(truth, study):
    nothing = replace(
        without_lesions(truth),
        anatomy=np.zeros_like(truth.anatomy),
        vertebrae=np.zeros_like(truth.vertebrae),
        evidence=(),
    )
    report = detect(study, models_for(TruthSegmenter(nothing)), DetectionConfig())
    assert sum("No vertebra" in caution for caution in report.cautions) == 1


def test_anchor_reaches_the_numbering(truth, study):
    config = DetectionConfig(levels=LevelConfig(anchors=(parse_anchor("L4=lowest"),)))
    report = detect(study, models_for(TruthSegmenter(truth)), config)
    assert VertebralLevel.L5 not in {vertebra.level for vertebra in report.vertebrae}


def test_caution_of_the_segmentation_reaches_the_report(truth, study):
    doubtful = TruthSegmenter(replace(truth, cautions=("computed in tiles",)))
    assert "computed in tiles" in detect(study, models_for(doubtful), DetectionConfig()).cautions


def test_error_of_a_stage_is_not_swallowed(study):
    class Exhausted:
        def segment(self, _study):
            raise OutOfMemoryError("no room")

    with pytest.raises(OutOfMemoryError, match="no room"):
        detect(study, models_for(Exhausted()), DetectionConfig())
