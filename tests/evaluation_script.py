"""``scripts/evaluate.py`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

import evaluate

SCRIPT = Path(__file__).parents[1] / "scripts" / "evaluate.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run its command line, whatever the exit code; in this process, as what it imports takes seconds."""
    done = CliRunner().invoke(evaluate.main, list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def run_alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, whatever its exit code."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
