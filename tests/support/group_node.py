"""A process that joins groups, or leads one when it is told to: one line of JSON in, one out."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from peerllm.errors import GroupBroken
from peerllm.wire.direct_transport import direct_transport
from peerllm.wire.transport import Libp2pTransport
from peerllm_swarm.identity import Identity
from peerllm_swarm.p2p import start_p2p, stop_p2p, visible_addresses
from tests.support.group_peers import GroupPeer, assembled, group_peer, invitation_to, outputs

MOST_ROUNDS = 2000
"""Of an answer during which a member is to be killed."""


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--host", required=True)
    options = parser.parse_args()
    p2p = await start_p2p(Identity.load_or_create(options.home), port=0, host=options.host)
    try:
        libp2p = Libp2pTransport(p2p)
        async with direct_transport(libp2p, host=options.host, port=0) as transport:
            addresses = await visible_addresses(p2p)
            async with group_peer(options.home, options.model, transport, addresses) as peer:
                say(peer_id=transport.peer_id, addresses=addresses)
                await obey(peer)
    finally:
        await stop_p2p(p2p)


async def obey(peer: GroupPeer) -> None:
    """Lead a group for every line, until the input ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        told = json.loads(line)
        group, invite = invitation_to(peer, [(other, tuple(addresses)) for other, addresses in told["members"]])
        engine = await assembled(peer, group, invite)
        hidden = peer.offer.spec.hidden
        try:
            found = await asyncio.to_thread(outputs, engine, hidden)
            say(hidden=found.tolist())
            for _ in range(MOST_ROUNDS if told.get("until_broken") else 0):
                await asyncio.to_thread(outputs, engine, hidden)
        except GroupBroken as broken:
            say(broken=str(broken), heard=await asyncio.wait_for(group.over(), 10.0))
        await asyncio.to_thread(engine.shutdown)
        await group.dissolve("it was asked for")


asyncio.run(main())
