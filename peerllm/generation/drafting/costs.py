"""What a round through the route takes by the rows that it carries, from the rounds so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from peerllm.generation.drafting.drafter import Verified

MOST_WEIGHT = 8
"""Rounds of as many rows that count; more say nothing more about the slope."""


@dataclass(frozen=True)
class RoundCost:
    """A round of n rows takes `fixed_ms` + n * `row_ms`; a row holds one token."""

    fixed_ms: float
    row_ms: float

    def ms(self, rows: int) -> float:
        return self.fixed_ms + rows * self.row_ms

    def with_drafting(self, draft_ms: float) -> RoundCost:
        """The same where each guessed row costs so much beforehand; the first row is none."""
        return RoundCost(max(0.0, self.fixed_ms - draft_ms), self.row_ms + draft_ms)


@dataclass(frozen=True)
class _Point:
    rows: float
    ms: float
    weight: float


def round_cost(rounds: Sequence[Verified]) -> RoundCost | None:
    """From the rounds of one answer; None before the first one.

    Until many had several rows, computing is taken to grow with them from nothing on, as it does where the processor
    is the bound, and the network not to: so a wrong first guess makes drafts too short, not too long.
    """
    alone = [done for done in rounds if not done.overlapped] or rounds
    if not alone:
        return None
    links = _fitted(_points((done, done.round_ms - done.compute_ms) for done in alone))
    several = sum(1 for done in alone if done.drafted)
    doubt = _Point(0.0, 0.0, MOST_WEIGHT / (1 + several))
    computing = _fitted([doubt, *_points((done, done.compute_ms + done.ends_ms) for done in alone)])
    return RoundCost(links.fixed_ms + computing.fixed_ms, links.row_ms + computing.row_ms)


def _points(timed: Iterable[tuple[Verified, float]]) -> list[_Point]:
    """One for each number of rows: a round that was held up by something else must not bend the line."""
    by_rows: defaultdict[int, list[float]] = defaultdict(list)
    for done, ms in timed:
        by_rows[done.drafted + 1].append(max(0.0, ms))
    return [_Point(rows, median(times), min(len(times), MOST_WEIGHT)) for rows, times in by_rows.items()]


def _fitted(points: Sequence[_Point]) -> RoundCost:
    """The line of least squares that neither falls nor begins below 0."""
    whole = sum(point.weight for point in points)
    rows = sum(point.weight * point.rows for point in points) / whole
    ms = sum(point.weight * point.ms for point in points) / whole
    spread = sum(point.weight * (point.rows - rows) ** 2 for point in points)
    together = sum(point.weight * (point.rows - rows) * (point.ms - ms) for point in points)
    slope = max(0.0, together / spread) if spread else 0.0
    slope = min(slope, ms / rows)
    return RoundCost(ms - slope * rows, slope)
