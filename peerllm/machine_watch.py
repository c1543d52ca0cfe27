"""This machine as it is now, read where nothing waits for what hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from peerllm.serving.readers.source import Apart
from peerllm.serving.readings import Readings

log = logging.getLogger(__name__)

READ_S = 0.8
"""A reader that takes longer is waited for no more: what it would have told is unknown meanwhile."""


class Reader(Protocol):
    """`MachineReader`, or readings that a test makes up; `programs` are patterns of those to look for."""

    programs: tuple[str, ...]

    def read(self, now: float) -> Readings: ...

    def ready_to_sleep(self) -> None: ...

    def close(self) -> None: ...


class MachineWatch:
    """Asks a reader on a thread of its own, one question at a time."""

    def __init__(self, make_reader: Callable[[], Reader], *, within_s: float = READ_S) -> None:
        """`make_reader` is called on that thread, with the first question."""
        self._make_reader = make_reader
        self._within_s = within_s
        self._thread = Apart("machine")
        self._reader: Reader | None = None
        self._asked: asyncio.Future[Readings] | None = None

    async def read(self, now: float, programs: Sequence[str]) -> Readings:
        """What is known at the Unix time `now`; nothing, where the reader hangs or fails."""
        if self._asked is None:
            self._asked = asyncio.wrap_future(self._thread.ask(lambda: self._read(now, tuple(programs)))())
        try:
            async with asyncio.timeout(self._within_s):
                readings = await asyncio.shield(self._asked)
        except TimeoutError:
            return unknown(now)
        except Exception:  # whatever a reader throws, the daemon goes on
            log.exception("this machine cannot be read")
            readings = unknown(now)
        self._asked = None
        return readings

    def ready_to_sleep(self) -> None:
        """This machine may suspend, as far as it is up to what it lends."""
        self._thread.ask(self._ready_to_sleep)()

    def close(self) -> None:
        """End the thread; one that hangs is left behind."""
        self._thread.close(self._close)

    def _read(self, now: float, programs: tuple[str, ...]) -> Readings:
        if self._reader is None:
            self._reader = self._make_reader()
        self._reader.programs = programs
        return self._reader.read(now)

    def _ready_to_sleep(self) -> None:
        if self._reader is not None:
            self._reader.ready_to_sleep()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def unknown(now: float) -> Readings:
    """Nothing but the time."""
    local = time.localtime(now)
    return Readings(at=now, local_minute=60 * local.tm_hour + local.tm_min)
