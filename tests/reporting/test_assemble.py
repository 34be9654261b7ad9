from __future__ import annotations

from dataclasses import replace

import pytest

from spinemets.anatomy import VertebralLevel
from spinemets.findings import StudyReport
from spinemets.reporting import build_report
from spinemets.volume import Weighting


def rebuild(report: StudyReport, **changes):
    parts = {
        "study": report.study,
        "segmentation": report.segmentation,
        "vertebrae": report.vertebrae,
        "findings": report.findings,
        "provenance": report.provenance,
    }
    return build_report(**{**parts, **changes})


def test_cautions_of_every_source_are_gathered_once(report):
    series = replace(report.study.volumes[0].series, cautions=("slice 7 was interpolated",))
    volumes = (replace(report.study.volumes[0], series=series), *report.study.volumes[1:])
    study = replace(report.study, volumes=volumes, cautions=("no T1",))
    segmentation = replace(report.segmentation, cautions=("ran on the CPU", "no T1"))
    rebuilt = rebuild(report, study=study, segmentation=segmentation, cautions=["L5 is uncertain"])
    assert rebuilt.cautions == (
        "L5 is uncertain",
        "no T1",
        "series 3 (T2 TSE sag): slice 7 was interpolated",
        "ran on the CPU",
    )


def test_a_report_without_lesions_says_that_this_proves_nothing(report):
    assert any("not proof" in caution for caution in rebuild(report, findings=()).cautions)
    assert not any("not proof" in caution for caution in report.cautions)


def test_a_report_without_vertebrae_says_so(report):
    assert any("No vertebra" in caution for caution in rebuild(report, vertebrae=()).cautions)


def test_a_level_given_twice_is_a_caution(report):
    doubled = (report.vertebrae[0], replace(report.vertebrae[1], level=report.vertebrae[0].level))
    assert any(
        "T11 was given to more than one" in caution for caution in rebuild(report, vertebrae=doubled).cautions
    )


def test_any_iterable_of_findings_becomes_a_tuple_in_its_order(report):
    rebuilt = rebuild(report, findings=iter(report.findings), vertebrae=iter(report.vertebrae))
    assert rebuilt.findings == report.findings
    assert rebuilt.vertebrae == report.vertebrae


def unrecognised(report: StudyReport) -> list[str]:
    return [caution for caution in report.cautions if "no vertebra was recognised" in caution]


def test_spine_beyond_the_recognised_vertebrae_is_a_caution(report):
    # T11, T12 and L1 are 30 mm each, and the canal goes on for 10 mm above them.
    (above,) = unrecognised(rebuild(report, vertebrae=report.vertebrae[3:]))
    assert above.startswith("The image shows about 10 cm of spine above L2 in which no vertebra was ")
    (below,) = unrecognised(rebuild(report, vertebrae=report.vertebrae[:4]))
    assert "cm of spine below L2" in below


def test_a_vertebra_that_the_edge_cuts_is_not_called_missed(report):
    assert not unrecognised(report)
    assert not unrecognised(rebuild(report, vertebrae=report.vertebrae[1:]))


@pytest.mark.parametrize("level", [VertebralLevel.C1, VertebralLevel.C2])
def test_no_vertebra_is_expected_above_c2(report, level):
    highest = replace(report.vertebrae[3], level=level)
    assert not unrecognised(rebuild(report, vertebrae=(highest, *report.vertebrae[4:])))


@pytest.mark.parametrize(
    ("weighting", "words"),
    [
        (Weighting.UNKNOWN, "its weighting was not recognised, so the networks were told no weighting"),
        (Weighting.DIXON_IN_PHASE, "the networks know no Dixon-in-phase weighting"),
        (Weighting.DIXON_WATER, ""),
        (Weighting.T2, ""),
    ],
)
def test_a_series_whose_weighting_the_networks_were_not_told_is_a_caution(report, weighting, words):
    first, *others = report.study.volumes
    told = replace(first, series=replace(first.series, weighting=weighting))
    rebuilt = rebuild(report, study=replace(report.study, volumes=(told, *others)))
    cautions = [caution for caution in rebuilt.cautions if "were told" in caution]
    assert len(cautions) == bool(words)
    assert all(caution.startswith("series 3 (T2 TSE sag): ") and words in caution for caution in cautions)


def test_a_study_of_t2_alone_says_that_more_is_missed_there(report):
    def of(*weightings: Weighting) -> StudyReport:
        volume = report.study.volumes[0]
        series = [replace(volume.series, weighting=weighting) for weighting in weightings]
        volumes = tuple(replace(volume, series=one) for one in series)
        return rebuild(report, study=replace(report.study, volumes=volumes))

    def says(made: StudyReport) -> bool:
        return any("T2 without fat suppression is all" in caution for caution in made.cautions)

    assert says(of(Weighting.T2))
    assert says(of(Weighting.T2, Weighting.T2))
    assert not any(says(of(Weighting.T2, other)) for other in (Weighting.T1, Weighting.T2_FS))
    assert not says(of(Weighting.T2_FS))
