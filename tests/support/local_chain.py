"""A route of one hop in this process: what a session needs of a `Chain`, over an engine instead of streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.span_engine import Hidden, Rows
from peerllm.errors import HopLost
from peerllm.generation.chain import Chain
from peerllm.generation.session import Chains
from peerllm.generation.steps import Passed
from peerllm.wire.messages import Want
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import PeerId
from tests.support.recovery import begin_anew

ALONE = PeerId("alone")


class LocalChain:
    """One session in a slot of the engine's."""

    def __init__(self, scheduler: StepScheduler, slot: int) -> None:
        self._scheduler = scheduler
        self._slot = slot
        self._position = 0
        self._span = scheduler.engine.info.span
        self.route = Route("0" * 16, (Hop(ALONE, self._span),))
        self.unwanted: dict[PeerId, HopLost] = {}
        self.begun = 0

    async def send(self, hidden: Hidden, position: int, want: Want) -> Passed:
        """Done at once: nothing else is on its way."""
        rows, timing = await self._scheduler.step(
            Rows(self._slot, position, hidden, self._span.start, self._span.end),
            goes_back=position < self._position,
            as_alone=want is Want.EACH,
        )
        self._position = position + len(hidden)
        compute_ms = (timing.queue_us + timing.compute_us) / 1e3
        return Passed(rows if want in (Want.ALL, Want.EACH) else rows[-1:], compute_ms, compute_ms, overlapped=False)

    async def take(self, passed: Passed) -> Passed:
        return passed

    async def settle(self, deadline: float) -> bool:
        return True

    def back_to(self, position: int) -> None:
        pass


def local_chains(scheduler: StepScheduler) -> Chains:
    """Every chain is a slot of the scheduler's engine, which holds the whole model."""

    @asynccontextmanager
    async def open_chain() -> AsyncIterator[Chain]:
        slot = await scheduler.open()
        try:
            yield cast(Chain, LocalChain(scheduler, slot))
        finally:
            await scheduler.close(slot)

    return Chains(open_chain, begin_anew, lambda _: None)
