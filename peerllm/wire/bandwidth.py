"""How many bytes per second go over the wire for others, each way: token buckets, and waiting for them.

What one token takes is small and somebody waits for each; a prompt is large and takes its time anyway. So small
messages pass before large ones, which get what is left, and a part of it in any case. A message that passes may
overdraw its bucket, and those behind it wait: whole messages, at the right rate in the long run.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

SMALL_BYTES = 64 << 10
"""Up to here it is a step of a few tokens: 16 float32 rows of a model with 1024 hidden values, 2 with 8192."""

SMALL_SHARE = 0.75
"""Of the rate that small messages may take from large ones: prompts must get through before their deadline."""

BURST_S = 0.25
"""So many seconds' worth may pass at once after a quiet time."""

LEAST_BYTES_PER_S = 32 << 10
"""A lower limit counts as this: one message would take longer than its asker waits."""


class TokenBucket:
    """Filled at a rate, emptied by what passes, never fuller than `BURST_S` worth; it reads no clock itself."""

    def __init__(self, bytes_per_s: float, now: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._level = BURST_S * bytes_per_s
        self._at = now

    def wait_s(self, now: float) -> float:
        """Until the next message may pass."""
        self._fill(now)
        return -self._level / self._bytes_per_s if self._level <= -1 else 0.0

    def take(self, count: int, now: float) -> None:
        """So many bytes pass now, be they there or not."""
        self._fill(now)
        self._level -= count

    def _fill(self, now: float) -> None:
        passed_s, self._at = max(0.0, now - self._at), max(now, self._at)
        self._level = min(self._level + passed_s * self._bytes_per_s, BURST_S * self._bytes_per_s)


class Lanes:
    """Two buckets, so that small messages wait only for small ones and large ones for all; no clock either."""

    def __init__(self, bytes_per_s: float, now: float) -> None:
        self._all = TokenBucket(bytes_per_s, now)
        self._small = TokenBucket(SMALL_SHARE * bytes_per_s, now)

    def wait_s(self, count: int, now: float) -> float:
        """Until a message of so many bytes may pass."""
        return (self._small if count <= SMALL_BYTES else self._all).wait_s(now)

    def take(self, count: int, now: float) -> None:
        self._all.take(count, now)
        if count <= SMALL_BYTES:
            self._small.take(count, now)


class Throttle:
    """One way of the wire. Whoever sends waits for its turn; of each size, who came first goes first."""

    def __init__(self) -> None:
        self._bytes_per_s = 0
        self._lanes: Lanes | None = None
        self._small: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._large: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limited(self) -> bool:
        return self._lanes is not None

    def limit(self, bytes_per_s: int) -> None:
        """From now on, for those who wait, too; 0 is no limit."""
        if bytes_per_s == self._bytes_per_s:
            return  # what is overdrawn stays so
        self._bytes_per_s = bytes_per_s
        self._lanes = Lanes(max(bytes_per_s, LEAST_BYTES_PER_S), time.monotonic()) if bytes_per_s else None
        self._let_pass()

    async def turn(self, count: int) -> None:
        """Returns when so many bytes may be sent, which it counts as sent."""
        if self._lanes is None:
            return
        passing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._small if count <= SMALL_BYTES else self._large).append((count, passing))
        self._let_pass()
        await passing

    def pause_s(self, count: int) -> float:
        """So many bytes have come: how long not to read on."""
        if self._lanes is None:
            return 0.0
        now = time.monotonic()
        self._lanes.take(count, now)
        return self._lanes.wait_s(count, now)

    def _let_pass(self) -> None:
        """Those whose turn it is; then again when it is that of the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits_s = [wait_s for waiting in (self._small, self._large) if (wait_s := self._pass_from(waiting))]
        if waits_s:
            self._timer = asyncio.get_running_loop().call_later(min(waits_s), self._let_pass)

    def _pass_from(self, waiting: deque[tuple[int, asyncio.Future[None]]]) -> float:
        """How long the next of them has to wait; 0 if none does."""
        while waiting:
            count, passing = waiting[0]
            if not passing.done():  # else its sender has given up
                now = time.monotonic()
                if self._lanes is not None:
                    if wait_s := self._lanes.wait_s(count, now):
                        return wait_s
                    self._lanes.take(count, now)
                passing.set_result(None)
            waiting.popleft()
        return 0.0


class Bandwidth:
    """What the owner lends of the line, for the sessions that are served; without limits until it gets some."""

    def __init__(self) -> None:
        self.up = Throttle()
        self.down = Throttle()

    def limit(self, *, upload_bytes_per_s: int, download_bytes_per_s: int) -> None:
        """Called in the event loop, at any time; 0 is no limit."""
        self.up.limit(upload_bytes_per_s)
        self.down.limit(download_bytes_per_s)
