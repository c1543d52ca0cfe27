"""Which processes are peerllm's own, and which of the others want the machine for themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import psutil


def own_processes() -> tuple[psutil.Process, ...]:
    """This one and its children."""
    process = psutil.Process()
    return process, *process.children(recursive=True)


def running_program(patterns: Sequence[str], own: Iterable[psutil.Process]) -> str:
    """The name of a process that one of the owner's patterns names; "" if none runs."""
    if not patterns:
        return ""
    ours = {process.pid for process in own}
    found = (process for process in psutil.process_iter(["name"]) if process.pid not in ours)
    return first_match((process.info["name"] or "" for process in found), patterns)


def first_match(names: Iterable[str], patterns: Sequence[str]) -> str:
    """The first name that a pattern fits, whatever the case; ".exe" need not be written (Windows, Proton)."""
    lowered = [pattern.lower() for pattern in patterns]
    for name in names:
        spellings = (name.lower(), name.lower().removesuffix(".exe"))
        if any(fnmatchcase(spelling, pattern) for spelling in spellings for pattern in lowered):
            return name
    return ""
