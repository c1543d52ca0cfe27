"""Peers with direct sockets: real p2pd processes on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from peerllm.wire.direct_transport import DirectTransport, direct_transport
from peerllm.wire.transport import STREAMS_PER_PEER
from tests.support.wire_peer import transport


@asynccontextmanager
async def direct_peer(
    home: Path, streams_per_peer: int = STREAMS_PER_PEER
) -> AsyncIterator[tuple[DirectTransport, tuple[str, ...]]]:
    """A transport with a direct port of its own, and where libp2p reaches it."""
    async with (
        transport(home, streams_per_peer) as (libp2p, addresses),
        direct_transport(libp2p, host="127.0.0.1", port=0) as direct,
    ):
        yield direct, addresses
