"""What every test shares: spines to test with; and a missing tool is a failure where tools are required."""

from __future__ import annotations

import pytest

from phantoms import Phantom, draw_phantom
from tool_requirement import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def whole_spine() -> Phantom:
    """C2 to the sacrum in thick sagittal slices."""
    return draw_phantom(seed=1)


@pytest.fixture(scope="session")
def lumbar_spine() -> Phantom:
    """T11 to the sacrum, with the conus at L1."""
    return draw_phantom(highest="T11", spacing_mm=(4.0, 1.2, 1.2), seed=1)


@pytest.fixture(scope="session")
def neck() -> Phantom:
    """C2 to T2."""
    return draw_phantom(lowest="T2", spacing_mm=(4.0, 1.2, 1.2), seed=1)


@pytest.fixture(scope="session")
def chest() -> Phantom:
    """T3 to T10: neither C2 nor the sacrum nor the conus in view."""
    return draw_phantom(highest="T3", lowest="T10", spacing_mm=(4.0, 1.2, 1.2), seed=1)
