"""Peers of one process that can form groups: real p2pd, direct sockets and slices, no contributor around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from peerllm.config import Config, ContributionConfig, EngineConfig
from peerllm.engine.group_span import GroupSpan
from peerllm.engine.span_engine import Hidden, Rows, SpanEngine
from peerllm.model.slice_gguf import block_shape
from peerllm.model.store import ModelStore, StoredModel
from peerllm.serving.group_channels import ChannelDoor
from peerllm.serving.group_lead import Group, invitation
from peerllm.serving.group_member import GroupMember, Place, follow_lead
from peerllm.serving.offer import Offer, work_out_offer
from peerllm.serving.slice_work import fetch_slice, load_member
from peerllm.wire.direct_transport import DirectTransport
from peerllm.wire.group_messages import Invite
from peerllm_swarm.group_traffic import GroupSpeed, SyncForm
from peerllm_swarm.grouping import GroupPlan, Member
from peerllm_swarm.score import Score
from peerllm_swarm.slices import slices_for
from peerllm_swarm.span import PeerId
from tests.support.direct import direct_peer
from tests.support.gguf_models import TINY, tiny_gguf

UNEVEN = replace(TINY, heads=9, kv_heads=3, head_dim=32, quantisation="q8_0", feed_forward=192)
"""As SmolLM2: nine query heads on three KV heads, which no two machines can share evenly."""


@dataclass
class GroupPeer:
    """One peer, and what became of its places in groups."""

    transport: DirectTransport
    addresses: tuple[str, ...]
    door: ChannelDoor
    stored: StoredModel
    offer: Offer
    objection: str | None = None
    parted: list[str] = field(default_factory=list[str])
    following: asyncio.Task[None] | None = None
    joined: asyncio.Event = field(default_factory=asyncio.Event)

    def join(self, place: Place) -> None:
        self.following = asyncio.create_task(self._follow(place))
        self.joined.set()

    async def _follow(self, place: Place) -> None:
        load = partial(load_member, self.stored, self.offer, place.invite, place.own, None, lambda _: None)
        self.parted.append(await follow_lead(place, load, self.offer.spec.hidden, polite=False))


@asynccontextmanager
async def group_peer(
    home: Path, model: Path, transport: DirectTransport, addresses: tuple[str, ...]
) -> AsyncIterator[GroupPeer]:
    """One peer with the model on its disk, ready to be invited."""
    config = Config(
        contribution=ContributionConfig(model=str(model), slots=2, context_tokens=128), engine=EngineConfig(threads=1)
    )
    stored = ModelStore(home).open(config.contribution.model)
    offer = work_out_offer(stored.spec, config, threads=1)
    peer = GroupPeer(transport, addresses, ChannelDoor(transport), stored, offer)
    peer.door.open()
    fetch = partial(fetch_slice, stored, progress=lambda _: None)
    await GroupMember(transport, peer.door, lambda _: peer.objection, fetch, peer.join).start()
    try:
        yield peer
    finally:
        if peer.following is not None:
            peer.following.cancel()
            await asyncio.wait((peer.following,))


@asynccontextmanager
async def group_peers(home: Path, count: int) -> AsyncIterator[list[GroupPeer]]:
    """So many on loopback."""
    model = tiny_gguf(home, UNEVEN)
    async with AsyncExitStack() as stack:
        peers: list[GroupPeer] = []
        for number in range(count):
            transport, addresses = await stack.enter_async_context(direct_peer(home / f"peer{number}"))
            peer = group_peer(home / f"models{number}", model, transport, addresses)
            peers.append(await stack.enter_async_context(peer))
        yield peers


def plan_of_peers(members: Sequence[PeerId], stored: StoredModel) -> GroupPlan:
    """All of the model on these peers, the first of whom leads."""
    shape = block_shape(stored)
    slices = slices_for(shape, [1.0] * len(members))
    nothing = Score(0, 1.0)
    named = tuple(Member(member, 1.0, float(stored.spec.blocks)) for member in members)
    return GroupPlan(named, stored.spec.whole, slices, GroupSpeed(0.5, 0.1), 0.1, nothing, nothing)


def invitation_to(
    lead: GroupPeer, others: Sequence[tuple[PeerId, tuple[str, ...]]], form: SyncForm = SyncForm.FLOAT32
) -> tuple[Group, Invite]:
    addresses = {lead.transport.peer_id: lead.addresses, **dict(others)}
    plan = plan_of_peers(list(addresses), lead.stored)
    return Group(plan), invitation(plan, lead.offer, addresses, form)


def invite_of(peers: Sequence[GroupPeer]) -> tuple[Group, Invite]:
    return invitation_to(peers[0], [(peer.transport.peer_id, peer.addresses) for peer in peers[1:]])


async def assembled(lead: GroupPeer, group: Group, invite: Invite) -> GroupSpan:
    """Its engine."""
    await group.invite(invite, lead.transport, lead.door)
    load = partial(load_member, lead.stored, lead.offer, invite, 0, None, lambda _: None)
    return await group.assemble(invite, lead.stored, lead.offer, load)


def outputs(engine: SpanEngine, hidden: int) -> Hidden:
    """Of a prefill and three decoded rows."""
    rows = np.random.default_rng(5).standard_normal((8, hidden), dtype=np.float32)
    slot, span = engine.open(), engine.info.span
    steps = ((0, rows[:5]), (5, rows[5:6]), (6, rows[6:7]), (7, rows[7:]))
    found = [engine.step([Rows(slot, at, step, span.start, span.end)])[0] for at, step in steps]
    engine.close(slot)
    return np.concatenate(found)
