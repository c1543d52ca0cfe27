"""What a part of the run is told, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.speed.figure import Figure, Samples
from bench.speed.turns import Effort


@dataclass(frozen=True)
class Run:
    """What all parts are told."""

    quick: bool
    transport: str
    cores: int

    def effort(self, *, rounds: int, budget_s: float) -> Effort:
        """A quick run does with a few rounds."""
        return Effort(3, budget_s / 4) if self.quick else Effort(rounds, budget_s)


@dataclass(frozen=True)
class Measured:
    """What a part found: rows, and every burst behind them."""

    figures: list[Figure]
    samples: Mapping[str, Samples] = field(default_factory=dict[str, Samples])
    """Model or set-up -> contenders."""
    series: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Whatever else is worth keeping."""
