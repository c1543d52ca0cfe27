"""How long a chain's decode rounds took, and where: what the hops say of themselves, and what is left of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

KEPT_ROUNDS = 256
"""The last ones count: a long answer is to be judged by how it goes now."""


@dataclass(frozen=True)
class RoundTimes:
    """Medians of decode rounds, in milliseconds; one entry per hop in `queue_ms` and `compute_ms`."""

    round_ms: float
    queue_ms: tuple[float, ...]
    compute_ms: tuple[float, ...]
    ends_ms: float  # between one round's end and the next one's start, 0 if there was one round only

    @property
    def links_ms(self) -> float:
        """What all links of the round took together, with framing and waking up: what no hop accounts for."""
        return max(0.0, self.round_ms - sum(self.queue_ms) - sum(self.compute_ms))


class Rounds:
    """The decode rounds of one chain of so many hops; times are of a clock that never goes back, in seconds."""

    def __init__(self, hops: int) -> None:
        self._hops = hops
        self._rounds_ms: deque[float] = deque(maxlen=KEPT_ROUNDS)
        self._ends_ms: deque[float] = deque(maxlen=KEPT_ROUNDS)
        self._timings: deque[tuple[tuple[int, int], ...]] = deque(maxlen=KEPT_ROUNDS)
        self._ended_at: float | None = None
        self.made = 0

    def add(self, started_at: float, ended_at: float, timings: Sequence[tuple[int, int]]) -> None:
        """One round, with (queue, compute) in microseconds of each hop; one that lacks a hop's cannot be split."""
        if self._ended_at is not None:
            self._ends_ms.append((started_at - self._ended_at) * 1e3)
        self._ended_at = ended_at
        self.made += 1
        if len(timings) == self._hops:
            self._rounds_ms.append((ended_at - started_at) * 1e3)
            self._timings.append(tuple(timings))

    def interrupted(self) -> None:
        """Something else went through the chain: the time until the next round is not the ends' alone."""
        self._ended_at = None

    @property
    def last_ms(self) -> float:
        """The last round; 0 before the first one."""
        return self._rounds_ms[-1] if self._rounds_ms else 0.0

    def recent(self, count: int) -> RoundTimes | None:
        """Medians of the last so many rounds; None before there were as many."""
        return self._medians(count) if len(self._rounds_ms) >= count else None

    def medians(self) -> RoundTimes | None:
        """None before the first round."""
        return self._medians(KEPT_ROUNDS) if self._rounds_ms else None

    def _medians(self, count: int) -> RoundTimes:
        by_hop = list(zip(*list(self._timings)[-count:], strict=True))
        return RoundTimes(
            round_ms=median(list(self._rounds_ms)[-count:]),
            queue_ms=tuple(median(queue for queue, _ in hop) / 1e3 for hop in by_hop),
            compute_ms=tuple(median(compute for _, compute in hop) / 1e3 for hop in by_hop),
            ends_ms=median(self._ends_ms) if self._ends_ms else 0.0,
        )
