"""Temporary folders: gone when they are not needed, and never taken from somebody who needs them."""

from __future__ import annotations

import os
import signal
import tempfile
from multiprocessing import get_context
from pathlib import Path

import pytest

from spinemets.errors import OutputError
from spinemets.io.temporary import remove_abandoned, temporary_folder


def make_one_and_be_killed() -> None:
    with temporary_folder() as folder:
        (folder / "scan.dcm").write_text("somebody's")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def abandoned(temporary, monkeypatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = get_context("spawn").Process(target=make_one_and_be_killed)
    process.start()
    process.join()
    (folder,) = temporary.iterdir()
    assert [path.name for path in folder.iterdir()] == ["scan.dcm"]
    return folder


def test_folder_of_a_killed_process_is_removed_and_one_in_use_stays(temporary, abandoned):
    with temporary_folder() as used:
        assert not abandoned.exists()
        assert list(temporary.iterdir()) == [used]
        remove_abandoned()
        assert used.is_dir()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("case", ["another machine", "no locks", "another user"])
def test_folder_that_may_be_in_use_stays(abandoned, monkeypatch, case):
    if case == "another machine":
        monkeypatch.setattr("platform.node", lambda: "node2")
    elif case == "another user":
        monkeypatch.setattr("os.getuid", lambda: 12345)
    else:
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError("none")))
    remove_abandoned()
    assert abandoned.is_dir()


def test_no_place_for_a_folder_is_an_error_of_the_output(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OutputError, match="TMPDIR"), temporary_folder():
        pass


def test_link_of_that_name_is_not_followed(abandoned, tmp_path):
    abandoned.rename(tmp_path / "elsewhere")
    abandoned.symlink_to(tmp_path / "elsewhere")
    remove_abandoned()
    assert (tmp_path / "elsewhere/scan.dcm").is_file()
    assert abandoned.is_symlink()
