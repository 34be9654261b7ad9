"""What Linux's control groups leave of the memory: containers and job schedulers set limits by them.

A process that exceeds its group's limit is killed, however much memory the machine has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["group_room_bytes"]


@dataclass(frozen=True, slots=True)
class _Version:
    """Where one version of control groups keeps its figures."""

    mount: str
    limit: str
    usage: str
    cache: str  # of the group's statistics: files that the kernel gives up when memory is short


_FIRST = _Version("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Version("", "memory.max", "memory.current", "inactive_file")


def group_room_bytes(own: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that the groups of this process may still take; infinity where nothing limits them.

    Parameters
    ----------
    own
        The file that names the groups of this process.
    mounted
        Where the system shows all groups.
    """
    try:
        entries = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return float("inf")
    rooms = [float("inf")]
    for entry in entries:
        number, controllers, place = [*entry.split(":", 2), "", ""][:3]
        version = _SECOND if number == "0" else _FIRST if "memory" in controllers.split(",") else None
        if version is None:
            continue
        root = mounted / version.mount
        group = root / place.lstrip("/")
        # A limit holds for all groups below; within a container, the root is its own group.
        rooms += [_room(level, version) for level in (group, *group.parents) if level.is_relative_to(root)]
    return min(rooms)


def _room(group: Path, version: _Version) -> float:
    try:
        limit = float((group / version.limit).read_text(encoding="ascii"))
        used = float((group / version.usage).read_text(encoding="ascii"))
        statistics = dict(
            line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        return max(0.0, limit - used + float(statistics.get(version.cache, 0)))
    except (OSError, ValueError):
        # No such group is shown here, or its limit is "max".
        return float("inf")
