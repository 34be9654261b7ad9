"""A missing external tool skips a test, and fails it where SPINEMETS_REQUIRE_TOOLS is 1."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

TOOL_MISSING = "tool missing:"
"""How the reason of a skip begins whose test needs an external program."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("SPINEMETS_REQUIRE_TOOLS") == "1" and report.skipped:
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if TOOL_MISSING in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: {reason} (SPINEMETS_REQUIRE_TOOLS is set)"
    return report
