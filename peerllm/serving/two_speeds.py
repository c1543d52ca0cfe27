"""Eco and turbo at work: what each was measured to bring and to cost, and which of them counts now."""

from __future__ import annotations

from typing import Any

from peerllm.engine.scheduler import DecodeWork
from peerllm.engine.thread_cap import ThreadCap
from peerllm.guest_config import GuestConfig
from peerllm.serving.power_policy import Power, PowerMode, Speed, next_power
from peerllm.serving.watts import PackageWatts

LEAST_BUSY = 0.5
"""Share of the time between two looks: below, the watts are mostly those of a machine at rest."""

NEWEST = 0.3
"""Weight of the newest measurement."""


class TwoSpeeds:
    """Asked to `look` about once a second, in the event loop."""

    def __init__(self, cap: ThreadCap, watts: PackageWatts, now: float) -> None:
        self._cap = cap
        self._watts = watts
        self._looked_at = now
        self._work = DecodeWork()
        self._power = Power()
        self._speeds: dict[PowerMode, Speed] = {}

    @property
    def mode(self) -> PowerMode:
        return self._power.mode

    @property
    def watts(self) -> float | None:
        """What the processors draw in the present mode while the engine computes; None if that is not known."""
        speed = self._speeds.get(self.mode)
        return speed.watts if speed is not None else None

    def published(self) -> dict[str, Any]:
        """The fields of this peer's record."""
        speeds = tuple(
            (mode.value, round(speed.tokens_per_s, 2), round(speed.watts or 0.0, 1))
            for mode, speed in sorted(self._speeds.items())
        )
        return {"power": self.mode.value, "speeds": speeds}

    def look(self, now: float, work: DecodeWork, guest: GuestConfig) -> None:
        """Measure the mode that was, by all the `work` done so far, and choose the next."""
        passed_s, self._looked_at = now - self._looked_at, now
        before, self._work = self._work, work
        tokens, busy_s = work.tokens - before.tokens, work.busy_s - before.busy_s
        watts = self._watts.watts(now)
        if tokens < 0 or passed_s <= 0:  # another span counts anew, and what was measured says nothing of it
            self._speeds.clear()
            return
        if tokens and busy_s > 0:
            self._measure(tokens / busy_s, watts if busy_s >= LEAST_BUSY * passed_s else None)
        self._power = next_power(
            self._power,
            guest.power,
            self._speeds.get(PowerMode.ECO),
            self._speeds.get(PowerMode.TURBO),
            wanted_per_s=tokens / passed_s,
            goal_s=guest.goal_ms / 1e3,
        )
        self._cap.saving = self.mode is PowerMode.ECO

    def _measure(self, tokens_per_s: float, watts: float | None) -> None:
        known = self._speeds.get(self.mode)
        if known is None:
            self._speeds[self.mode] = Speed(tokens_per_s, watts)
            return
        rate = known.tokens_per_s + NEWEST * (tokens_per_s - known.tokens_per_s)
        if watts is not None and known.watts is not None:
            watts = known.watts + NEWEST * (watts - known.watts)
        self._speeds[self.mode] = Speed(rate, known.watts if watts is None else watts)
