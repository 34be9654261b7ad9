from __future__ import annotations

from dataclasses import replace

from spinemets.findings import StudyReport
from spinemets.reporting import build_report


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
