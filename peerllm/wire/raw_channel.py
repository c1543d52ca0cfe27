"""A socket to another peer for those who do without the event loop: connected, proven, with fresh keys, nothing read.

It comes about as every direct connection does, and then asyncio has no more to do with it. Whoever gets it seals what
it sends with `send_key`, and opens what it receives with `receive_key`, counting nonces up from 0 in both directions.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from peerllm.errors import PeerGone
from peerllm.wire.channel_keys import ChannelKeys
from peerllm.wire.direct_transport import DirectTransport
from peerllm.wire.transport import Transport
from peerllm_swarm.span import PeerId

ChannelHandler = Callable[["RawChannel"], Awaitable[None]]
"""Has the channel until it returns; then the socket is closed."""


@dataclass(frozen=True)
class RawChannel:
    """The socket is blocking, without Nagle's delay. It is shut down when its peer's membership is taken back."""

    peer_id: PeerId
    socket: socket.socket
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    opened: bool
    """By this side."""


async def open_channel(
    transport: Transport, peer_id: PeerId, addresses: Sequence[str], purpose: str, timeout_s: float
) -> RawChannel:
    """A channel to the peer's handler of `purpose`; the caller closes its socket.

    Raises:
        PeerGone: no member, not reachable, or not reachable directly, or it does not serve the purpose.
    """
    direct = _direct(transport)
    connected = await direct.connect(peer_id, addresses, purpose, timeout_s)
    if connected is None:
        raise PeerGone(f"{peer_id} cannot be reached by a direct socket")
    return _channel(direct, peer_id, *connected, opened=True)


def serve_channels(transport: Transport, purpose: str, handler: ChannelHandler) -> None:
    """Run `handler` for every channel that a member opens for `purpose`, until the transport is closed.

    Raises:
        PeerGone: this peer has no direct sockets.
    """
    direct = _direct(transport)

    async def take(peer_id: PeerId, connection: socket.socket, keys: ChannelKeys) -> None:
        channel = _channel(direct, peer_id, connection, keys, opened=False)
        direct.start(purpose, peer_id, partial(_handled, handler, channel), connection.close)

    direct.take(purpose, take)


def _direct(transport: Transport) -> DirectTransport:
    if not isinstance(transport, DirectTransport):
        raise PeerGone("direct sockets are switched off here; see swarm.direct")
    return transport


async def _handled(handler: ChannelHandler, channel: RawChannel) -> None:
    await handler(channel)


def _channel(
    direct: DirectTransport, peer_id: PeerId, connection: socket.socket, keys: ChannelKeys, *, opened: bool
) -> RawChannel:
    connection.setblocking(True)
    direct.watch_socket(peer_id, connection)
    return RawChannel(peer_id, connection, keys.send, keys.receive, opened)
