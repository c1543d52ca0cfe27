"""Hours of the day as people write them: ``22:00-07:00``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from peerllm.errors import UsageError

_TIMES = re.compile(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*", re.ASCII)


@dataclass(frozen=True)
class Hours:
    """From one minute of the day (0 to 1439) until another, over midnight where that comes first."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read ``22:00-07:00``; raises `UsageError` for anything else, and for hours that never are."""
        match = _TIMES.fullmatch(text)
        if match is None:
            raise UsageError(f"{text[:40]!r} are no hours; write for example 22:00-07:00")
        start, end = _minute(match[1], match[2]), _minute(match[3], match[4])
        if start == end:
            raise UsageError(f'{text[:40]!r} begin when they end; for lending at any hour write ""')
        return cls(start, end)

    def __contains__(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        return f"{clock(self.start)}-{clock(self.end)}"


def parse_hours(text: str) -> str:
    """The hours as they are kept in the config; "" is at any hour. Raises `UsageError`."""
    return str(Hours.parse(text)) if text.strip() else ""


def clock(minute: int) -> str:
    """The time of day of that minute: ``22:00``."""
    return f"{minute // 60:02}:{minute % 60:02}"


def _minute(hour: str, minute: str) -> int:
    if int(hour) > 23 or int(minute) > 59:
        raise UsageError(f"there is no {hour}:{minute}; hours are 00:00 to 23:59")
    return 60 * int(hour) + int(minute)
