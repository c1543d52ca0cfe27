"""A guest that obeys at once and shows what a test sets: for tests of the API and its clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from peerllm.choices import Choices, set_values
from peerllm.local.lending import GuestStatus, LedgerRow, Limit, Signal
from peerllm.local.schema import Event

FREE = "nobody else needs this machine"

SIGNALS = (
    Signal("idle", "4 min"),
    Signal("power", "on the mains"),
    Signal("processor", "1.2 of 8 cores used by others"),
    Signal("memory", "5.1 GiB free"),
    Signal("metered", "unknown"),
)

LIMITS = (
    Limit("contribution.memory_bytes", 2 << 30, 0, "a size such as 1.5GiB, or 0", "Memory lent, in bytes.", "choice"),
    Limit("contribution.slots", 4, 4, "1 to 255", "Sessions served at once."),
    Limit("engine.threads", 2, 0, "0 to 1024", "Threads of the engine; 0 measures which number is fastest.", "config"),
    Limit("guest.policy", "polite", "polite", "idle, polite, night, custom", "When this machine lends."),
)

ROWS = (
    LedgerRow("2026-11-21", "12D3KooWAlice", "alice", 4800, 1200, 9_000_000, 2_000_000, 31.5, 8.0, 0.4, 12),
    LedgerRow("2026-11-20", "12D3KooWBob", "bob", 900, 0, 1_500_000, 0, 6.0, 0.0, None, 3),
)


class StandInGuest:
    """`GuestServices`; what it shows (`now`, `limited`, `rows`) and what it was told (`sharing`) are for tests."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self.now = GuestStatus(policy="polite", signals=SIGNALS, power="eco", memory_bytes=2 << 30)
        self.limited = list(LIMITS)
        self.rows = list(ROWS)
        self.sharing = False
        self.refusal: Exception | None = None
        """What every order fails with."""
        self._tell = tell

    def status(self) -> GuestStatus:
        return self.now

    async def share(self, on: bool, *, finish: bool = False) -> None:
        self._may_refuse()
        finishing, self.sharing = finish and self.sharing and not on, on
        self._tell(Event("contribution", time.time(), {"enabled": on}))
        if on:
            self._becomes(consented=True, verdict="share", reason=FREE, paused_until=0.0, finishing=False)
        elif finishing:
            self._becomes(verdict="", reason="running sessions may end, then lending stops", finishing=True)
        else:
            self._becomes(verdict="", reason="sharing is off", finishing=False)

    async def pause(self, until: float) -> None:
        self._may_refuse()
        if until > time.time():
            self._becomes(verdict="pause" if self.sharing else "", reason="paused by you", paused_until=until)
        else:
            self._becomes(verdict="share" if self.sharing else "", reason=FREE, paused_until=0.0)

    def limits(self) -> list[Limit]:
        return self.limited

    async def set_limits(self, values: Mapping[str, object]) -> None:
        self._may_refuse()
        chosen = set_values(Choices(), values).values
        self.limited = [_with(limit, chosen.get(limit.key)) if limit.key in values else limit for limit in self.limited]

    async def ledger(self, days: int) -> list[LedgerRow]:
        shown = sorted({row.day for row in self.rows}, reverse=True)[:days]
        return [row for row in self.rows if row.day in shown]

    def _may_refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _becomes(self, **changed: object) -> None:
        self.now = replace(self.now, since=time.time(), **changed)  # type: ignore[arg-type]
        self._tell(Event("guest", time.time(), self.now.to_json()))


def _with(limit: Limit, value: object) -> Limit:
    if value is None:
        return replace(limit, value=limit.default, source="default")
    return replace(limit, value=value, source="choice")
