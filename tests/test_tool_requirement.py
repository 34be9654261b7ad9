"""Where tools are required, a test that skips for want of one fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = """
import pytest

@pytest.mark.skipif(True, reason="tool missing: chromium")
def test_marked(): ...

def test_called():
    pytest.skip("tool missing: dciodvfy")

def test_other_reason():
    pytest.skip("SPINEMETS_REAL_DATA is not set")

def test_passes(): ...
"""


@pytest.mark.parametrize(
    ("required", "tally"),
    # A skip by a mark happens before the test's own call, so pytest counts its failure as an error.
    [("1", "1 failed, 1 passed, 1 skipped, 1 error"), ("", "1 passed, 3 skipped")],
)
def test_missing_tool_fails_only_where_tools_are_required(tmp_path, required, tally):
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tool_requirement", "--rootdir", tmp_path, tmp_path],
        env=os.environ | {"SPINEMETS_REQUIRE_TOOLS": required, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tally in done.stdout
