"""The desktop of a Windows machine, by calls of its own libraries. Not run on one: what is pure is tested."""

from __future__ import annotations

import ctypes
from typing import Any

from peerllm.serving.readers.desktop import DesktopReadings
from peerllm.serving.readers.source import Source, Unreadable, here


class LastInput(ctypes.Structure):
    """LASTINPUTINFO of winuser.h."""

    _fields_ = (("size", ctypes.c_uint32), ("tick_ms", ctypes.c_uint32))


class PowerStatus(ctypes.Structure):
    """SYSTEM_POWER_STATUS of winbase.h."""

    _fields_ = (
        ("ac_line", ctypes.c_uint8),
        ("battery_flag", ctypes.c_uint8),
        ("battery_percent", ctypes.c_uint8),
        ("system_flag", ctypes.c_uint8),  # 1: battery saver is on
        ("battery_life_s", ctypes.c_uint32),
        ("battery_full_life_s", ctypes.c_uint32),
    )


class WindowsDesktop:
    """A `Desktop`."""

    def __init__(self) -> None:
        self._idle = Source("GetLastInputInfo", here(_ask_idle_s), every_s=1.0)
        self._saver = Source("GetSystemPowerStatus", here(_ask_saver), every_s=10.0)

    @property
    def sources(self) -> dict[str, tuple[Source[Any], ...]]:
        return {"idle_s": (self._idle,), "power_saver": (self._saver,)}

    def read(self, now: float, until_s: float) -> DesktopReadings:
        return DesktopReadings(idle_s=self._idle.value(until_s), power_saver=self._saver.value(until_s))

    def ready_to_sleep(self) -> None:
        """Nothing holds it up."""

    def close(self) -> None:
        """Nothing is open."""


def idle_s(last_tick_ms: int, now_tick_ms: int) -> float:
    """Ticks count milliseconds in 32 bits and begin anew after 49.7 days."""
    return ((now_tick_ms - last_tick_ms) & 0xFFFFFFFF) / 1000


def _ask_idle_s() -> float:
    last = LastInput(size=ctypes.sizeof(LastInput))
    if not ctypes.windll.user32.GetLastInputInfo(ctypes.byref(last)):  # pyright: ignore[reportAttributeAccessIssue] - Windows
        raise Unreadable("GetLastInputInfo failed")
    return idle_s(last.tick_ms, ctypes.windll.kernel32.GetTickCount())  # pyright: ignore[reportAttributeAccessIssue] - Windows


def _ask_saver() -> bool:
    status = PowerStatus()
    if not ctypes.windll.kernel32.GetSystemPowerStatus(ctypes.byref(status)):  # pyright: ignore[reportAttributeAccessIssue] - Windows
        raise Unreadable("GetSystemPowerStatus failed")
    return status.system_flag == 1
