"""Where tools are required, a test that skips for want of one fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
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


def test_every_service_runs_the_one_command_that_requires_all_tools():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    command = (ROOT / ".ci/run").read_text()
    assert "export SPINEMETS_REQUIRE_TOOLS=1" in command
    for package in ("chromium", "dicom3tools", "orthanc", "orthanc-dicomweb", "openssl", "poppler-utils"):
        assert f" {package} " in command
