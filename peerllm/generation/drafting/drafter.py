"""The seam between whoever guesses how an answer goes on and the rounds that check it (`generation.speculation`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Verified:
    """One round through the route: what was guessed for it, what of that held, and what it cost."""

    drafted: int
    """Tokens that were guessed and sent along; 0: a round as without speculation."""
    accepted: int
    """Of these, those that the answer has: the first so many."""
    round_ms: float
    """From sending the rows until the last of them came out; where rounds overlap each counts from its own sending."""
    compute_ms: float
    """Of that, what the hops say that they had the rows, waiting for the engine included."""
    draft_ms: float = 0.0
    """What the drafter took before the rows could be sent."""
    ends_ms: float = 0.0
    """What embedding the rows, and head and sampling for all that came out, took."""
    overlapped: bool = False
    """It was sent before an earlier one had come back: its times hold waiting that is none of its own."""


@dataclass(frozen=True)
class Plan:
    """What the next round is to look like."""

    length: int
    """Tokens to guess at most; 0: none, which is a round as without speculation."""
    ahead: int = 0
    """Further rounds, of as many guessed tokens each, to send before the first has come back (`MOST_AHEAD`)."""


Policy = Callable[[Sequence[Verified]], Plan]
"""How to go on after these rounds of the answer, the latest of them last (`KEPT_ROUNDS` at most)."""

KEPT_ROUNDS = 64
MOST_AHEAD = 2


class Drafter(Protocol):
    """Guesses for one answer; one call at a time."""

    async def propose(self, tokens: Sequence[int], settled: int, at_most: int) -> Sequence[int]:
        """Up to so many tokens that may follow `tokens`; none or fewer where more would not pay.

        The first `settled` of `tokens` are the prompt and what the answer has for certain; those behind are guesses
        that are under way. In a later call `tokens` may part from those of an earlier one behind what was settled.
        It is asked before every round for which the plan has a length, so that it learns from what became of the
        tokens whether its guesses would have held; where it has none for a round ahead, that round is not sent.
        """
        ...

    async def aclose(self) -> None:
        """The answer has ended."""
        ...


@dataclass(frozen=True)
class Drafting:
    """How one answer is guessed ahead."""

    drafter: Drafter
    policy: Policy
