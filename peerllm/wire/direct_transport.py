"""The second transport: a TCP socket between two peers that can reach each other, and libp2p for everything else.

What it saves is the way through two libp2p daemons, some 0.4 ms per round trip (docs/performance.md). Nobody has to
choose it: where libp2p is connected by an address of a local network the direct socket is tried, and whatever goes
wrong with it, the stream is opened over libp2p as if there were no other way. docs/adr/0021-the-direct-socket.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

from peerllm.errors import WireError
from peerllm.wire.channel_keys import ChannelKeys
from peerllm.wire.direct_dialler import DirectDialler
from peerllm.wire.direct_links import DIRECT_PROTOCOL, GrantedLinks, grant_link
from peerllm.wire.direct_port import DirectPort
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.sealed_connection import sealed_stream
from peerllm.wire.transport import PUSH_PROTOCOL, Libp2pTransport, StreamHandler, conversed
from peerllm_swarm.gate import Cuttable
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

AGREE_S = 5.0
"""For whoever asks for a link to say so."""

Taker = Callable[[PeerId, socket.socket, ChannelKeys], Awaitable[None]]
"""Takes over a proven connection that another peer has opened; it is not blocking."""


class DirectTransport:
    """A `Transport` over direct sockets where there are any, else over `libp2p`; made by `direct_transport`."""

    def __init__(self, libp2p: Libp2pTransport) -> None:
        self._libp2p = libp2p
        self.gate = libp2p.p2p.gate
        self._granted = GrantedLinks()
        self._takers: dict[str, Taker] = {}
        self._port = DirectPort(self._granted, self.gate.admits, lambda: self._takers, self._take)
        self._dialler = DirectDialler(libp2p)
        self._sockets: WeakKeyDictionary[socket.socket, Cuttable] = WeakKeyDictionary()

    @property
    def peer_id(self) -> PeerId:
        return self._libp2p.peer_id

    @property
    def port(self) -> int:
        return self._port.port

    def has_way(self, peer_id: PeerId) -> bool:
        """Did the last attempt to reach this peer directly succeed?"""
        return self._dialler.has_way(peer_id)

    async def listen(self, host: str, port: int) -> None:
        """Take direct connections at `port` or the next free one (0: any); raises OSError if there is none."""
        self._port.start(host, port)
        await self._libp2p.serve_bytes(DIRECT_PROTOCOL, self._grant)

    async def open_stream(
        self, peer_id: PeerId, addresses: Sequence[str], protocol: str, timeout_s: float
    ) -> LiveStream:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        connected = await self.connect(peer_id, addresses, protocol, timeout_s)
        if connected is None:
            return await self._libp2p.open_stream(peer_id, addresses, protocol, max(0.0, until - loop.time()))
        return await self._stream(peer_id, *connected, opened=protocol)

    async def serve(self, protocol: str, handler: StreamHandler) -> None:
        async def take(peer_id: PeerId, connection: socket.socket, keys: ChannelKeys) -> None:
            stream = await self._stream(peer_id, connection, keys)
            self.start(protocol, peer_id, partial(conversed, handler, stream), stream.cut)

        self.take(protocol, take)
        await self._libp2p.serve(protocol, handler)

    async def close(self) -> None:
        self._takers.clear()
        await self._port.close()
        await self._libp2p.close()

    # For those who want the socket itself (raw_channel.py).

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[str], purpose: str, timeout_s: float
    ) -> tuple[socket.socket, ChannelKeys] | None:
        """As `DirectDialler.connect`."""
        return await self._dialler.connect(peer_id, addresses, purpose, timeout_s)

    def take(self, purpose: str, taker: Taker) -> None:
        """Give `taker` every direct connection that a peer opens for `purpose`, from now until `close`."""
        self._takers[purpose] = taker

    def start(
        self, purpose: str, peer_id: PeerId, work: Callable[[], Coroutine[Any, Any, None]], cut: Callable[[], object]
    ) -> None:
        """As `ServedStreams.start`: direct connections count like streams over libp2p."""
        self._libp2p.served.start(purpose, peer_id, work, cut)

    def watch_socket(self, peer_id: PeerId, connection: socket.socket) -> None:
        """As `watch`, for a socket that some thread may be reading: that one then sees its end."""
        cuttable = self._sockets[connection] = _CuttableSocket(connection)
        self.watch(peer_id, cuttable)

    def watch(self, peer_id: PeerId, cuttable: Cuttable) -> None:
        """As `Gate.watch`, and cut it at once if the peer has ceased to be a member since it said hello."""
        self.gate.watch(peer_id, cuttable)
        if not self.gate.admits(peer_id):
            cuttable.transport.abort()

    async def _take(self, peer_id: PeerId, purpose: str, connection: socket.socket, keys: ChannelKeys) -> None:
        if (taker := self._takers.get(purpose)) is None:  # being closed
            connection.close()
        else:
            await taker(peer_id, connection, keys)

    async def _stream(
        self, peer_id: PeerId, connection: socket.socket, keys: ChannelKeys, opened: str = PUSH_PROTOCOL
    ) -> LiveStream:
        lent = self._libp2p.lent_to(peer_id, opened)
        stream, sealed = await sealed_stream(connection, keys, peer_id, self._libp2p.timings, lent)
        self.watch(peer_id, sealed)
        return stream

    async def _grant(self, peer_id: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Agree with a member on how it may come to the direct port."""
        try:
            async with asyncio.timeout(AGREE_S):
                link = await grant_link(reader, writer, peer_id, self.peer_id, self.port)
                self._granted.add(link, asyncio.get_running_loop().time())
                await writer.drain()
                await reader.read(1)  # its end: p2pd drops what was just sent when this side closes at once
        except (WireError, OSError, EOFError, TimeoutError) as error:
            log.debug("no link granted peer=%s: %s", peer_id, error)


class _CuttableSocket:
    """The gate's hold on a socket, which ends with it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = ref(connection)

    @property
    def transport(self) -> _CuttableSocket:
        return self

    def abort(self) -> None:
        if (connection := self._connection()) is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def direct_transport(libp2p: Libp2pTransport, *, host: str, port: int) -> AsyncIterator[DirectTransport]:
    """Direct sockets in front of `libp2p`, from now to the end of the context, which closes both.

    Where no port can be had this peer is not reached directly, but still reaches others so.
    """
    transport = DirectTransport(libp2p)
    try:
        try:
            await transport.listen(host, port)
        except OSError as error:
            log.warning("no direct connections are taken: port %d and those behind it cannot be had (%s)", port, error)
        yield transport
    finally:
        await transport.close()
