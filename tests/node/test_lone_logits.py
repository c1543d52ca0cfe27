"""Rows of several answers go through the head together only where nobody can tell, and where it pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from peerllm.engine.span_engine import Hidden
from peerllm.generation.lone_logits import TRIALS, LoneLogits
from peerllm.generation.sampler import Logits


class TimedEnds:
    """A head that takes a second per pass and so many more per row, and adds `blur` to rows in company."""

    def __init__(self, *, row_s: float, blur: float = 0.0) -> None:
        self.passes: list[int] = []
        self.now_s = 0.0
        self._row_s = row_s
        self._blur = blur

    def embed(self, tokens: Sequence[int]) -> Hidden:
        return np.asarray(tokens, np.float32)[:, None]

    def normed(self, hidden: Hidden) -> Hidden:
        return hidden

    def logits(self, hidden: Hidden) -> Logits:
        self.passes.append(len(hidden))
        self.now_s += 1 + self._row_s * len(hidden) ** 2
        return np.tile(hidden, 5) + (self._blur if len(hidden) > 1 else 0)

    def shutdown(self) -> None:
        pass

    def clock(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("ends", "passes"),
    [
        pytest.param(TimedEnds(row_s=0.1), [3], id="together"),
        pytest.param(TimedEnds(row_s=9.0), [1, 1, 1], id="faster alone"),
        pytest.param(TimedEnds(row_s=0.1, blur=1e-3), [1, 1, 1], id="other bits"),
    ],
)
def test_rows_have_their_own_logits_in_the_cheapest_way(ends: TimedEnds, passes: list[int]) -> None:
    lone, rows = LoneLogits(ends, ends.clock), ends.embed([4, 5, 6])
    for _ in range(TRIALS + 1):
        ends.passes.clear()
        np.testing.assert_array_equal(np.stack(list(lone.of(rows))), np.tile(rows, 5))
    assert ends.passes == passes


def test_a_lone_row_is_never_tried_out() -> None:
    ends = TimedEnds(row_s=0.1)
    lone = LoneLogits(ends, ends.clock)
    [_] = lone.of(ends.embed([4]))
    assert ends.passes == [1]


def test_rows_that_go_alone_and_are_not_asked_for_are_not_computed() -> None:
    ends = TimedEnds(row_s=9.0)
    lone, rows = LoneLogits(ends, ends.clock), ends.embed([4, 5, 6])
    for _ in range(TRIALS):
        list(lone.of(rows))
    ends.passes.clear()
    next(lone.of(rows))
    assert ends.passes == [1]
