"""Memory that can be taken without swapping, and what peerllm holds of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from peerllm.serving.readers.cgroup import read_group_memory
from peerllm.serving.readers.places import Places


@dataclass(frozen=True)
class Memory:
    total_bytes: int
    free_bytes: int
    own_bytes: int


def read_memory(places: Places, own: Iterable[psutil.Process]) -> Memory:
    """`own` are peerllm's own processes, this one and its children."""
    machine, group = psutil.virtual_memory(), read_group_memory(places.proc, places.sys)
    held = [memory for process in own if (memory := _held(process))]
    # the system calls mapped files available, but weights that are in use would only be read again
    free = max(0, machine.available - sum(mapped for _, mapped in held))
    return Memory(
        total_bytes=min(machine.total, group.limit_bytes) if group else machine.total,
        free_bytes=min(free, group.free_bytes) if group else free,
        own_bytes=sum(resident for resident, _ in held),
    )


def _held(process: psutil.Process) -> tuple[int, int] | None:
    """Bytes resident, and how many of them are pages of files; None for a process that is gone."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return None
    return memory.rss, getattr(memory, "shared", 0)  # only Linux tells them apart
