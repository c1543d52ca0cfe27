"""The model's two ends on a thread of their own, so that the event loop never waits for arithmetic.

Answers that wait for a token at the same moment get theirs out of one pass through the head where that is faster
(`lone_logits`); in between the thread takes whatever has come in the meantime.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from peerllm.engine.reply import Reply
from peerllm.engine.span_engine import Ends, Hidden
from peerllm.errors import EngineError
from peerllm.generation.constraint import Constraint
from peerllm.generation.lone_logits import LoneLogits
from peerllm.generation.sampler import Logits, Sampler, TokenLogprob, logprobs

T = TypeVar("T")

Scores = tuple[TokenLogprob, tuple[TokenLogprob, ...]]
"""A token's log probability, and the likeliest tokens in its place."""


@dataclass(frozen=True)
class NextToken:
    """A token that was chosen, what it looks like to the blocks ``[1, D]``, and its scores if they were asked for."""

    token: int
    embedded: Hidden
    scores: Scores | None = None
    completes: bool = False
    """Nothing but the end may follow, by what the answer has to follow."""


@dataclass(frozen=True)
class Choosing:
    """How the tokens of one answer are chosen, each behind all that are in `history`."""

    sampler: Sampler
    history: list[int]
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    """So many alternatives to each token's score; None: no scores."""
    ends_at: Collection[int] = ()
    """Tokens behind which there is nothing to choose."""


@dataclass(frozen=True)
class _Call:
    """Anything that needs the ends."""

    run: Callable[[], Any]
    done: Reply[Any]


@dataclass(frozen=True)
class _Choice:
    """A token that is to be chosen behind one row ``[1, D]``, possibly beside those of other answers."""

    hidden: Hidden
    choosing: Choosing
    done: Reply[list[NextToken]]


class EndsThread:
    """Owns `ends`; every method runs there, one call at a time, but for single tokens of several answers."""

    def __init__(self, ends: Ends, clock: Callable[[], float] = time.perf_counter) -> None:
        self._ends = ends
        self._lone_logits = LoneLogits(ends, clock)
        self._inbox: SimpleQueue[_Call | _Choice | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ends", daemon=True)
        self._thread.start()

    async def embed(self, tokens: Sequence[int]) -> Hidden:
        """``[T, D]`` float32."""
        return await self._run(lambda: self._ends.embed(tokens))

    async def next_token(self, hidden: Hidden, sampler: Sampler, history: Sequence[int]) -> NextToken:
        """Sample behind the last row ``[1, D]``."""
        [next_token] = await self.next_tokens(hidden, (), Choosing(sampler, list(history)))
        return next_token

    async def next_tokens(self, hidden: Hidden, guesses: Sequence[int], choosing: Choosing) -> list[NextToken]:
        """Sample behind each row ``[T, D]``, as long as the rows are those of the tokens that are sampled.

        What is sampled is added to the history. Row 1 is that of the first guess, and so on: it is of use only if this
        is what was sampled behind row 0. At least one token. It is one that the constraint allows, which then stands
        behind it; scores are those of the model alone. One call for all of it: a change of thread costs as much as the
        sampling itself.
        """
        if len(hidden) > 1:
            return await self._run(lambda: self._chosen(hidden, guesses, choosing))
        choice = _Choice(hidden, choosing, Reply())
        self._inbox.put(choice)
        return await choice.done

    async def scores(self, hidden: Hidden, tokens: Sequence[int], top_logprobs: int) -> list[Scores]:
        """Those of each token behind its row of ``[T, D]``."""

        def run() -> list[Scores]:
            rows = self._ends.logits(hidden)
            return [logprobs(row, token, top_logprobs) for row, token in zip(rows, tokens, strict=True)]

        return await self._run(run)

    async def normed(self, hidden: Hidden) -> Hidden:
        """``[T, D]`` behind the final norm."""
        return await self._run(lambda: self._ends.normed(hidden))

    async def shutdown(self) -> None:
        """Free the ends and end the thread, after the calls that wait."""
        try:
            await self._run(self._ends.shutdown)
        finally:
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    def _chosen(self, hidden: Hidden, guesses: Sequence[int], choosing: Choosing) -> list[NextToken]:
        chosen: list[NextToken] = []
        for at, logits in enumerate(self._lone_logits.of(hidden)):
            chosen.append(self._next(logits, choosing))
            last = chosen[-1]
            if last.completes or last.token in choosing.ends_at or [last.token] != list(guesses[at : at + 1]):
                break
        return chosen

    def _next(self, logits: Logits, choosing: Choosing) -> NextToken:
        constraint, scored = choosing.constraint, choosing.top_logprobs
        token = choosing.sampler.sample(logits, choosing.history, None if constraint is None else constraint.mask())
        if constraint is not None:
            constraint.accept(token)
        choosing.history.append(token)
        scores = None if scored is None else logprobs(logits, token, scored)
        completes = constraint is not None and constraint.is_complete
        return NextToken(token, self._ends.embed((token,)), scores, completes)

    async def _run(self, work: Callable[[], T]) -> T:
        reply: Reply[T] = Reply()
        self._inbox.put(_Call(work, reply))
        return await reply

    def _work(self) -> None:
        while True:
            waiting = self._waiting()
            if choices := [call for call in waiting if isinstance(call, _Choice)]:
                self._choose(choices)
            for call in waiting:
                if call is None:
                    return
                if isinstance(call, _Call):
                    call.done.give_outcome(call.run)

    def _waiting(self) -> list[_Call | _Choice | None]:
        """Everything that has arrived; waits for the first."""
        waiting = [self._inbox.get()]
        try:
            while True:
                waiting.append(self._inbox.get_nowait())
        except Empty:
            return waiting

    def _choose(self, choices: Sequence[_Choice]) -> None:
        rows = choices[0].hidden if len(choices) == 1 else np.concatenate([choice.hidden for choice in choices])
        logits = self._lone_logits.of(rows)
        for choice in choices:
            choice.done.give_outcome(lambda choice=choice: [self._next(_following(logits), choice.choosing)])


def _following(logits: Iterator[Logits]) -> Logits:
    """The next row's; raises `EngineError` if there is none, as the head has failed at an earlier one."""
    for row in logits:
        return row
    raise EngineError("the head failed at the row of another answer")
