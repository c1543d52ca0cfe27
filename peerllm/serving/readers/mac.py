"""The desktop of a Mac, by the programs that come with it. Not run on one: the parsers are tested on their output."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from peerllm.serving.readers.desktop import DesktopReadings
from peerllm.serving.readers.source import Apart, Source, Unreadable

_LIMIT_S = 3.0


class MacDesktop:
    """A `Desktop`. A program is started for each look: idle time is asked every 2 s only."""

    def __init__(self) -> None:
        self._thread = Apart("ioreg and pmset")
        self._idle = Source("IOHIDSystem", self._thread.ask(_ask_idle_s), every_s=2.0)
        self._saver = Source("pmset", self._thread.ask(_ask_saver), every_s=30.0)

    @property
    def sources(self) -> dict[str, tuple[Source[Any], ...]]:
        return {"idle_s": (self._idle,), "power_saver": (self._saver,)}

    def read(self, now: float, until_s: float) -> DesktopReadings:
        return DesktopReadings(idle_s=self._idle.value(until_s), power_saver=self._saver.value(until_s))

    def ready_to_sleep(self) -> None:
        """Nothing holds it up."""

    def close(self) -> None:
        self._thread.close()


def idle_s(ioreg: str) -> float:
    """From `ioreg -r -d 1 -c IOHIDSystem`; HIDIdleTime is in nanoseconds."""
    found = re.search(r'"HIDIdleTime" = (\d+)', ioreg)
    if found is None:
        raise Unreadable("ioreg names no HIDIdleTime")
    return int(found[1]) / 1e9


def power_saver(pmset: str) -> bool:
    """From `pmset -g`; "lowpowermode" is missing where there is no such mode."""
    found = re.search(r"^\s*lowpowermode\s+(\d+)", pmset, re.MULTILINE)
    if found is None:
        raise Unreadable("pmset names no lowpowermode")
    return found[1] != "0"


def _ask_idle_s() -> float:
    return idle_s(_output("/usr/sbin/ioreg", "-r", "-d", "1", "-c", "IOHIDSystem"))


def _ask_saver() -> bool:
    return power_saver(_output("/usr/bin/pmset", "-g"))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True).stdout
