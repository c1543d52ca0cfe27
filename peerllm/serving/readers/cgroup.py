"""What a container or a systemd unit leaves of the machine's memory: control groups of versions 2 and 1.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NO_LIMIT = 1 << 60
"""Version 1 says "none" by a number as large as it can count."""


@dataclass(frozen=True)
class GroupMemory:
    limit_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class _Names:
    limits: tuple[str, ...]
    usage: str
    inactive_file: str


_V2 = _Names(("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def read_group_memory(proc: Path, sys: Path) -> GroupMemory | None:
    """The tightest limit of this process's groups and the least that one of them leaves; None without a limit."""
    try:
        groups = (proc / "self" / "cgroup").read_text()
    except OSError:
        return None
    found = [memory for folder, names in _folders(groups, sys / "fs" / "cgroup") if (memory := _memory(folder, names))]
    if not found:
        return None
    return GroupMemory(min(memory.limit_bytes for memory in found), min(memory.free_bytes for memory in found))


def _folders(groups: str, root: Path) -> Iterator[tuple[Path, _Names]]:
    """Of each line of /proc/self/cgroup that may limit memory, the group and those around it."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from ((folder, _V2) for folder in _upwards(root, path))
        elif "memory" in controllers.split(","):
            yield from ((folder, _V1) for folder in _upwards(root / "memory", path))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A container often sees its own group as the root, and a path that does not exist within."""
    group = PurePosixPath(path.lstrip("/"))
    if ".." in group.parts:
        group = PurePosixPath()
    yield from (root / folder for folder in (group, *group.parents) if (root / folder).is_dir())


def _memory(folder: Path, names: _Names) -> GroupMemory | None:
    limit = min((bound for name in names.limits if (bound := _number(folder / name)) is not None), default=NO_LIMIT)
    usage = _number(folder / names.usage)
    if limit >= NO_LIMIT or usage is None:
        return None
    # what was read from files long ago is dropped for whoever needs memory; the kubelet counts the same way
    taken = max(0, usage - _statistic(folder / "memory.stat", names.inactive_file))
    return GroupMemory(limit, max(0, limit - taken))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max" is none


def _statistic(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
