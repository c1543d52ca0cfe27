"""Sums by day and peer, as values."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class DaySum:
    """What was given to one peer and used from it on one day."""

    gave_tokens: int = 0  # tokens times blocks
    used_tokens: int = 0
    gave_bytes: int = 0
    used_bytes: int = 0
    gave_s: float = 0.0
    """Time of this machine's engine."""
    used_s: float = 0.0
    """Time that this machine waited for the peer."""
    gave_wh: float = 0.0
    unmetered_s: float = 0.0
    """Of `gave_s`, for how long nobody knew what the engine draws."""

    def plus(self, other: DaySum) -> DaySum:
        return DaySum(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def day_of(at: float) -> str:
    """The local date of a Unix time, "2026-11-21"."""
    return time.strftime("%Y-%m-%d", time.localtime(at))


def first_day(days: int, now: float) -> str:
    """Of so many days that end with today."""
    noon = time.localtime(now)[:3]
    return day_of(time.mktime((noon[0], noon[1], noon[2] - (days - 1), 12, 0, 0, 0, 0, -1)))
