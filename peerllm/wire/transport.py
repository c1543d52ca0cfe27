"""Where streams to peers come from and where theirs arrive.

hivemind is imported where it is used: it takes seconds, and whoever only names `Transport` does without it.
"""

# pyright: reportMissingTypeStubs=false, reportOptionalMemberAccess=false
# hivemind is partly annotated.

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from peerllm.errors import PeerGone
from peerllm.wire.bandwidth import Bandwidth
from peerllm.wire.live_stream import LiveStream, StreamTimings
from peerllm.wire.served_streams import ServedStreams
from peerllm_swarm.errors import NotAMember, Unreachable
from peerllm_swarm.p2p import connect, open_stream
from peerllm_swarm.span import PeerId

if TYPE_CHECKING:
    from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

    from peerllm_swarm.gated_p2p import GatedP2P

log = logging.getLogger(__name__)

SESSION_PROTOCOL = "peerllm.session/1"
PUSH_PROTOCOL = "peerllm.push/1"

STREAMS_PER_PEER = 512
"""Streams that one peer may have open here: each can hold `INBOX_BYTES`."""

_DAEMON_TIMEOUT_S = 5.0  # for this machine's own p2pd, which answers within milliseconds

StreamHandler = Callable[[LiveStream], Awaitable[None]]
"""Runs one stream from its first message to its end; the stream is closed when it returns or raises."""


ByteHandler = Callable[[PeerId, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
"""The same for a stream that does not carry messages; whose it is comes first."""


class Transport(Protocol):
    """Authenticated streams between peers: over libp2p here, over direct sockets in `direct_transport`."""

    @property
    def peer_id(self) -> PeerId: ...

    async def open_stream(
        self, peer_id: PeerId, addresses: Sequence[str], protocol: str, timeout_s: float
    ) -> LiveStream:
        """A stream to the peer's handler of `protocol`; the caller closes it.

        Raises:
            PeerGone: no member, not reachable, or does not serve the protocol, within the time. Where libp2p believes
                that the peer serves it, only the first `receive` tells otherwise.
        """
        ...

    async def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Run `handler` for every stream that a peer opens for `protocol`, from now until `close`."""
        ...

    async def close(self) -> None:
        """Take no more streams, end those there are and the handlers that run them."""
        ...


class Libp2pTransport:
    """Raw binary streams of libp2p: encrypted, and `LiveStream.peer_id` is whom the other side has proven to be."""

    def __init__(
        self,
        p2p: GatedP2P,
        timings: StreamTimings = StreamTimings(),  # noqa: B008 - frozen
        *,
        streams_per_peer: int = STREAMS_PER_PEER,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        """`p2p` stays the caller's to shut down, after `close`; `bandwidth` holds for what others ask of this peer."""
        self.p2p = p2p
        self.timings = timings
        self.bandwidth = bandwidth
        self.served = ServedStreams(streams_per_peer)
        self._handlers: dict[str, ByteHandler] = {}

    @property
    def peer_id(self) -> PeerId:
        return PeerId(self.p2p.peer_id.to_base58())

    async def open_stream(
        self, peer_id: PeerId, addresses: Sequence[str], protocol: str, timeout_s: float
    ) -> LiveStream:
        try:
            async with asyncio.timeout(timeout_s):
                if peer_id == self.peer_id:
                    reader, writer = await self._open_to_self(protocol)
                else:
                    await self.reach(peer_id, addresses, timeout_s)
                    reader, writer = await self.open_bytes(peer_id, protocol, timeout_s)
        except TimeoutError:
            raise PeerGone(f"{peer_id} did not open {protocol} within {timeout_s:g} s") from None
        except (Unreachable, OSError) as error:
            raise PeerGone(f"{peer_id} cannot be reached: {error}") from error
        return await LiveStream.adopt(reader, writer, peer_id, self.timings, self.lent_to(peer_id, protocol))

    async def reach(self, peer_id: PeerId, addresses: Sequence[str], timeout_s: float) -> None:
        """Be connected to the peer, and know it for a member.

        Raises:
            PeerGone: it cannot be reached within the time, or is none.
        """
        try:
            await connect(self.p2p, peer_id, addresses, timeout_s)
            await self.p2p.gate.meet(peer_id)
        except NotAMember as error:
            raise PeerGone(f"{peer_id} is not trusted: {error}") from error
        except (Unreachable, OSError, EOFError) as error:
            raise PeerGone(f"{peer_id} cannot be reached: {error}") from error

    async def open_bytes(
        self, peer_id: PeerId, protocol: str, timeout_s: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A stream to a peer that has been reached, without messages as yet; the caller closes it.

        Raises:
            PeerGone: it does not serve the protocol, or does not answer within the time.
        """
        try:
            reader, writer = await open_stream(self.p2p, peer_id, protocol, timeout_s)
        except (Unreachable, OSError, EOFError) as error:
            raise PeerGone(f"{peer_id} cannot be reached: {error}") from error
        self.p2p.gate.watch(peer_id, writer)
        return reader, writer

    async def serve(self, protocol: str, handler: StreamHandler) -> None:
        async def run(peer_id: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            lent = self.lent_to(peer_id)
            await conversed(handler, await LiveStream.adopt(reader, writer, peer_id, self.timings, lent))

        await self.serve_bytes(protocol, run)

    async def serve_bytes(self, protocol: str, handler: ByteHandler) -> None:
        """Run `handler` for every stream of bytes that a member opens for `protocol`; closed when it returns."""

        async def accept(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # In a task of its own: asyncio logs an error when the one that it made for the connection is cancelled.
            self._start(protocol, PeerId(info.peer_id.to_base58()), reader, writer)

        self._handlers[protocol] = handler
        async with asyncio.timeout(_DAEMON_TIMEOUT_S):
            await self.p2p.add_binary_stream_handler(protocol, accept)

    async def close(self) -> None:
        protocols, self._handlers = list(self._handlers), {}
        for protocol in protocols:
            try:
                async with asyncio.timeout(_DAEMON_TIMEOUT_S):
                    await self.p2p.remove_binary_stream_handler(protocol)
            except Exception as error:  # whatever ails the daemon: it is about to end
                log.debug("handler not removed protocol=%s: %s", protocol, error)
        await self.served.close()

    def lent_to(self, peer_id: PeerId, opened: str = PUSH_PROTOCOL) -> Bandwidth | None:
        """What streams of others' sessions keep within, all that are served and the pushes that this peer has opened.

        What this peer asks for itself, or sends itself, takes nothing of the line lent.
        """
        return self.bandwidth if opened == PUSH_PROTOCOL and peer_id != self.peer_id else None

    async def _open_to_self(self, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """libp2p does not dial itself, but a route may lead through the asker's own span."""
        if protocol not in self._handlers:
            raise Unreachable(f"{protocol} is not served here")
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)
        self._start(protocol, self.peer_id, *await asyncio.open_connection(sock=far))
        return reader, writer

    def _start(
        self, protocol: str, peer_id: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        handler = self._handlers.get(protocol)
        if handler is None:  # being closed
            writer.close()
            return
        self.served.start(protocol, peer_id, lambda: handler(peer_id, reader, writer), writer.close)


async def conversed(handler: StreamHandler, stream: LiveStream) -> None:
    """One stream of a peer's, from its first message to its end."""
    try:
        await handler(stream)
    finally:
        await stream.close()
