"""Two speeds of one machine, and the least share of the fast one that keeps the goal. Pure.

One engine at work is a server with exponential times: asked for `wanted` tokens a second and able to make `able`, it
takes 1 / (able - wanted) for one on average. In turbo for a share q of them it is able to make q * turbo + (1 - q) *
eco; the least q that brings the average down to the goal is the cheapest, as turbo costs more per token.
Source: Badita, Jinan, Vamanan, Parag, arXiv 2108.08199.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PowerMode(StrEnum):
    ECO = "eco"  # one thread
    TURBO = "turbo"  # as many as are fastest


@dataclass(frozen=True)
class Speed:
    """Of one mode, as measured: tokens per second of work through this machine's blocks; watts None if unknown."""

    tokens_per_s: float
    watts: float | None = None


@dataclass(frozen=True)
class Power:
    """The mode now, and what turbo is owed: its share adds up until it is due for a while."""

    mode: PowerMode = PowerMode.ECO
    owed: float = 0.0


def turbo_share(eco: Speed, turbo: Speed, wanted_per_s: float, goal_s: float) -> float:
    """The least share of turbo, 0 to 1, with which a token takes `goal_s` on average; 1 if none does."""
    if turbo.tokens_per_s <= eco.tokens_per_s:
        return 0.0  # it would cost more and bring nothing
    needed_per_s = wanted_per_s + 1 / goal_s
    return min(1.0, max(0.0, (needed_per_s - eco.tokens_per_s) / (turbo.tokens_per_s - eco.tokens_per_s)))


def next_power(
    power: Power, setting: str, eco: Speed | None, turbo: Speed | None, *, wanted_per_s: float, goal_s: float
) -> Power:
    """What to do until this is asked again.

    Args:
        setting: guest.power, "eco", "turbo" or "auto".
        eco, turbo: None what was never measured; auto then tries it.
        wanted_per_s: tokens per second that others ask for; with 0 there is nothing to be fast for.
        goal_s: for one token; 0 is as fast as can be.
    """
    if setting != "auto":
        return Power(PowerMode(setting))
    if not wanted_per_s:
        return Power(PowerMode.ECO)
    if not goal_s:
        return Power(PowerMode.TURBO)
    if eco is None or turbo is None:
        return Power(PowerMode.ECO if eco is None else PowerMode.TURBO)
    owed = power.owed + turbo_share(eco, turbo, wanted_per_s, goal_s)
    return Power(PowerMode.TURBO, owed - 1) if owed >= 1 else Power(PowerMode.ECO, owed)
