"""Which studies a batch is made of, whatever their names, their places, and the state of their files."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_files import noise, write_classic
from spinemets.batch import Shard, conceal, plan_batch, stamp_of
from spinemets.batch.privacy import note_names
from spinemets.batch_command import write_manifest
from spinemets.config import DetectionConfig
from spinemets.errors import (
    ConfigError,
    NoUsableInputError,
    SpinemetsError,
    UnreadableFileError,
    UnsupportedInputError,
)
from spinemets.io import StudyListing
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


@pytest.mark.parametrize("start", ["folder", "input", "manifest"])
def test_name_that_is_no_text_is_a_problem_of_its_own(scans, tmp_path, start):
    folder = tmp_path / "in"
    named = Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller"))
    named.mkdir(parents=True)
    for place in (named / "T2.nii.gz", folder / "bert.nii.gz"):
        shutil.copy(next(scans.glob("*.nii.gz")), place)
    (tmp_path / "list.csv").write_text(f"study,path\nT2,{folder}\nbert,{folder}\n")
    inputs = {
        "folder": [folder],
        "input": [named, folder / "bert.nii.gz"],
        "manifest": [tmp_path / "list.csv"],
    }
    planned = {study.key.casefold(): study for study in plan_batch(inputs[start])}
    assert isinstance(planned["bert"].found, StudyListing)
    problem = next(study for key, study in planned.items() if key != "bert")
    assert isinstance(problem.found, NoUsableInputError if start == "manifest" else UnsupportedInputError)
    # Both can be written down.
    assert (str(problem.found) + str(problem.source)).encode()


def test_row_that_leads_in_a_circle_or_is_too_long_costs_only_itself(scans, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    rows = {"loop": "loop", "long": "x" * 300, "deep": "x/" * 3000, "well": next(scans.glob("*.nii.gz"))}
    manifest = tmp_path / "list.csv"
    manifest.write_text("study,path\n" + "".join(f"{name},{path}\n" for name, path in rows.items()))
    out = tmp_path / "out"
    studies = conceal(plan_batch([manifest]), out)
    assert [isinstance(study.found, StudyListing) for study in studies] == [False, False, False, True]
    note_names(studies, out)
    assert all(stamp_of(study, "0" * 64, DetectionConfig()) for study in studies)
    manifest.write_bytes(b"study,path\nnul,a\0b\n")
    with pytest.raises(ConfigError, match="row 1 holds a character"):
        plan_batch([manifest])


def test_file_of_which_the_disk_does_not_tell_the_size_ends_no_run(scans, monkeypatch):
    study = plan_batch([scans])[0]
    problem = replace(study, found=NoUsableInputError("nothing"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "stat", fail)
    assert stamp_of(problem, "0" * 64, DetectionConfig()).input
