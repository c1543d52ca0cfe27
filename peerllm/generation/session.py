"""One answer's way through the swarm: a chain while it lasts, mended when a hop is lost, else another one.

Rows whose outcome nobody knows yet are under way; what has come out stands behind them. A lost hop is replaced for what
has come out, and the rows under way are sent once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from peerllm.engine.span_engine import Hidden
from peerllm.errors import HistoryLost, HopBusy, HopLost, NoPeers
from peerllm.generation.chain import Chain
from peerllm.generation.kept_sessions import KeptSession
from peerllm.generation.steps import Passed, StepUnderWay
from peerllm.wire.messages import Want
from peerllm_swarm.span import PeerId

T = TypeVar("T")

log = logging.getLogger(__name__)

Mend = Callable[[Chain, AbstractSet[PeerId], Hidden, bool], Awaitable[None]]
"""Have others do what these hops did (`Chain.mend`), and wait for such others if the last argument says so."""


Resume = Callable[[Hidden], Awaitable[KeptSession | None]]
"""A session that was kept and begins with the same rows (`KeptSessions.take`)."""

Ending = Callable[[Chain, Sequence[Hidden], AsyncExitStack], None]
"""Told of the chain of a session that has come to rest, and of what went into it; whoever still needs the chain takes
over what the stack holds (`pop_all`) and closes it later."""


def closes(chain: Chain, inputs: Sequence[Hidden], stack: AsyncExitStack) -> None:
    """Nobody needs the chain."""


async def none_kept(hidden: Hidden) -> KeptSession | None:
    return None


@dataclass(frozen=True)
class Chains:
    """Where a session's chains come from."""

    open: Callable[[], AbstractAsyncContextManager[Chain]]
    """The cheapest one now; raises `HopLost` or, when nothing covers the model, `NoPeers`."""
    mend: Mend
    """Raises `HopLost`, `HistoryLost`, or `NoPeers` when nothing covers the lost blocks."""
    lost: Callable[[HopLost], None]
    """Told of a hop that failed, so that the next chain goes without it."""
    ending: Ending = closes
    resume: Resume = none_kept


MAX_RECOVERIES = 8
"""Per answer. A swarm that loses more hops than that during one answer is not going to finish it."""


SETTLE_S = 1.0
"""At the end of a session, for steps that are of no use any more: with one under way it cannot be kept."""


@dataclass(eq=False)
class _Put:
    """Rows that were put in, and the step of the present chain in which they are under way, if they are."""

    hidden: Hidden
    position: int
    want: Want
    step: StepUnderWay | None = None


