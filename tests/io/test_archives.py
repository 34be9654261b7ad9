"""Studies in .zip archives, sound, damaged and unsafe."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from spinemets.config import ReadingConfig
from spinemets.errors import NoUsableInputError, UnreadableFileError, UnsupportedInputError
from spinemets.io import (
    discover,
    private_words,
    read_study,
    unpack_study,
)


def zipped(target: Path, folder: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def test_nothing_of_a_zip_is_left_after_it_was_listed_and_read(tmp_path, dicom, temporary):
    voxels = dicom.noise()
    dicom.classic(tmp_path / "in" / "deep", voxels)
    path = zipped(tmp_path / "study.zip", tmp_path / "in")
    (listing,) = discover(path)
    assert listing.source == path
    assert list(temporary.iterdir()) == []
    np.testing.assert_array_equal(read_study(listing, ReadingConfig()).reference.intensities, voxels)
    assert list(temporary.iterdir()) == []
    (tmp_path / "study.zip").write_bytes(b"PK another")
    with pytest.raises(UnreadableFileError, match=r"study\.zip"):
        read_study(listing, ReadingConfig())
    assert list(temporary.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_different_files_of_one_name_in_a_zip_are_all_read_and_the_same_file_once(tmp_path, dicom):
    voxels = dicom.noise()
    paths = dicom.classic(tmp_path / "in", voxels)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in (*paths, paths[0]):
            archive.write(path, "image.dcm")
    (listing,) = discover(tmp_path / "study.zip")
    volume = read_study(listing, ReadingConfig()).reference
    np.testing.assert_array_equal(volume.intensities, voxels)
    assert volume.series.cautions == ()


def test_of_a_zip_only_the_files_of_the_study_are_unpacked(tmp_path, dicom):
    dicom.classic(tmp_path / "in/one", dicom.noise())
    dicom.classic(
        tmp_path / "in/two",
        dicom.noise(seed=8),
        tags={"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"},
    )
    one, two = discover(zipped(tmp_path / "both.zip", tmp_path / "in"))
    assert len({one.study_uid, two.study_uid}) == 2
    at_hand = unpack_study(two, tmp_path / "there")
    files = {path for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert files == set(at_hand.series[0].series.files)
    assert at_hand.series[0].series.source == tmp_path / "there/two"
    np.testing.assert_array_equal(
        read_study(at_hand, ReadingConfig()).reference.intensities, dicom.noise(seed=8)
    )


def test_of_a_zipped_image_its_detached_voxels_are_unpacked_too(tmp_path):
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (20, 24, 8), np.int16))
    (tmp_path / "in").mkdir()
    SimpleITK.WriteImage(image, str(tmp_path / "in/t2.mhd"))
    (listing,) = discover(zipped(tmp_path / "image.zip", tmp_path / "in"))
    assert read_study(listing, ReadingConfig()).reference.intensities.std() > 100


def test_a_zipped_study_without_identifiers_is_the_same_each_time(tmp_path, dicom):
    dicom.classic(tmp_path / "in", dicom.noise(), tags={"StudyInstanceUID": None})
    path = zipped(tmp_path / "study.zip", tmp_path / "in")
    assert discover(path)[0].study_uid == discover(path)[0].study_uid


def test_the_words_of_a_zipped_studys_headers_are_known_without_its_files(tmp_path, dicom):
    dicom.classic(tmp_path / "in", dicom.noise())
    (listing,) = discover(zipped(tmp_path / "study.zip", tmp_path / "in"))
    assert "secret-id" in private_words(listing)


def test_a_word_of_every_report_is_no_word_of_a_patient(tmp_path, dicom):
    dicom.classic(tmp_path / "in", dicom.noise(), tags={"PatientName": "Phantom^Spine"})
    (listing,) = discover(tmp_path / "in")
    assert {"Phantom", "Phantom^Spine"} <= private_words(listing)
    assert "Spine" not in private_words(listing)


@pytest.mark.parametrize("start", range(8))
def test_a_zip_damaged_anywhere_is_unreadable_and_leaves_nothing(tmp_path, dicom, temporary, start):
    dicom.classic(tmp_path / "in", dicom.noise())
    path = zipped(tmp_path / "study.zip", tmp_path / "in")
    content = bytearray(path.read_bytes())
    place = 100 + start * (len(content) - 200) // 9
    content[place : place + 40] = np.random.default_rng(start).bytes(40)
    path.write_bytes(content)
    with contextlib.suppress(UnreadableFileError, NoUsableInputError, UnsupportedInputError):
        discover(path)
    assert list(temporary.iterdir()) == []


def test_what_is_wrong_with_a_zip_is_said_without_the_names_in_it(tmp_path):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("DOE_JANE/im1.dcm", b"x" * 400)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"xxxx", b"xxxy", 1))
    with pytest.raises(UnreadableFileError, match="Bad CRC") as caught:
        discover(path)
    assert "JANE" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "./", "a"])
def test_a_zip_whose_members_have_no_name_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"")
    with pytest.raises((UnsupportedInputError, NoUsableInputError)):
        discover(tmp_path / "odd.zip")


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:/evil.dcm"]
)
def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UnsupportedInputError, match="leads out of the archive"):
        discover(tmp_path / "evil.zip")


def test_a_zip_with_a_symbolic_link_is_refused(tmp_path):
    member = zipfile.ZipInfo("link.dcm")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UnsupportedInputError, match="symbolic link"):
        discover(tmp_path / "link.zip")


def test_a_zip_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.io.sources._LARGEST_ARCHIVE_BYTES", 1 << 30)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("a.dcm", b"x")
        archive.infolist()[0].file_size = 2 << 30
    with pytest.raises(UnsupportedInputError, match="larger than 1 GiB unpacked"):
        discover(tmp_path / "bomb.zip")


def test_a_damaged_zip_is_unreadable(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UnreadableFileError, match=r"bad\.zip"):
        discover(tmp_path / "bad.zip")
