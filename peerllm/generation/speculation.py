"""Where an answer's tokens come from: rounds through the route, each of which makes one token or several.

A round may carry tokens that were guessed (`generation.drafting`) beside the last one of the answer. What comes out
behind every row is what would have come out had the tokens been made one by one, so the sampler draws as ever, with
the same numbers of the same seed: what it draws is the answer's next token, and while that is the one that was guessed,
the row behind it is of use as well. So guesses change no token, only how many come of a round: docs/adr/0023.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np

from peerllm.engine.span_engine import Hidden
from peerllm.generation.drafting.drafter import KEPT_ROUNDS, MOST_AHEAD, Drafting, Plan, Verified
from peerllm.generation.ends_thread import Choosing, EndsThread, NextToken
from peerllm.generation.session import Session
from peerllm.wire.messages import Want

MOST_ROWS = 48
"""Of a round: as many as llama.cpp computes at once (docs/adr/0008)."""


@dataclass
class RoundCounts:
    """Of one answer so far."""

    rounds: int = 0
    """Through the route, behind the prompt's."""
    drafted: int = 0
    """Tokens that were guessed and sent along."""
    accepted: int = 0
    """Of these, in the answer."""


def decoded(
    hidden: Hidden,
    session: Session,
    ends: EndsThread,
    choosing: Choosing,
    drafting: Drafting | None,
    at_most: int,
    counts: RoundCounts,
) -> AsyncGenerator[NextToken]:
    """Up to so many tokens behind the last row ``[1, D]`` of the prompt, which is `choosing.history`."""
    if drafting is None:
        return _one_by_one(hidden, session, ends, choosing, at_most, counts)
    return Speculation(session, ends, choosing, drafting, at_most, counts).tokens(hidden)


async def _one_by_one(
    hidden: Hidden, session: Session, ends: EndsThread, choosing: Choosing, at_most: int, counts: RoundCounts
) -> AsyncGenerator[NextToken]:
    for left in range(at_most, 0, -1):
        [next_token] = await ends.next_tokens(hidden, (), choosing)
        yield next_token
        if left > 1:
            counts.rounds += 1
            hidden = await session.advance(next_token.embedded)


@dataclass(frozen=True)
class _Round:
    """Rows under way; that of the first token is the one behind `history`, once all rounds before have held."""

    tokens: tuple[int, ...]
    guessed: int
    """Of these, the last so many: all but the first, or all if another round was under way."""
    draft_ms: float
    ends_ms: float


class Speculation:
    """The rounds of one answer."""

    def __init__(
        self,
        session: Session,
        ends: EndsThread,
        choosing: Choosing,
        drafting: Drafting,
        at_most: int,
        counts: RoundCounts,
    ) -> None:
        """`choosing.history` is the prompt, behind which at most so many tokens come."""
        self._session = session
        self._ends = ends
        self._choosing = choosing
        self._drafting = drafting
        self._last = len(choosing.history) + at_most
        self._counts = counts
        self._under_way: deque[_Round] = deque()
        self._done: deque[Verified] = deque(maxlen=KEPT_ROUNDS)

    async def tokens(self, hidden: Hidden) -> AsyncGenerator[NextToken]:
        """Those behind the prompt, whose last row is ``[1, D]``."""
        history = self._choosing.history
        if len(history) == self._last:
            return
        [latest] = await self._ends.next_tokens(hidden, (), self._choosing)
        yield latest
        while len(history) < self._last:
            await self._send(latest)
            guesses = self._guesses()
            for at, latest in enumerate(await self._verified(guesses)):
                self._counts.accepted += at < len(guesses) and latest.token == guesses[at]
                yield latest

    async def _send(self, latest: NextToken) -> None:
        """Put under way what the plan says; where nothing is, at least the answer's latest token."""
        plan = self._drafting.policy(tuple(self._done))
        if not self._under_way:
            await self._send_round(latest, await self._drafted(plan))
        while plan.length and len(self._under_way) <= min(plan.ahead, MOST_AHEAD):
            tokens, draft_ms = await self._drafted(plan)
            if not tokens:
                break
            await self._send_round(None, (tokens, draft_ms))

    async def _drafted(self, plan: Plan) -> tuple[tuple[int, ...], float]:
        """Guesses behind all that is known or under way, and how many milliseconds they took."""
        history = self._choosing.history
        tokens = [*history, *self._guesses()]
        at_most = min(plan.length, MOST_ROWS - 1, self._last - 1 - len(tokens))  # behind the last token nothing comes
        if at_most <= 0:
            return (), 0.0
        began = time.perf_counter()
        drafted = await self._drafting.drafter.propose(tokens, len(history), at_most)
        return tuple(drafted[:at_most]), (time.perf_counter() - began) * 1e3

    async def _send_round(self, latest: NextToken | None, drafted: tuple[tuple[int, ...], float]) -> None:
        """Rows of the answer's latest token, unless that is under way already, and of the guesses."""
        guesses, draft_ms = drafted
        began = time.perf_counter()
        rows = [latest.embedded] if latest is not None else []
        if guesses:
            rows.append(await self._ends.embed(guesses))
        ends_ms = (time.perf_counter() - began) * 1e3
        known = (latest.token,) if latest is not None else ()
        hidden = rows[0] if len(rows) == 1 else np.concatenate(rows)
        self._under_way.append(_Round((*known, *guesses), len(guesses), draft_ms, ends_ms))
        self._counts.rounds += 1
        self._counts.drafted += len(guesses)
        await self._session.send(hidden, Want.EACH if len(hidden) > 1 else Want.LAST)

    def _guesses(self) -> list[int]:
        """All that are under way, behind the answer's latest token, which is the first row of all."""
        return [token for under_way in self._under_way for token in under_way.tokens][1:]

    async def _verified(self, guesses: Sequence[int]) -> Sequence[NextToken]:
        """What the first round under way makes of its guesses; what it proves wrong is forgotten."""
        verified = self._under_way.popleft()
        position = len(self._choosing.history) - 1
        passed = await self._session.take()
        began = time.perf_counter()
        made = await self._ends.next_tokens(passed.rows, guesses, self._choosing)
        walk_ms = (time.perf_counter() - began) * 1e3
        held = len(made) if len(made) <= len(guesses) and made[-1].token == guesses[len(made) - 1] else len(made) - 1
        own = len(verified.tokens) - 1
        self._done.append(
            Verified(
                drafted=verified.guessed,
                accepted=min(held, own) + verified.guessed - own,
                round_ms=passed.round_ms,
                compute_ms=passed.compute_ms,
                draft_ms=verified.draft_ms,
                ends_ms=verified.ends_ms + walk_ms,
                overlapped=passed.overlapped,
            )
        )
        if held < min(len(made), len(guesses)) or len(made) < len(verified.tokens):
            self._session.back_to(position + len(made))
            self._under_way.clear()
        return made
