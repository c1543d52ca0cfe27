"""The thread of a model's two ends: answers that wait together share one pass through the head."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from peerllm.engine.span_engine import Hidden
from peerllm.errors import EngineError, GenerationError
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.lone_logits import TRIALS
from peerllm.generation.sampler import Logits, Sampler, SamplingParams

VOCABULARY = 7
NONSENSE = 3
"""Behind this value the logits are not finite."""
HELD_UP = (6,)


class CountingEnds:
    """A head that likes the token whose number is the row's only value, and counts the rows of its passes."""

    def __init__(self, *, broken: bool = False) -> None:
        self.passes: list[int] = []
        self.now_s = 0.0
        self.may_go_on = threading.Event()
        self._broken = broken

    def embed(self, tokens: Sequence[int]) -> Hidden:
        if tuple(tokens) == HELD_UP:
            self.may_go_on.wait(10)
        return np.asarray(tokens, np.float32)[:, None]

    def normed(self, hidden: Hidden) -> Hidden:
        return hidden

    def logits(self, hidden: Hidden) -> Logits:
        self.passes.append(len(hidden))
        self.now_s += 1.0
        if self._broken:
            raise EngineError("no head")
        logits = np.zeros((len(hidden), VOCABULARY), np.float32)
        logits[range(len(hidden)), hidden[:, 0].astype(int)] = 1
        logits[hidden[:, 0] == NONSENSE] = np.nan
        return logits

    def shutdown(self) -> None:
        pass

    def clock(self) -> float:
        return self.now_s


async def chosen_together(ends: CountingEnds, likely: Sequence[int], thread: EndsThread) -> list[object]:
    """What answers get that ask while the thread has something else to do."""
    ends.may_go_on.clear()
    busy = asyncio.create_task(thread.embed(HELD_UP))
    greedy = Sampler(SamplingParams(temperature=0.0))
    asked = [asyncio.create_task(thread.next_token(ends.embed((token,)), greedy, ())) for token in likely]
    await asyncio.sleep(0)
    ends.may_go_on.set()
    await busy
    return list(await asyncio.gather(*asked, return_exceptions=True))


def tokens_of(outcomes: Sequence[object]) -> list[object]:
    return [getattr(outcome, "token", type(outcome)) for outcome in outcomes]


def test_answers_that_wait_together_share_a_pass_and_get_their_own_tokens() -> None:
    async def main() -> None:
        ends = CountingEnds()
        thread = EndsThread(ends, ends.clock)
        for _ in range(TRIALS + 1):
            ends.passes.clear()
            assert tokens_of(await chosen_together(ends, [5, 1, 2], thread)) == [5, 1, 2]
        assert ends.passes == [3]
        assert tokens_of(await chosen_together(ends, [4], thread)) == [4]
        await thread.shutdown()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_one_answers_trouble_is_not_the_others() -> None:
    async def main() -> None:
        ends = CountingEnds()
        thread = EndsThread(ends, ends.clock)
        for _ in range(TRIALS + 1):
            assert tokens_of(await chosen_together(ends, [5, NONSENSE, 2], thread)) == [5, GenerationError, 2]
        await thread.shutdown()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_all_hear_of_a_head_that_fails() -> None:
    async def main() -> None:
        ends = CountingEnds(broken=True)
        thread = EndsThread(ends, ends.clock)
        assert tokens_of(await chosen_together(ends, [5, 1], thread)) == [EngineError, EngineError]
        with pytest.raises(EngineError, match="no head"):
            await thread.next_token(ends.embed((1,)), Sampler(SamplingParams()), ())
        await thread.shutdown()

    asyncio.run(asyncio.wait_for(main(), 30))
