"""A group comes about for all or for nobody, computes what the whole model does, and its end is known to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from peerllm.engine.load import load_span
from peerllm.errors import GroupBroken, NoGroup, PeerGone
from peerllm.serving.group_lead import Group
from peerllm.wire.group_messages import GROUP_PROTOCOL, Willing
from tests.support.group_peers import GroupPeer, assembled, group_peers, invite_of, outputs
from tests.support.peers import until

pytestmark = pytest.mark.e2e

TOLERANCE = 0.02
"""Of the largest value: sums in another order, and what rounding activations to 8 bits makes of that in six blocks."""


def play(count: int, home: Path, scenario: Callable[[list[GroupPeer]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with group_peers(home, count) as peers:
            await scenario(peers)

    asyncio.run(asyncio.wait_for(main(), 60))


async def formed(peers: list[GroupPeer]) -> Group:
    group, invite = invite_of(peers)
    await assembled(peers[0], group, invite)
    return group


async def dissolved(group: Group) -> None:
    assert group.engine is not None
    await asyncio.to_thread(group.engine.shutdown)
    await group.dissolve("the test is over")


def test_a_group_that_does_not_come_about_changes_nothing(tmp_path: Path):
    """Invitations in another peer's name, one no among several, and a lead that never begins."""

    async def scenario(peers: list[GroupPeer]) -> None:
        lead, member, third = peers
        _, invite = invite_of([third, member])
        stream = await lead.transport.open_stream(member.transport.peer_id, member.addresses, GROUP_PROTOCOL, 5.0)
        await stream.send(invite)
        with pytest.raises(PeerGone):
            await stream.receive()

        third.objection = "its owner needs it"
        group, invite = invite_of(peers)
        with pytest.raises(NoGroup, match="its owner needs it"):
            await group.invite(invite, lead.transport, lead.door)
        await group.dissolve("no group")

        stream = await lead.transport.open_stream(member.transport.peer_id, member.addresses, GROUP_PROTOCOL, 5.0)
        await stream.send(invite_of([lead, member])[1])
        assert isinstance(await stream.receive(), Willing)
        await stream.close()
        assert not any(peer.joined.is_set() for peer in peers)

        third.objection = None
        await dissolved(await formed(peers))  # nobody is busy with any of them

    play(3, tmp_path, scenario)


def test_group_computes_what_the_whole_span_does_until_a_member_leaves(tmp_path: Path):
    """Who leaves says so, and goes on for a moment."""

    async def scenario(peers: list[GroupPeer]) -> None:
        lead, member = peers
        group = await formed(peers)
        assert group.engine is not None
        assert member.following is not None
        whole = load_span(lead.stored, lead.stored.spec.whole, engine="llama", slots=1, context_tokens=64, threads=1)
        try:
            together = await asyncio.to_thread(outputs, group.engine, lead.offer.spec.hidden)
            alone = outputs(whole, lead.offer.spec.hidden)
        finally:
            whole.shutdown()
        assert np.abs(together - alone).max() <= TOLERANCE * np.abs(alone).max()
        over = asyncio.create_task(group.over())
        member.following.cancel()
        assert "leaves" in await over
        await group.dissolve("a member leaves")
        await asyncio.wait((member.following,))
        with pytest.raises(GroupBroken):
            await asyncio.to_thread(outputs, group.engine, lead.offer.spec.hidden)
        await asyncio.to_thread(group.engine.shutdown)

    play(2, tmp_path, scenario)


def test_a_lead_that_is_gone_lets_its_members_go(tmp_path: Path):
    async def scenario(peers: list[GroupPeer]) -> None:
        group = await formed(peers)
        await peers[0].transport.close()
        await until(lambda: bool(peers[1].parted), 10.0)
        await dissolved(group)

    play(2, tmp_path, scenario)
