"""Where streams to peers come from and where theirs arrive.

hivemind is imported where it is used: it takes seconds, and whoever only names `Transport` does without it.
"""

# pyright: reportMissingTypeStubs=false, reportOptionalMemberAccess=false
# hivemind is partly annotated.

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from peerllm.errors import PeerGone, WireError
from peerllm.wire.bandwidth import Bandwidth
from peerllm.wire.live_stream import LiveStream, StreamTimings
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


class Transport(Protocol):
    """Authenticated streams between peers. Here over libp2p; a direct socket on the LAN comes second."""

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
        self._p2p = p2p
        self._timings = timings
        self._streams_per_peer = streams_per_peer
        self._bandwidth = bandwidth
        self._handlers: dict[str, StreamHandler] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._served = Counter[PeerId]()
        self._closed = False

    @property
    def peer_id(self) -> PeerId:
        return PeerId(self._p2p.peer_id.to_base58())

    async def open_stream(
        self, peer_id: PeerId, addresses: Sequence[str], protocol: str, timeout_s: float
    ) -> LiveStream:
        try:
            async with asyncio.timeout(timeout_s):
                if peer_id == self.peer_id:
                    reader, writer = await self._open_to_self(protocol)
                else:
                    await connect(self._p2p, peer_id, addresses, timeout_s)
                    await self._p2p.gate.meet(peer_id)
                    reader, writer = await open_stream(self._p2p, peer_id, protocol, timeout_s)
                    self._p2p.gate.watch(peer_id, writer)
        except TimeoutError:
            raise PeerGone(f"{peer_id} did not open {protocol} within {timeout_s:g} s") from None
        except NotAMember as error:
            raise PeerGone(f"{peer_id} is not trusted: {error}") from error
        except (Unreachable, OSError, EOFError) as error:
            raise PeerGone(f"{peer_id} cannot be reached: {error}") from error
        bandwidth = self._lent_to(peer_id) if protocol == PUSH_PROTOCOL else None
        return await LiveStream.adopt(reader, writer, peer_id, self._timings, bandwidth)

    async def serve(self, protocol: str, handler: StreamHandler) -> None:
        async def accept(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # In a task of its own: asyncio logs an error when the one that it made for the connection is cancelled.
            self._start(protocol, PeerId(info.peer_id.to_base58()), reader, writer)

        self._handlers[protocol] = handler
        async with asyncio.timeout(_DAEMON_TIMEOUT_S):
            await self._p2p.add_binary_stream_handler(protocol, accept)

    async def close(self) -> None:
        self._closed = True
        for protocol in self._handlers:
            try:
                async with asyncio.timeout(_DAEMON_TIMEOUT_S):
                    await self._p2p.remove_binary_stream_handler(protocol)
            except Exception as error:  # whatever ails the daemon: it is about to end
                log.debug("handler not removed protocol=%s: %s", protocol, error)
        self._handlers.clear()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _lent_to(self, peer_id: PeerId) -> Bandwidth | None:
        """What streams of others' sessions keep within; what this peer sends itself takes nothing of the line."""
        return None if peer_id == self.peer_id else self._bandwidth

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
        if self._closed or self._served[peer_id] >= self._streams_per_peer:
            log.debug("stream turned away peer=%s protocol=%s open=%d", peer_id, protocol, self._served[peer_id])
            writer.close()
            return
        self._served[peer_id] += 1
        task = asyncio.create_task(self._run(self._handlers[protocol], protocol, peer_id, reader, writer))
        self._serving.add(task)
        task.add_done_callback(lambda task: self._end(task, peer_id, writer))

    def _end(self, task: asyncio.Task[None], peer_id: PeerId, writer: asyncio.StreamWriter) -> None:
        writer.close()  # for a task that was cancelled before it began
        self._serving.discard(task)
        self._served -= Counter((peer_id,))  # drops the peer at zero

    async def _run(
        self,
        handler: StreamHandler,
        protocol: str,
        peer_id: PeerId,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """One stream of a peer's, from its first message to its end."""
        try:
            stream = await LiveStream.adopt(reader, writer, peer_id, self._timings, self._lent_to(peer_id))
            try:
                await handler(stream)
            finally:
                await stream.close()
        except (WireError, TimeoutError) as error:
            log.info("stream ended peer=%s protocol=%s reason=%s", peer_id, protocol, error)
        except Exception:
            log.exception("handler failed peer=%s protocol=%s", peer_id, protocol)
