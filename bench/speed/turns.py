"""Contenders in short bursts, taking turns: a load that comes and goes hits all of them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.speed.figure import Samples

T = TypeVar("T")

FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Effort:
    """How long a part may go on measuring: so many rounds, or fewer (3 at least) once the time is up."""

    rounds: int
    budget_s: float


async def take_turns(contenders: Mapping[str, Callable[[], Awaitable[T]]], effort: Effort) -> dict[str, list[T | None]]:
    """What each burst gave, None where it failed. One round more comes first, warms up and does not count.

    Every other round goes backwards, so that nobody always runs behind the same neighbour.
    """
    taken: dict[str, list[T | None]] = {name: [] for name in contenders}
    forwards = list(contenders.items())
    started = time.monotonic()
    for turn in range(effort.rounds + 1):
        if turn > FEWEST_ROUNDS and time.monotonic() - started > effort.budget_s:
            break
        for name, burst in forwards if turn % 2 else reversed(forwards):
            gave = await _tried(name, burst)
            if turn:
                taken[name].append(gave)
    return taken


def numbers(taken: Mapping[str, Sequence[T | None]], number: Callable[[T], float] = float) -> Samples:
    """One number per burst, NaN for one that failed."""
    return {name: [math.nan if burst is None else number(burst) for burst in bursts] for name, bursts in taken.items()}


async def _tried(name: str, burst: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await burst()
    except Exception as error:  # one burst lost is a number less, which the table says; the others go on
        print(f"  a burst of '{name}' failed: {type(error).__name__}: {error}", file=sys.stderr)
        return None
