"""The memory that a run and the processes it started have taken at their peak, as Linux tells it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

__all__ = ["MemoryGauge"]


class MemoryGauge:
    """The largest memory that any process of each kind has had, in a run that is watched."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._kinds: dict[int, str] = {}
        self.peak_mb: Counter[str] = Counter()

    def look(self) -> None:
        """Look at the run's processes; the kernel keeps the peak of each."""
        for pid in (self._pid, *_descendants(self._pid)):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                peak = re.search(r"VmHWM:\s+(\d+) kB", status)
                if peak is not None:
                    kind = self._kind(pid)
                    self.peak_mb[kind] = max(self.peak_mb[kind], int(peak[1]) // 1024)
            except OSError:
                continue

    def _kind(self, pid: int) -> str:
        if pid == self._pid:
            return "main process"
        # A process begins as a fork and loads the networks later.
        if self._kinds.get(pid) != "network":
            has_torch = "libtorch" in Path(f"/proc/{pid}/maps").read_text()
            self._kinds[pid] = "network" if has_torch else "worker"
        return self._kinds[pid]


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found: list[int] = []
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found += new
    return found
