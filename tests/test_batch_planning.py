"""Which studies a batch is made of, whatever their names, their places, and the state of their files."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dicom_files import noise, write_classic
from spinemets.batch import Shard, plan_batch
from spinemets.batch_command import write_manifest
from spinemets.errors import ConfigError, NoUsableInputError, SpinemetsError, UnreadableFileError
from standins import lumbar_truth, write_scan

LONG = "a study whose name says more than any folder can, since somebody thought that names are free: "


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    source = write_scan(folder / "a.nii.gz", lumbar_truth())
    (folder / "b.nii.gz").hardlink_to(source)
    return folder


def write_series(folder: Path, study: str, number: int = 1) -> None:
    uids = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.{number}"}
    tags = {**uids, "StudyDescription": f"Spine {study[-1]}"}
    for path in write_classic(folder, noise(), tags=tags):
        path.rename(folder / f"{study}-{number}-{path.name}")


@pytest.fixture
def flat(tmp_path):
    """Two patients, each with two studies in one folder."""
    for patient in (1, 2):
        for study in (1, 2):
            write_series(tmp_path / f"in/PAT{patient}/DICOM", f"1.2.{patient}.{study}")
    return tmp_path / "in"


@pytest.fixture
def nested(tmp_path):
    """A patient whose one study lies in folders between which lies that of another."""
    for number, (folder, study) in enumerate((("T1", "1.2.1"), ("T2", "1.2.1"), ("STIR", "1.2.2"))):
        write_series(tmp_path / "in/PAT1" / folder, study, number)
    return tmp_path / "in"


@pytest.fixture
def zipped(flat, tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(flat.rglob("*.dcm")):
            archive.write(file, file.relative_to(flat))
    return path


@pytest.mark.parametrize("layout", ["flat", "nested", "zipped"])
@pytest.mark.parametrize("identifiers", ["hash", "keep"])
def test_every_study_of_a_written_manifest_is_found_again_in_its_shard(
    request, layout, identifiers, tmp_path
):
    planned = plan_batch([request.getfixturevalue(layout)])
    write_manifest(tmp_path / "list.csv", planned, tmp_path / "out", identifiers)
    text = (tmp_path / "list.csv").read_text()
    assert not any(study.found.study_uid in text for study in planned)
    again = [study for i in (1, 2, 3) for study in plan_batch([tmp_path / "list.csv"], shard=Shard(i, 3))]
    assert all(not isinstance(study.found, SpinemetsError) for study in again)
    found = Counter(study.found.study_uid for study in again)
    assert found == Counter(study.found.study_uid for study in planned)
    assert set(found.values()) == {1}


def test_row_of_a_study_that_is_gone_takes_no_other_one(flat, tmp_path):
    planned = plan_batch([flat])
    write_manifest(tmp_path / "list.csv", planned, tmp_path / "out", "keep")
    for path in (flat / "PAT1/DICOM").glob("1.2.1.1-*"):
        path.unlink()
    states = {
        study.key: isinstance(study.found, NoUsableInputError)
        for study in plan_batch([tmp_path / "list.csv"])
    }
    gone = next(study.key for study in planned if study.found.study_uid == "1.2.1.1")
    assert states == {study.key: study.key == gone for study in planned}


def test_row_may_name_a_study_by_its_uid(flat, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"study,path,study_in_path\nmine,{flat / 'PAT2/DICOM'},1.2.2.2\n")
    (study,) = plan_batch([path])
    assert study.found.study_uid == "1.2.2.2"


def test_name_that_two_manifests_share_costs_the_second_row_only(scans, tmp_path):
    for number, scan in enumerate(("a", "b"), start=1):
        (tmp_path / f"m{number}.csv").write_text(f"study,path\ncase01,{scans / scan}.nii.gz\n")
    one, two = plan_batch([tmp_path / "m1.csv", tmp_path / "m2.csv"])
    assert one.key == "case01"
    assert one.key.casefold() != two.key.casefold()
    assert isinstance(two.found, ConfigError)
    assert "m2.csv: row 1 names the study 'case01' a second time" in str(two.found)


@pytest.mark.parametrize(
    "names",
    [
        ("Иванов", "Петров", "study"),
        ("a b", "a_b", "a/b"),
        (f"{LONG}1", f"{LONG}2"),
        ("Müller", "Møller", "M_ller"),
        ("a", "a-row3", "A", "b"),
    ],
)
def test_different_names_get_different_folders_in_every_shard(scans, tmp_path, names):
    lines = [f'"{name}",{scans / "a.nii.gz"}\n' for name in names]
    (tmp_path / "list.csv").write_text("study,path\n" + "".join(lines), encoding="utf-8")
    planned = plan_batch([tmp_path / "list.csv"])
    assert len({study.key.casefold() for study in planned}) == len(names)
    repeated = len(names) - len({name.casefold() for name in names})
    assert sum(isinstance(study.found, SpinemetsError) for study in planned) == repeated
    parts = [study.key for i in (1, 2) for study in plan_batch([tmp_path / "list.csv"], shard=Shard(i, 2))]
    assert sorted(parts) == sorted(study.key for study in planned)


def test_plain_names_stay_as_they_are_given(scans, tmp_path):
    (tmp_path / "list.csv").write_text(f"study,path\nПетров,{scans}/a.nii.gz\ncase 7,{scans}/a.nii.gz\n")
    petrov, case = plan_batch([tmp_path / "list.csv"])
    assert petrov.key.startswith("study-")
    assert case.key == "case_7"


@pytest.mark.parametrize("start", range(6))
def test_damaged_archive_is_a_problem_of_its_own(zipped, scans, tmp_path, start):
    content = bytearray(zipped.read_bytes())
    place = len(content) * start // 7 + 60
    content[place : place + 40] = np.random.default_rng(start).bytes(40)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content)
    planned = plan_batch([broken, scans / "a.nii.gz"])
    assert planned[-1].key == "a"
    assert not isinstance(planned[-1].found, SpinemetsError)


def test_archive_with_a_member_without_a_name_is_a_problem_of_its_own(scans, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("."), b"x")
    odd, scan = plan_batch([tmp_path / "odd.zip", scans / "a.nii.gz"])
    assert "has no name" in str(odd.found)
    assert not isinstance(scan.found, SpinemetsError)


def test_input_that_fails_unexpectedly_is_a_problem_of_its_own(scans, monkeypatch):
    from spinemets.io import discovery

    genuine = discovery.is_image_file

    def faulty(path):
        if path.name == "b.nii.gz":
            raise ZeroDivisionError("Jane Doe")
        return genuine(path)

    monkeypatch.setattr(discovery, "is_image_file", faulty)
    bad, good = plan_batch([scans / "b.nii.gz", scans / "a.nii.gz"])
    assert isinstance(bad.found, UnreadableFileError)
    assert "unexpected ZeroDivisionError" in str(bad.found)
    assert "Jane" not in str(bad.found)
    assert not isinstance(good.found, SpinemetsError)


def test_archives_take_no_room_once_they_are_planned(zipped, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    planned = plan_batch([zipped, zipped.parent / "absent.zip"])
    assert [isinstance(study.found, SpinemetsError) for study in planned] == [False] * 4 + [True]
    assert list((tmp_path / "temporary").iterdir()) == []
