"""Freed memory stays with the process, and can be given back for a while."""

from __future__ import annotations

import subprocess
import sys

import pytest

from spinemets import allocation

COUNT = """
import resource
import numpy as np
def cleared_pages(times=4, megabytes=48):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(megabytes * 2**20, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""

SOME = """
from spinemets.allocation import as_usual, keep_freed_memory, kept_bytes
by_default = cleared_pages()
assert keep_freed_memory()
cleared_pages()
assert kept_bytes() > 40 * 2**20
kept = cleared_pages()
with as_usual():
    cleared_pages()
    usual = cleared_pages()
print(by_default, kept, usual)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
def test_freed_memory_is_used_again_and_not_cleared_anew():
    done = subprocess.run([sys.executable, "-c", COUNT + SOME], check=True, capture_output=True, text=True)
    by_default, kept, usual = map(int, done.stdout.split())
    page_kb = 4 * 48 * 1024 // by_default
    assert page_kb < 2100  # of huge pages there are fewer
    assert kept < 0.1 * by_default
    assert usual > 0.9 * by_default


ALL = """
from spinemets.allocation import keep_all_freed_memory, keep_freed_memory
assert keep_freed_memory()
some = cleared_pages(2, 1200)
assert keep_all_freed_memory()
cleared_pages(2, 1200)
print(some, cleared_pages(2, 1200))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
def test_all_of_it_is_kept_for_a_training():
    done = subprocess.run([sys.executable, "-c", COUNT + ALL], check=True, capture_output=True, text=True)
    some, none = map(int, done.stdout.split())
    assert none < 0.1 * some


HELD = """
import numpy as np
from spinemets.allocation import give_back_freed_memory, hold_no_freed_memory, keep_freed_memory
def held_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
assert keep_freed_memory()
np.ones(48 * 2**20, dtype=np.uint8)
kept = held_mb()
assert hold_no_freed_memory()
give_back_freed_memory()
given_back = held_mb()
for _ in range(3):
    np.ones(24 * 2**20, dtype=np.uint8)
print(kept - given_back, held_mb() - given_back)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
def test_what_is_held_can_be_made_what_is_in_use():
    done = subprocess.run([sys.executable, "-c", HELD], check=True, capture_output=True, text=True)
    given_back_mb, held_since_mb = map(float, done.stdout.split())
    assert given_back_mb > 44
    assert held_since_mb < 4


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocation, "_gnu_library", lambda: None)
    monkeypatch.setattr(allocation, "_kept", False)
    assert not allocation.keep_freed_memory()
    assert not allocation.keep_all_freed_memory()
    assert allocation.kept_bytes() == 0
    assert not allocation.hold_no_freed_memory()
    allocation.give_back_freed_memory()
    with allocation.as_usual():
        pass
