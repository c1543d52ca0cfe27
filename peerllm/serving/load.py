"""How busy a span is: how long steps wait for its engine, and when a session may leave its slot to another.

Times are of a clock that never goes back, in seconds.
"""

from __future__ import annotations

SMOOTHING = 0.2
"""Weight of a new sample, as in `peerllm_swarm.latency`."""

QUIET_S = 5.0
"""After so long without a step nobody waits: what was measured before says nothing about now."""


class RecentWaits:
    """How long the last steps waited for the engine."""

    def __init__(self) -> None:
        self._average_ms = 0.0
        self._at = -QUIET_S

    def note(self, wait_ms: float, now: float) -> None:
        self._average_ms = self.average_ms(now) + SMOOTHING * (wait_ms - self.average_ms(now))
        self._at = now

    def average_ms(self, now: float) -> float:
        """What a new step has to expect; 0 when nothing has run for a while."""
        return self._average_ms if now - self._at < QUIET_S else 0.0


class Progress:
    """How far one session is on the way to all the tokens that its asker has reserved."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._reached = 0
        self._token_s: float | None = None
        self._decoded_at: float | None = None

    def note(self, reached: int, *, decoded: bool, now: float) -> None:
        """A step was computed up to that position; `decoded` if it was a token of the answer, or several."""
        tokens, self._reached = max(1, reached - self._reached), reached
        if decoded and self._decoded_at is not None:
            took_s = (now - self._decoded_at) / tokens
            self._token_s = took_s if self._token_s is None else self._token_s + SMOOTHING * (took_s - self._token_s)
        self._decoded_at = now if decoded else None

    @property
    def left_ms(self) -> float | None:
        """Until it has used all it reserved, which is the latest that it ends; None before its second token."""
        if self._token_s is None:
            return None
        return max(0, self._tokens - self._reached) * self._token_s * 1e3
