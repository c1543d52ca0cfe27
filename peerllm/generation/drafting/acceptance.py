"""How often guesses of each kind have held: what a further one of that kind is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

MOST_AGREEING = 9
"""Tokens that agree before a guess; more are not told apart."""

FORGET_AT = 512
"""Guesses of a kind after which older ones count half, so that it is judged by how it does now."""

PRIOR_GUESSES = 4.0
"""For as many guesses counts what is known from elsewhere."""


class Source(StrEnum):
    """Where a guess comes from."""

    TEXT = "text"
    """The prompt or the answer so far."""
    PREDICTION = "prediction"
    """What the request said that the answer may be like."""
    MODEL = "model"
    """A smaller model on this machine."""


class Kind(NamedTuple):
    """Guesses that hold about equally often: of one source, behind so many agreeing tokens, in line with a copy."""

    source: Source
    agreeing: int = 0
    """Of a model's guess how sure it is, in tenths."""
    follows: bool = False

    def run(self, length: int) -> tuple[Kind, ...]:
        """Those of so many copied guesses in a row: each has the ones before it agreeing as well, or is never asked."""
        told_apart = range(min(self.agreeing, MOST_AGREEING), MOST_AGREEING)
        kinds = tuple(Kind(self.source, agreeing, self.follows) for agreeing in told_apart[:length])
        return kinds + (Kind(self.source, MOST_AGREEING, self.follows),) * (length - len(kinds))


_COPIED = (0.05, 0.15, 0.40, 0.60, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
"""By agreeing tokens. Measured with SmolLM2-135M-Instruct, greedy: lists, code, explanations and stories."""

_PREDICTED = 0.5
"""Of what a request predicts, at least: nobody would take the trouble for less."""

_INSTEAD = 0.3
"""Of a text to go on as the copied one behind a token that it has instead of another."""


def first_chance(kind: Kind) -> float:
    """What is assumed before any guess of the kind was made."""
    if kind.source is Source.MODEL:
        return (kind.agreeing + 0.5) / 10
    copied = _INSTEAD if kind.follows and not kind.agreeing else _COPIED[min(kind.agreeing, MOST_AGREEING)]
    return max(copied, _PREDICTED) if kind.source is Source.PREDICTION else copied


LEAN_STEP, MOST_LEAN = 0.5, 4.0
"""How far one guess moves what all kinds of an answer are taken for, in logits, and how far many may."""


class Acceptance:
    """Counts by kind; those of one answer build on those of all before it.

    An answer has few guesses of each kind, but where some hold more often than elsewhere, so do the others: a list
    that repeats itself does so throughout. Hence all kinds of an answer lean to one side together.
    """

    def __init__(self, prior: Acceptance | None = None) -> None:
        self._prior = prior
        self._held: dict[Kind, float] = {}
        self._tried: dict[Kind, float] = {}
        self._lean = 0.0

    @property
    def tried(self) -> Mapping[Kind, float]:
        """Guesses by kind, older ones counted less."""
        return self._tried

    def chance(self, kind: Kind) -> float:
        """That a guess of this kind holds if all before it in its draft do; between 0 and 1, never quite either."""
        held, tried = self._held.get(kind, 0.0), self._tried.get(kind, 0.0)
        return (held + PRIOR_GUESSES * self._assumed(kind)) / (tried + PRIOR_GUESSES)

    def chances(self, kinds: Sequence[Kind]) -> list[float]:
        """Of each guess of a draft."""
        known = {kind: self.chance(kind) for kind in set(kinds)}
        return [known[kind] for kind in kinds]

    def note(self, kind: Kind, held: bool) -> None:
        """One guess has come out; here, and in what this builds on."""
        if self._prior is not None:
            self._lean += LEAN_STEP * (held - self._assumed(kind))
            self._lean = max(-MOST_LEAN, min(self._lean, MOST_LEAN))
        if self._tried.get(kind, 0.0) >= FORGET_AT:
            self._tried[kind] /= 2
            self._held[kind] = self._held.get(kind, 0.0) / 2
        self._tried[kind] = self._tried.get(kind, 0.0) + 1
        self._held[kind] = self._held.get(kind, 0.0) + held
        if self._prior is not None:
            self._prior.note(kind, held)

    def _assumed(self, kind: Kind) -> float:
        """What is known from elsewhere, as this answer leans."""
        if self._prior is None:
            return first_chance(kind)
        chance = self._prior.chance(kind)
        return 1 / (1 + (1 - chance) / chance * math.exp(-self._lean))
