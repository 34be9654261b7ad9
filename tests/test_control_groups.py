"""Memory is what is left within the limits of containers and job schedulers."""

from __future__ import annotations

import pytest

from spinemets import allocation
from spinemets.control_groups import group_room_bytes

GIB = 2**30


def write_group(folder, limit, used, cache, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (f"{limit}\n", f"{used}\n", f"anon 5\n{names[3]} {cache}\n"), strict=False):
        (folder / name).write_text(value)


FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")
SECOND = ("memory.max", "memory.current", "memory.stat", "inactive_file")


def room(tmp_path, text):
    own = tmp_path / "own"
    own.write_text(text)
    return group_room_bytes(own, tmp_path / "mounted")


def test_the_tightest_group_above_counts_without_what_is_only_cached(tmp_path):
    mounted = tmp_path / "mounted"
    write_group(mounted / "slurm/job_7/step", "max", 3 * GIB, GIB, SECOND)
    write_group(mounted / "slurm/job_7", 8 * GIB, 4 * GIB, GIB, SECOND)
    write_group(mounted / "slurm", 64 * GIB, 5 * GIB, 0, SECOND)
    assert room(tmp_path, "0::/slurm/job_7/step\n") == 5 * GIB


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    write_group(tmp_path / "mounted/memory", 2 * GIB, 0.5 * GIB, 0, FIRST)
    assert room(tmp_path, "5:devices:/\n4:memory:/docker/0123:4\n0::/docker/0123\n") == 1.5 * GIB


def test_a_group_that_is_full_has_no_room(tmp_path):
    write_group(tmp_path / "mounted", GIB, 2 * GIB, 0, SECOND)
    assert room(tmp_path, "0::/\n") == 0


@pytest.mark.parametrize("text", ["", "0::/\n", "4:memory:/a\n", "odd\n"])
def test_where_nothing_is_told_nothing_is_limited(tmp_path, text):
    assert room(tmp_path, text) == float("inf")
    assert group_room_bytes(tmp_path / "missing", tmp_path) == float("inf")


def test_new_arrays_have_no_more_than_the_groups_leave(monkeypatch):
    monkeypatch.setattr(allocation, "group_room_bytes", lambda: 7.0)
    assert allocation.available_bytes() == 7.0
    monkeypatch.setattr(allocation, "group_room_bytes", lambda: float("inf"))
    assert 7.0 < allocation.available_bytes() < float("inf")
