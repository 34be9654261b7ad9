"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from spinemets.atomic import atomic_folder, atomic_write_bytes, atomic_write_text
from spinemets.errors import OutputError


def test_a_file_is_replaced_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    atomic_write_text(path, "old")
    atomic_write_text(path, "nëw\n")
    assert path.read_bytes() == "nëw\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named_and_cleaned_up(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("x")
    with pytest.raises(OutputError, match="taken: cannot be written"):
        atomic_write_bytes(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        atomic_write_bytes(tmp_path / "file" / "a", b"x")
    with pytest.raises(OutputError, match="cannot be made"), atomic_folder(tmp_path / "file" / "b"):
        pass


def test_a_folder_takes_its_name_only_when_it_is_complete(tmp_path):
    target = tmp_path / "out" / "study"
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("x")
        assert not target.exists()
    assert (target / "a.txt").read_text() == "x"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "study"
    for name in ("old.txt", "new.txt"):
        with atomic_folder(target) as folder:
            (folder / name).write_text("x")
    assert [path.name for path in target.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    target = tmp_path / "study"
    flushed = {}

    def note(handle):
        status = os.fstat(handle)
        flushed[status.st_ino] = (status.st_size, target.exists())

    monkeypatch.setattr("spinemets.atomic.os.fsync", note)
    with atomic_folder(target) as folder:
        (folder / "pictures").mkdir()
        for path in (folder / "a.txt", folder / "pictures/b.txt"):
            path.write_text("text")
    for path in (target / "a.txt", target / "pictures/b.txt"):
        assert flushed[path.stat().st_ino] == (4, False)
    for folder in (target, target / "pictures"):
        assert not flushed[folder.stat().st_ino][1]
    assert flushed[tmp_path.stat().st_ino][1]


def test_a_folder_that_the_disk_does_not_take_is_an_error(tmp_path, monkeypatch):
    def refuse(_handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("spinemets.atomic.os.fsync", refuse)
    with (
        pytest.raises(OutputError, match=r"study: cannot be put in place \(Input/output error\)"),
        atomic_folder(tmp_path / "study") as folder,
    ):
        (folder / "a.txt").write_text("text")
    assert not list(tmp_path.iterdir())


def fail_halfway(target):
    with atomic_folder(target) as folder:
        (folder / "half.txt").write_text("x")
        raise RuntimeError("half done")


def test_a_failed_block_leaves_the_old_folder_as_it_was(tmp_path):
    target = tmp_path / "study"
    with atomic_folder(target) as folder:
        (folder / "old.txt").write_text("x")
    with pytest.raises(RuntimeError, match="half done"):
        fail_halfway(target)
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [target]
