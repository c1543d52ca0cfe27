"""How many of the engine's threads find a core that nobody else wants: fewer at once, more slowly. Pure.

A thread too many is worse than one too few: all threads wait for the slowest in every operation. Measured beside one
busy process on two cores, with the lowest priority: 1612 ms per token with two threads, 54 ms with one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from peerllm.serving.readings import Readings

MORE_EVERY_S = 10.0
"""A core must be free for so long before a thread is added: most programs that begin to work go on for longer."""

MOST_NOISE = 0.25
"""So much of one core, every desktop uses without anybody wanting it."""

IN_USE_S = 60.0
"""So long after a key or a pointer somebody sits there, who will want a core at once."""


@dataclass(frozen=True)
class ThreadRoom:
    """`cores` are free for the engine, None before that was ever known; more of them have been `since` then."""

    cores: int | None = None
    since: float = 0.0


def in_use(idle_s: float | None) -> bool:
    """Whether a user is known to be there."""
    return idle_s is not None and idle_s < IN_USE_S


def room_for_threads(room: ThreadRoom, readings: Readings, now: float, *, user: bool) -> ThreadRoom:
    """The room after these readings, beside a `user` or not; unknown load gives no more than there was."""
    if readings.others_cores is None:
        return replace(room, since=now)
    free = _free_cores(readings, user)
    if room.cores is None or free <= room.cores:
        return ThreadRoom(free, now)
    if now - room.since < MORE_EVERY_S:
        return room
    return ThreadRoom(min(free, room.cores + max(1, readings.cores // 8)), now)


def is_crowded(readings: Readings) -> bool:
    """Whether others are known to want every core, so that not one thread finds a free one."""
    return readings.others_cores is not None and _free_cores(readings, user=False) == 0


def _free_cores(readings: Readings, user: bool) -> int:
    """Cores without other programs, and without the one that is left to a user who is there."""
    cores, others = readings.cores, max(0.0, readings.others_cores or 0.0)
    # on one of n cores a load of 1/n slows all n threads as much as one thread fewer does
    noise = min(MOST_NOISE, 1 / cores)
    wanted = math.ceil(min(others, cores) - noise) if others > noise else 0
    free = cores - wanted
    return min(free, cores - 1) if user else free
