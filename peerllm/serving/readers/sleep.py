"""Suspending: it is announced, and held up for the seconds that handing over sessions takes.

Source: "Inhibitor Locks" of systemd. A delay lock holds for `InhibitDelayMaxSec` (5 s) at most, whoever holds it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from peerllm.serving.readers.bus import Bus
from peerllm.serving.readers.logind import MANAGER, PATH, SERVICE
from peerllm.serving.readers.source import Unreadable

if TYPE_CHECKING:
    from dbus_fast import Message

HOLD_S = 4.0
"""So long at most, should nobody say that all is handed over."""

_ANNOUNCED = f"type='signal',sender='{SERVICE}',path='{PATH}',interface='{MANAGER}',member='PrepareForSleep'"


class SleepWatch:
    """Its methods belong to the bus's thread."""

    def __init__(self, bus: Bus, changed: Callable[[], None], *, delays: bool) -> None:
        """`delays` is whether to hold suspending up; who only looks around does not."""
        self._bus = bus
        self._changed = changed
        self._delays = delays
        self._suspending = False
        self._lock: int | None = None
        self._limit: asyncio.TimerHandle | None = None
        bus.watch(_ANNOUNCED, self._heard)

    async def suspending(self) -> bool:
        """Whether the machine is about to sleep; takes the lock again that went with the last sleep or bus."""
        self._suspending = bool(await self._bus.property(SERVICE, PATH, MANAGER, "PreparingForSleep"))
        if self._delays and self._lock is None and not self._suspending:
            self._lock = await self._inhibit()
        return self._suspending

    def let_sleep(self) -> None:
        """All is handed over."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    async def _inhibit(self) -> int | None:
        words = ["sleep", "peerllm", "hands over the answers it computes for others", "delay"]
        try:
            reply = await self._bus.call(SERVICE, PATH, MANAGER, "Inhibit", "ssss", words)
        except Unreadable:
            return None  # not allowed to: it suspends at once then
        return reply.unix_fds[reply.body[0]] if reply.unix_fds else None

    def _heard(self, message: Message) -> None:
        if message.member != "PrepareForSleep" or message.path != PATH:
            return
        self._suspending = bool(message.body[0])
        if self._suspending:
            self._limit = asyncio.get_running_loop().call_later(HOLD_S, self.let_sleep)
        self._changed()