class Session:
    """Hidden states in, the last row of what the whole model makes of them out, or every row.

    What was put in is remembered. When a hop is lost, its blocks are covered by others, whose KV caches are filled
    with the same numbers, and the step is repeated: so the answer goes on with the same tokens.
    """

    def __init__(self, chains: Chains) -> None:
        self._chains = chains
        self._stack = AsyncExitStack()
        self._chain: Chain | None = None
        self._inputs: list[Hidden] = []
        self._under_way: deque[_Put] = deque()
        self._rests = False  # has everything come out that was waited for?
        self.recoveries = 0
        self.cached_tokens = 0
        """Of what was put in, how many were not computed for this session."""

    @property
    def chain(self) -> Chain | None:
        """The chain in use; None before the first step and while a lost one is being replaced."""
        return self._chain

    @property
    def tokens(self) -> int:
        return sum(len(rows) for rows in self._inputs)

    async def advance(self, hidden: Hidden, want: Want = Want.LAST) -> Hidden:
        """Run new rows ``[T, D]`` through the model behind all earlier ones; the last row ``[1, D]``, or all of them.

        Raises:
            HopLost: after `MAX_RECOVERIES`; HopBusy: the peers stay full; NoPeers: no route covers the model any more.
        """
        await self.send(hidden, want)
        return (await self.take()).rows

    async def send(self, hidden: Hidden, want: Want) -> None:
        """The first half of `advance`; more rows may be sent before what comes out of these is taken."""
        self._rests = False
        if not self._inputs and want is Want.LAST:
            hidden = await self._without_kept(hidden)
        await self._replace_unwanted()
        self._under_way.append(_Put(hidden, self.tokens, want))
        self._inputs.append(hidden)
        await self._done(_nothing)
        self._rests = True

    async def take(self) -> Passed:
        """The second half: what comes out of the rows that were sent first of those under way."""
        self._rests = False
        passed = await self._done(self._first_passed)
        self._under_way.popleft()
        self._rests = True
        return passed

    def back_to(self, position: int) -> None:
        """What was sent from there on is no part of the answer, and nobody takes what comes out of it."""
        while self._under_way and self._under_way[-1].position >= position:
            self._under_way.pop()
        while (surplus := self.tokens - position) > 0:
            rows = self._inputs.pop()
            if surplus < len(rows):
                self._inputs.append(rows[:-surplus])
        if self._chain is not None:
            self._chain.back_to(position)

    async def end(self) -> None:
        """No step comes any more."""
        try:
            if self._chain is not None and self._rests and await self._settled(self._chain):
                self._chains.ending(self._chain, self._inputs, self._stack)
        finally:
            await self._stack.aclose()

    async def _without_kept(self, hidden: Hidden) -> Hidden:
        """The rows that are new if a kept session begins with the others; this one goes on with it."""
        kept = await self._chains.resume(hidden)
        if kept is None:
            return hidden
        self._chain, self._inputs, self._stack = kept.chain, [kept.rows], kept.stack
        self.cached_tokens = len(kept.rows)
        return hidden[self.cached_tokens :]

    @property
    def _position(self) -> int:
        """Behind what has come out."""
        return self._under_way[0].position if self._under_way else self.tokens

    async def _done(self, work: Callable[[Chain], Awaitable[T]]) -> T:
        """Put under way what is to be, then do this; again from there if a hop is lost."""
        while True:
            try:
                return await work(await self._put_under_way())
            except HopBusy:
                raise
            except HopLost as lost:
                await self._recover(lost)

    async def _put_under_way(self) -> Chain:
        begun = 0
        if self._chain is None:
            self._chain = await self._stack.enter_async_context(self._chains.open())
            self.cached_tokens = begun = self._chain.begun
            if self._position:
                await self._chain.send(self._history()[begun:], begun, Want.NONE)
        for put in self._under_way:
            if put.step is None:
                known = max(0, begun - put.position)
                put.step = await self._chain.send(put.hidden[known:], put.position + known, put.want)
        return self._chain

    async def _first_passed(self, chain: Chain) -> Passed:
        step = self._under_way[0].step
        if step is None:
            raise AssertionError("rows are put under way before they are waited for")
        return await chain.take(step)

    async def _settled(self, chain: Chain) -> bool:
        """Nothing is under way any more in the chain, nor counted among what went in."""
        self.back_to(self._position)
        try:
            return await chain.settle(asyncio.get_running_loop().time() + SETTLE_S)
        except HopLost:
            return False

    async def _recover(self, lost: HopLost) -> None:
        self._count(lost)
        self._void()
        if self._chain is None:  # it was not even open, and its hops know nothing yet
            return
        self._blame(self._chain, lost)
        await self._mend(self._chain, {PeerId(lost.peer_id)})

    async def _replace_unwanted(self) -> None:
        """Move away from hops that leave or have become slow, if others are there to take over."""
        if self._chain is None or not self._chain.unwanted:
            return
        unwanted = dict(self._chain.unwanted)
        self._chain.unwanted.clear()
        try:
            await self._chains.mend(self._chain, unwanted.keys(), self._history(), False)
        except NoPeers as none:
            log.info("hop stays though unwanted peers=%s: %s", ", ".join(unwanted), none)
            return
        except HistoryLost:
            await self._drop_chain()
        except HopLost as more:
            self._count(more)
            self._blame(self._chain, more)
            await self._mend(self._chain, {*unwanted, PeerId(more.peer_id)})
        self._void()
        self.recoveries += len(unwanted)
        for why in unwanted.values():
            self._chains.lost(why)

    async def _mend(self, chain: Chain, gone: set[PeerId]) -> None:
        """Make the chain whole again, or leave none, so that the next step begins anew with another one."""
        if not self._position:
            return await self._drop_chain()
        while True:
            try:
                return await self._chains.mend(chain, gone, self._history(), True)
            except HopBusy:
                raise
            except HistoryLost as lost:
                log.info("the whole route is begun anew: %s", lost)
                return await self._drop_chain()
            except HopLost as more:
                self._count(more)
                self._blame(chain, more)
                gone.add(PeerId(more.peer_id))

    def _history(self) -> Hidden:
        return np.concatenate(self._inputs)[: self._position]

    def _void(self) -> None:
        """What is under way has to be sent once more."""
        for put in self._under_way:
            put.step = None

    def _blame(self, chain: Chain, lost: HopLost) -> None:
        chain.blamed.add(PeerId(lost.peer_id))
        self._chains.lost(lost)

    def _count(self, lost: HopLost) -> None:
        """One more recovery; raises when there have been too many."""
        self.recoveries += 1
        log.warning("hop lost peer=%s reason=%s recoveries=%d", lost.peer_id, lost.reason, self.recoveries)
        if self.recoveries > MAX_RECOVERIES:
            raise lost

    async def _drop_chain(self) -> None:
        self._chain = None
        self.cached_tokens = 0
        await self._stack.aclose()


async def _nothing(_: Chain) -> None:
    """Rows are only put under way."""


@asynccontextmanager
async def open_session(chains: Chains) -> AsyncIterator[Session]:
    """A session that opens its chain with its first step and closes whichever it has at the end."""
    session = Session(chains)
    try:
        yield session
    finally:
        await session.end()
