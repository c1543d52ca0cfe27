"""What a click asks for, as values: the menu is made of them, `deeds` carries them out."""

from __future__ import annotations

import time
from dataclasses import dataclass

_MORNING_HOUR = 8
_NIGHT_ENDS_HOUR = 4
"""Whoever is up at three means the coming morning by tomorrow."""


@dataclass(frozen=True)
class Share:
    """Lend this machine, or stop; with `finish` once running sessions have ended."""

    on: bool
    finish: bool = False


@dataclass(frozen=True)
class Pause:
    """For so many seconds; None is until tomorrow morning, 0 ends a pause."""

    seconds: float | None


@dataclass(frozen=True)
class SetLimit:
    """None for what the configuration says."""

    key: str
    value: object


@dataclass(frozen=True)
class AskConsent:
    """The icon was clicked before the owner ever said yes: say where that is done."""


@dataclass(frozen=True)
class OpenChat: ...


@dataclass(frozen=True)
class OpenPage: ...


@dataclass(frozen=True)
class StartDaemon: ...


@dataclass(frozen=True)
class StartAtLogin:
    on: bool


@dataclass(frozen=True)
class Quit:
    stop_sharing: bool = False


Action = Share | Pause | SetLimit | AskConsent | OpenChat | OpenPage | StartDaemon | StartAtLogin | Quit


def pause_until(pause: Pause, now: float) -> float:
    """The Unix time at which it ends; tomorrow begins at eight in the morning, local time."""
    if pause.seconds is not None:
        return now + pause.seconds if pause.seconds else 0.0
    today = time.localtime(now)
    days = 0 if today.tm_hour < _NIGHT_ENDS_HOUR else 1
    morning = (today.tm_year, today.tm_mon, today.tm_mday + days, _MORNING_HOUR, 0, 0, 0, 0, -1)
    return time.mktime(morning)
