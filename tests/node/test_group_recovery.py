"""A group that loses a member at work is a lost hop: the session goes on elsewhere, with the whole model's tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from peerllm.engine.load import load_ends, load_span
from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.span_engine import Ends, Hidden, Rows, SpanEngine
from peerllm.errors import HopLost
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.session import Chains, open_session
from peerllm.serving.handler import SpanHandler
from peerllm.wire.messages import WireDtype
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL, Transport
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import BlockSpan, PeerId
from tests.support.group_peers import GroupPeer, assembled, group_peers, invite_of
from tests.support.peers import FINGERPRINT, serving_peer, transport, until

pytestmark = pytest.mark.e2e

PROMPT = [5, 17, 250, 9, 33]
TOKENS = 12


@dataclass
class Way:
    """Sessions go through the first of these peers that is left; each serves the whole model."""

    asker: Transport
    peers: dict[PeerId, tuple[str, ...]]
    whole: BlockSpan
    lost: list[PeerId] = field(default_factory=list[PeerId])

    def chains(self) -> Chains:
        return Chains(self._open, self._mend, self._note)

    def _route(self) -> Route:
        left = next(peer for peer in self.peers if peer not in self.lost)
        return Route(FINGERPRINT, (Hop(left, self.whole, compute_ms=1.0),))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Chain]:
        opening = open_chain(
            self._route(),
            self.peers,
            self.asker,
            tokens=64,
            wire_dtype=WireDtype.FLOAT32,
            timings=ChainTimings(open_s=5.0, step_s=10.0, prefill_s=10.0),
            spare=lambda _: True,
        )
        async with opening as chain:
            yield chain

    async def _mend(self, chain: Chain, gone: AbstractSet[PeerId], history: Hidden, wait: bool) -> None:
        self.lost += [peer for peer in gone if peer not in self.lost]
        await chain.mend(self._route(), self.peers, gone, history)

    def _note(self, lost: HopLost) -> None:
        self.lost.append(PeerId(lost.peer_id))


def whole_tokens(engine: SpanEngine, ends: Ends) -> list[int]:
    slot, position, new = engine.open(), 0, PROMPT
    tokens: list[int] = []
    while len(tokens) < TOKENS:
        hidden = ends.embed(new)
        (output,) = engine.step([Rows(slot, position, hidden, engine.info.span.start, engine.info.span.end)])
        position += len(new)
        new = [int(ends.logits(output[-1:])[0].argmax())]
        tokens += new
    engine.close(slot)
    return tokens


async def answered(way: Way, ends: Ends, member: GroupPeer | None = None) -> tuple[list[int], int]:
    """The tokens, and how often the session recovered; `member` is gone behind half of them."""
    tokens: list[int] = []
    new = PROMPT
    async with open_session(way.chains()) as session:
        while len(tokens) < TOKENS:
            if member is not None and len(tokens) == TOKENS // 2:
                await member.transport.close()
            hidden = await session.advance(ends.embed(new))
            new = [int(ends.logits(hidden)[0].argmax())]
            tokens += new
        return tokens, session.recoveries


def test_tokens_are_the_same_with_a_member_lost_in_the_middle(tmp_path: Path):
    async def main() -> None:
        async with group_peers(tmp_path, 2) as peers, transport(tmp_path / "asker") as (asker, _):
            lead, member = peers
            whole = lead.stored.spec.whole
            replica = load_span(lead.stored, whole, engine="llama", slots=2, context_tokens=128, threads=1)
            ends = load_ends(lead.stored, engine="llama", threads=1)
            expected = whole_tokens(replica, ends)
            group, invite = invite_of(peers)
            scheduler = StepScheduler(await assembled(lead, group, invite))
            handler = SpanHandler(scheduler, FINGERPRINT, lead.transport)
            await lead.transport.serve(SESSION_PROTOCOL, handler.serve_session)
            await lead.transport.serve(PUSH_PROTOCOL, handler.serve_push)
            async with serving_peer(tmp_path / "replica", replica) as spare:
                way = Way(
                    asker,
                    {lead.transport.peer_id: lead.addresses, spare.peer_id: spare.addresses},
                    whole,
                )
                assert await answered(way, ends) == (expected, 0)
                assert await answered(way, ends, member) == (expected, 1)
                assert way.lost[0] == lead.transport.peer_id
                await until(lambda: bool(member.parted))
            await scheduler.shutdown()
            await group.dissolve("its member is gone")
            ends.shutdown()

    asyncio.run(asyncio.wait_for(main(), 100))
