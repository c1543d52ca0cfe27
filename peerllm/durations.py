"""Times as people write them: ``5m``, ``tomorrow``."""

from __future__ import annotations

import re
import time

from peerllm.errors import UsageError

FOREVER = -1.0

TOMORROW = "tomorrow"
MORNING_HOUR = 8
NIGHT_ENDS_HOUR = 4
"""Whoever is up at three means the coming morning by tomorrow."""

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(-?)(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_seconds(text: str) -> float:
    """Read ``5m``, ``1.5h``, ``300`` (seconds); anything below 0 is `FOREVER`, as for Ollama. Raises `UsageError`."""
    match = _DURATION.fullmatch(text) if len(text) <= 32 else None
    unit_s = _UNITS_S.get(match[3].casefold()) if match else None
    if match is None or unit_s is None:
        raise UsageError(f"{text[:40]!r} is no time; write for example 5m, 1.5h, a number of seconds, or -1 for ever")
    seconds = float(match[2]) * unit_s
    return FOREVER if match[1] and seconds else seconds


def parse_pause(text: str, now: float) -> float:
    """The Unix time at which a pause of ``30m`` or until ``tomorrow`` ends; raises `UsageError`."""
    if text.strip().casefold() == TOMORROW:
        return tomorrow(now)
    seconds = parse_seconds(text)
    if seconds <= 0:
        raise UsageError(f"a pause lasts some time, not {text[:40]!r}; write for example 30m, 2h or tomorrow")
    return now + seconds


def tomorrow(now: float) -> float:
    """The coming morning at eight, local time."""
    today = time.localtime(now)
    days = 0 if today.tm_hour < NIGHT_ENDS_HOUR else 1
    return time.mktime((today.tm_year, today.tm_mon, today.tm_mday + days, MORNING_HOUR, 0, 0, 0, 0, -1))
