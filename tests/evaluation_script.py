"""``scripts/evaluate.py`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "evaluate.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, whatever its exit code."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
