"""Contributors form groups by themselves, answer as one peer, and are single peers again when one of them goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from peerllm.engine.load import load_span
from peerllm.engine.span_engine import Hidden, Rows
from peerllm.errors import PeerllmError
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.model.store import ModelStore
from peerllm.serving.contribution import Phase
from peerllm.wire.messages import WireDtype
from peerllm_swarm.records import PeerState
from peerllm_swarm.routing import Hop, Route
from tests.support.gguf_models import tiny_gguf
from tests.support.group_world import POOLED, GroupWorld, group_world
from tests.support.peers import transport, until

pytestmark = pytest.mark.e2e

ROWS = np.random.default_rng(3).standard_normal((6, POOLED.hidden), dtype=np.float32)
TOLERANCE = 0.02
"""Of the largest value: sums in another order, and what rounding activations to 8 bits makes of that in five blocks."""


def play(home: Path, scenario: Callable[[GroupWorld], Awaitable[None]]) -> None:
    async def main() -> None:
        async with group_world(home) as world:
            await until(world.formed, 40.0)
            await scenario(world)

    asyncio.run(asyncio.wait_for(main(), 100))


@asynccontextmanager
async def asked(world: GroupWorld, home: Path) -> AsyncIterator[Chain]:
    """An asker's session through the group, as through any peer."""
    lead = world.lead
    assert lead.presence.record.span is not None
    route = Route(world.offer.fingerprint, (Hop(lead.presence.peer_id, lead.presence.record.span),))
    async with transport(home / "asker") as (streams, _):
        opening = open_chain(
            route,
            {lead.presence.peer_id: lead.addresses},
            streams,
            tokens=64,
            wire_dtype=WireDtype.FLOAT32,
            timings=ChainTimings(),
        )
        async with opening as chain:
            yield chain


async def until_lost(chain: Chain) -> None:
    """The step that meets the member's end may be the next one, or one behind."""
    for at in range(4, 60):
        await chain.step(ROWS[4:5], at)


def alone(home: Path) -> Hidden:
    stored = ModelStore(home / "models").open(str(tiny_gguf(home, POOLED)))
    engine = load_span(stored, stored.spec.whole, engine="llama", slots=1, context_tokens=64, threads=1)
    try:
        return engine.step([Rows(engine.open(), 0, ROWS, 0, POOLED.blocks)])[0]
    finally:
        engine.shutdown()


def test_two_that_cannot_hold_the_model_serve_it_as_one_peer(tmp_path: Path):
    async def scenario(world: GroupWorld) -> None:
        lead, member = world.lead.presence.record, world.member.presence.record
        assert (lead.state, lead.span, lead.members) == (PeerState.ONLINE, world.offer.spec.whole, (member.peer_id,))
        assert (member.state, member.span, member.group) == (PeerState.IDLE, None, lead.peer_id)
        assert world.member.phase == Phase.GROUPED
        assert "serves in the group of" in world.member.contributor.contribution.reason
        async with asked(world, tmp_path) as chain:
            prefill = await chain.step(ROWS[:4], 0)
            decoded = [await chain.step(ROWS[at : at + 1], at) for at in (4, 5)]
        together = np.concatenate([prefill, *decoded])
        expected = alone(tmp_path)[3:]
        assert np.abs(together - expected).max() <= TOLERANCE * np.abs(expected).max()

        world.member.contributor.hold("its owner is back")
        await until(lambda: world.member.phase == Phase.PAUSED)
        await until(lambda: not world.formed() and world.lead.presence.record.state is PeerState.ONLINE, 20.0)
        assert world.lead.phase == Phase.SERVING
        assert world.member.contributor.sessions == 0

    play(tmp_path, scenario)


def test_group_whose_member_is_gone_is_dissolved_and_its_sessions_fail_at_once(tmp_path: Path):
    async def scenario(world: GroupWorld) -> None:
        async with asked(world, tmp_path) as chain:
            await chain.step(ROWS[:4], 0)
            await world.member.transport.close()
            world.member.running.cancel()
            with pytest.raises(PeerllmError):
                await until_lost(chain)
        await until(lambda: not world.formed() and world.lead.presence.record.state is PeerState.ONLINE, 20.0)
        assert world.lead.contributor.info is not None
        assert len(world.lead.contributor.info.span) == 2  # what it holds by itself

    play(tmp_path, scenario)
