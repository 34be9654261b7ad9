"""Locks that keep two processes from writing to one place."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from spinemets.atomic import atomic_write_text
from spinemets.errors import OutputError
from spinemets.locks import locked, take_lock, try_lock


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("spinemets.locks._PATIENCE_S", 0.2)


def test_lock_is_held_until_the_file_is_closed(tmp_path):
    with (tmp_path / "file").open("w") as one, (tmp_path / "file").open("w") as other:
        assert take_lock(one.fileno(), "taken")
        assert not try_lock(other.fileno())
        with pytest.raises(OutputError, match="taken"):
            take_lock(other.fileno(), "taken")
        one.close()
        assert take_lock(other.fileno(), "taken")


def test_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (tmp_path / "file").open("w") as file:
        assert not take_lock(file.fileno(), "taken")
    with locked(tmp_path / "file", "taken"):
        pass


def test_those_who_replace_a_locked_file_do_so_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.locks._PATIENCE_S", 60)
    path = tmp_path / "count"

    def count(_: int) -> None:
        with locked(path, "taken"):
            before = int(path.read_text() or 0)
            time.sleep(0.01)
            atomic_write_text(path, str(before + 1))

    with ThreadPoolExecutor(4) as together:
        list(together.map(count, range(20)))
    assert path.read_text() == "20"
    assert [file.name for file in tmp_path.iterdir()] == ["count"]


def test_locked_file_is_made_for_its_owner_only(tmp_path):
    with locked(tmp_path / "file", "taken"), pytest.raises(OutputError, match="taken"):  # noqa: SIM117
        with locked(tmp_path / "file", "taken"):
            pytest.fail("locked twice")
    assert oct((tmp_path / "file").stat().st_mode & 0o777) == "0o600"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
