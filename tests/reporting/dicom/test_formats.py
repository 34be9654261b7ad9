"""Formats by name, and what becomes of them in a study that was not read from DICOM."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from spinemets.config import FORMATS, ReportConfig, parse_formats
from spinemets.errors import ConfigError
from spinemets.findings import StudyReport
from spinemets.results import write_results
from spinemets.volume import Study


def test_every_format_can_be_named():
    assert parse_formats(",".join(FORMATS)) == FORMATS


def test_order_and_repetition_do_not_matter():
    assert parse_formats(" nifti, json,json ") == ("json", "nifti")


@pytest.mark.parametrize("text", ["", ",", "json,docx", "DICOM"])
def test_unknown_or_no_format_is_refused_with_the_known_ones(text):
    with pytest.raises(ConfigError, match="expected some of json, html"):
        parse_formats(text)


def test_dicom_objects_are_written_beside_the_other_files(case, tmp_path):
    report = case("sagittal", "dicom-seg").report
    write_results(report, tmp_path, ReportConfig(formats=("json", "dicom-seg")))
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    parts = ("levels", "anatomy", "lesions")
    assert names == {"report.json", *(f"dicom/{part}.seg.dcm" for part in parts)}


def test_default_formats_hold_no_patient():
    assert not [name for name in ReportConfig().formats if name.startswith("dicom")]


def test_study_of_nifti_files_gets_a_warning_and_no_dicom_objects(case, tmp_path, caplog):
    report = _as_if_from(case("sagittal", "dicom-seg").report, Path("scan.nii.gz"))
    with caplog.at_level(logging.WARNING):
        write_results(report, tmp_path, ReportConfig(formats=("json", "dicom-seg")))
    assert "not read from DICOM" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def _as_if_from(report: StudyReport, path: Path) -> StudyReport:
    volume = report.study.reference
    volume = replace(volume, series=replace(volume.series, files=(path,)))
    return replace(report, study=Study(report.study.uid, (volume,)))
