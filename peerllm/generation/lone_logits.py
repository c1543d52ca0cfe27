"""Logits of several rows that do not depend on their company: those that each row has when it is asked about alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from peerllm.engine.span_engine import Ends, Hidden
from peerllm.generation.sampler import Logits

TRIALS = 2
"""Of the same number of rows; the faster one counts, as whatever disturbs makes slower."""


@dataclass
class _Trial:
    """What is known of so many rows, in seconds for all of them."""

    made: int = 0
    same: bool = True
    alone_s: float = math.inf
    together_s: float = math.inf

    @property
    def together(self) -> bool:
        return self.same and self.together_s < self.alone_s


class LoneLogits:
    """Computes rows together where that leaves every bit and takes less time, which is tried out for each number.

    Both depend on type and shape of the head and on the kernels of this machine's processor. Where bits change, it
    shows in every row: the last ones of a whole vocabulary's logits do not agree by chance. And some kernels take
    longer for 2 to 5 rows together than for each of them (Q8_0 with AVX2: docs/performance.md#one-decode-step).
    """

    def __init__(self, ends: Ends, clock: Callable[[], float] = time.perf_counter) -> None:
        self._ends = ends
        self._clock = clock
        self._trials: dict[int, _Trial] = {}

    def of(self, hidden: Hidden) -> Iterator[Logits]:
        """Of each row of ``[T, D]`` in order; what is not asked for is not computed if rows have to go alone."""
        count = len(hidden)
        trial = self._trials.setdefault(count, _Trial())
        if count > 1 and trial.same and trial.made < TRIALS:
            yield from self._tried(hidden, trial)
        elif trial.together:
            yield from self._ends.logits(hidden)
        else:
            yield from (self._alone(hidden, at) for at in range(count))

    def _tried(self, hidden: Hidden, trial: _Trial) -> list[Logits]:
        begun = self._clock()
        alone = [self._alone(hidden, at) for at in range(len(hidden))]
        between = self._clock()
        together = self._ends.logits(hidden)
        ended = self._clock()
        trial.made += 1
        trial.same = np.array_equal(together, np.stack(alone))
        trial.alone_s = min(trial.alone_s, between - begun)
        trial.together_s = min(trial.together_s, ended - between)
        return alone

    def _alone(self, hidden: Hidden, at: int) -> Logits:
        return self._ends.logits(hidden[at : at + 1])[0]
