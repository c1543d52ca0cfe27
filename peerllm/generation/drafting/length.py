"""How many guessed tokens are worth sending along: tokens per second are what is made most of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from peerllm.generation.drafting.costs import RoundCost

GAIN_TO_BEGIN = 1.08
"""So much faster a draft must be expected to be where the round before had none: figures are never quite right, and
going back and forth costs as well. To go on takes just more than what is `NEARLY` as good."""

NEARLY = 0.97
"""Of the highest speed: rows that hardly gain anything are the hops' work all the same, and chances are estimates."""


@dataclass(frozen=True)
class Choice:
    """Guessed tokens to send along, and the tokens per millisecond that are then expected."""

    length: int
    rate: float


def best_length(chances: Sequence[float], cost: RoundCost, *, least_gain: float = 1.0) -> Choice:
    """The most profitable number of guesses, or a lower one that is `NEARLY` so; 0 if none gains `least_gain`.

    Args:
        chances: of each guess to hold if all before it do.
        cost: of a round by its rows, of which there is one more than guesses.
    """
    expected = accumulate(accumulate(chances, mul), initial=1.0)
    choices = [Choice(length, tokens / cost.ms(length + 1)) for length, tokens in enumerate(expected)]
    best_rate = max(choice.rate for choice in choices)
    if best_rate < least_gain * choices[0].rate:
        return choices[0]
    return next(choice for choice in choices if choice.rate >= NEARLY * best_rate)


def most_gain(cost: RoundCost, length: int) -> float:
    """How many times faster a round with so many guesses is if they all hold."""
    return (length + 1) * cost.ms(1) / cost.ms(length + 1)


def length_ahead(chances: Sequence[float], held: float, cost: RoundCost, rate: float) -> int:
    """How many guesses to send while an earlier round is still under way; its guesses all hold with chance `held`.

    Rows that are sent into a wait cost no time on the way, but hops compute them, and what must be corrected waits
    behind them: so each is worth its row's time at the `rate` that is reached without them, in tokens per millisecond.
    """
    worth = [held * chance >= rate * cost.row_ms for chance in accumulate(chances, mul)]
    return worth.index(False) if False in worth else len(worth)


EXPLORE_AFTER = 16
"""Rounds without guesses after which it is worth one round to learn what a row costs here; each time twice as many."""

LOOK_EVERY = 8
"""Rounds between two looks at what could be guessed, while nothing could pay that holds."""

EXPLORING_ROWS = 2

LIKELY = 0.8


def exploring_length(chances: Sequence[float], since: int, explored: int) -> int:
    """Guesses to send only to learn what rows cost: few, likely ones, and seldom; else 0.

    Until a round had several rows each is taken to cost as much as the first one, which is true of some processors
    and formats of weights and far too dear for others.

    Args:
        since: rounds without guesses since the last with some, or since the answer began.
        explored: how often that has been done for this answer.
    """
    if since < EXPLORE_AFTER << explored or not chances or chances[0] < LIKELY:
        return 0
    return min(EXPLORING_ROWS, len(chances))
