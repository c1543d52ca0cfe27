"""A process that echoes what peers send, over libp2p and direct sockets: `python -m tests.support.wire_peer HOME`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from peerllm.wire.direct_transport import direct_transport
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.transport import SESSION_PROTOCOL, STREAMS_PER_PEER, Libp2pTransport
from peerllm_swarm.identity import Identity
from peerllm_swarm.p2p import start_p2p, stop_p2p, visible_addresses


@asynccontextmanager
async def transport(
    home: Path, streams_per_peer: int = STREAMS_PER_PEER
) -> AsyncIterator[tuple[Libp2pTransport, tuple[str, ...]]]:
    """A transport over a p2pd of its own on loopback, and where to reach it."""
    p2p = await start_p2p(Identity.load_or_create(home), port=0, host="127.0.0.1")
    wire = Libp2pTransport(p2p, streams_per_peer=streams_per_peer)
    try:
        yield wire, await visible_addresses(p2p)
    finally:
        await wire.close()
        await stop_p2p(p2p)


async def echo(stream: LiveStream) -> None:
    """Until the peer ends the stream."""
    while True:
        await stream.send(await stream.receive())


async def main(home: Path) -> None:
    async with (
        transport(home) as (libp2p, addresses),
        direct_transport(libp2p, host="127.0.0.1", port=0) as wire,
    ):
        await wire.serve(SESSION_PROTOCOL, echo)
        print(json.dumps({"peer_id": wire.peer_id, "addresses": addresses}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with the process that started it


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
