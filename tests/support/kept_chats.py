"""Chats of several turns over peers that keep their sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from peerllm.engine.load import load_span
from peerllm.engine.span_engine import Ends
from peerllm.generation.answer import Doing
from peerllm.generation.kept_sessions import KeptSessions
from peerllm.generation.read_prompts import ReadPrompts
from peerllm.generation.route_terms import RouteTerms
from peerllm.generation.session import Chains, Ending, Session, open_session
from peerllm.model.store import StoredModel
from peerllm.wire.messages import Sharing
from peerllm_swarm.records import PeerState
from peerllm_swarm.span import BlockSpan
from peerllm_swarm.spot_checks import tolerance
from tests.support.peers import FINGERPRINT, until
from tests.support.recovery import FaultyEngine
from tests.support.spot_checked import CheckedSwarm, Disturb, Serving, checked_swarm

BLOCKS = 6


THIRDS = (BlockSpan(0, 2), BlockSpan(2, 4), BlockSpan(4, 6))


LIMIT = tolerance("llama", "q4_0")


TOKENS = 10


def words(seed: int, count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 300, count)]


def run(main: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 100))


@dataclass
class Chats:
    """A swarm and the sessions that its asker keeps."""

    swarm: CheckedSwarm
    ends: Ends
    kept: KeptSessions
    read: ReadPrompts = field(default_factory=lambda: ReadPrompts(Sharing.NOBODY))

    async def answer(
        self,
        prompt: Sequence[int],
        *,
        count: int = TOKENS,
        disturb: Disturb = lambda _: None,
        terms: RouteTerms = RouteTerms(),  # noqa: B008 - frozen
        ending: Ending | None = None,
    ) -> tuple[list[int], Session]:
        """An answer's tokens, and the session that made it."""
        for presence in self.swarm.presences:
            if presence.record.state is PeerState.ONLINE:
                await presence.publish()
        router, tokens = self.swarm.router.under(terms), len(prompt) + count
        known = router.prompt(self.read, FINGERPRINT)
        chains = Chains(
            partial(router.open, FINGERPRINT, BLOCKS, tokens, prompt=known),
            partial(router.mend, tokens=tokens, doing=Doing()),
            router.lost,
            ending or partial(router.keep, self.kept, FINGERPRINT),
            partial(router.resume, self.kept, FINGERPRINT, tokens, Doing(), prompt=known),
        )
        answer: list[int] = []
        new = list(prompt)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(known.close)
            session = await stack.enter_async_context(open_session(chains))
            while len(answer) < count:
                disturbing = disturb(len(answer))
                if disturbing is not None:
                    await disturbing
                hidden = await session.advance(self.ends.embed(new))
                known.been_read()
                new = [int(self.ends.logits(hidden)[0].argmax())]
                answer += new
        return answer, session

    async def fresh(self, prompt: Sequence[int], *, count: int = TOKENS) -> list[int]:
        """What is answered when nothing is kept."""
        unkept = Chats(self.swarm, self.ends, KeptSessions(keep_s=0.0, at_most=0))
        answer, session = await unkept.answer(prompt, count=count)
        assert session.cached_tokens == 0
        return answer

    @property
    def resting(self) -> list[int]:
        return [peer.handler.resting for peer in self.swarm.peers]

    @property
    def rows(self) -> list[int]:
        return [engine.rows for engine in self.swarm.engines]

    async def until_resting(self, count: int) -> None:
        await until(lambda: self.resting[: len(THIRDS)] == [count] * len(THIRDS))

    async def until_slots_are_free(self) -> None:
        """Every one of them, by the engine's own word."""
        await until(lambda: not any(self.resting) and not any(peer.handler.sessions for peer in self.swarm.peers))
        for peer in self.swarm.peers:
            slots = [await peer.scheduler.open() for _ in range(peer.scheduler.engine.info.slots)]
            for slot in slots:
                await peer.scheduler.close(slot)


@asynccontextmanager
async def chats(
    model: StoredModel,
    ends: Ends,
    home: Path,
    *,
    turns: int = 1,
    slots: int = 4,
    keep_s: float = 60.0,
    at_most: int = 4,
    probability: float = 0.0,
    sharing: Sharing = Sharing.NOBODY,
) -> AsyncIterator[Chats]:
    """For each third of the model as many peers as there are turns; those of the first are asked."""
    serving = [
        Serving(
            FaultyEngine(load_span(model, span, engine="llama", slots=slots, context_tokens=128, threads=1)),
            500.0 if turn else 0.1,
        )
        for turn in range(turns)
        for span in THIRDS
    ]
    kept = KeptSessions(keep_s=keep_s, at_most=at_most)
    async with (
        checked_swarm(home, serving, BLOCKS, limit=LIMIT, probability=probability) as swarm,
        contextlib.aclosing(kept),
    ):
        yield Chats(swarm, ends, kept, ReadPrompts(sharing))
