"""The TCP port where members connect directly, and where strangers get nothing: no byte, and little time.

A connection is read for exactly the bytes of the handshake, so that whoever takes it over misses none that follow.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from peerllm.errors import PeerGone, WireError
from peerllm.wire.channel_keys import (
    HELLO_BYTES,
    PROOF_BYTES,
    REPLY_BYTES,
    AnsweringHandshake,
    ChannelKeys,
    OpeningHandshake,
    read_hello,
)
from peerllm.wire.direct_links import GrantedLinks, Way
from peerllm.wire.listening import listening_sockets
from peerllm_swarm.lan import is_lan
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

HANDSHAKE_S = 2.0
"""For a stranger to prove that it is none; a member on a LAN takes a millisecond."""

MAX_STRANGERS = 256
STRANGERS_PER_HOST = 64
"""Connections that have proven nothing yet: those beyond are closed unread."""

_NO_DESCRIPTORS_S = 0.1

Proven = Callable[[PeerId, str, socket.socket, ChannelKeys], Awaitable[None]]
"""Takes over a connection: of whom, for which purpose, the socket (not blocking) and its keys."""


class DirectPort:
    """Listens from `start` to `close`."""

    def __init__(
        self,
        links: GrantedLinks,
        admits: Callable[[PeerId], bool],
        purposes: Callable[[], Iterable[str]],
        proven: Proven,
    ) -> None:
        self._links = links
        self._admits = admits
        self._purposes = purposes
        self._proven = proven
        self._listening: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._strangers: set[asyncio.Task[None]] = set()
        self._hosts = Counter[str]()
        self.port = 0

    def start(self, host: str, port: int) -> None:
        """Listen on `port` or the next free one (0: any); ``0.0.0.0`` means IPv6 as well where there is any.

        Raises:
            OSError: none of the ports is free.
        """
        self._listening = listening_sockets(host, port)
        self.port = self._listening[0].getsockname()[1]
        self._accepting = [asyncio.create_task(self._accept(listening)) for listening in self._listening]

    async def close(self) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listening in self._listening:
            listening.close()
        strangers = list(self._strangers)
        for task in strangers:
            task.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("no direct connection accepted: %s", error)
                await asyncio.sleep(_NO_DESCRIPTORS_S)
                continue
            self._receive(connection, address[0])

    def _receive(self, connection: socket.socket, host: str) -> None:
        if len(self._strangers) >= MAX_STRANGERS or self._hosts[host] >= STRANGERS_PER_HOST or not _is_near(host):
            connection.close()
            return
        self._hosts[host] += 1
        task = asyncio.create_task(self._meet(connection))
        self._strangers.add(task)
        task.add_done_callback(lambda task: self._forget(task, host, connection))

    def _forget(self, task: asyncio.Task[None], host: str, connection: socket.socket) -> None:
        self._strangers.discard(task)
        self._hosts -= Counter((host,))  # drops the host at zero
        if task.cancelled():  # perhaps before it began
            connection.close()

    async def _meet(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                peer_id, purpose, keys = await self._answered(connection)
        except (WireError, OSError, EOFError, TimeoutError) as error:
            log.debug("direct connection cut: %s", error)
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            await self._proven(peer_id, purpose, connection, keys)

    async def _answered(self, connection: socket.socket) -> tuple[PeerId, str, ChannelKeys]:
        _prepare(connection)
        loop = asyncio.get_running_loop()
        hello = await _read(connection, HELLO_BYTES)
        link_id, number = read_hello(hello)
        link = self._links.find(link_id, number, loop.time())
        if link is None or not self._admits(link.opener):
            raise PeerGone("nothing has been agreed on with whoever connected, or not any more")
        handshake = AnsweringHandshake(link, hello)
        self._links.use(link_id, number)
        purpose = next((purpose for purpose in self._purposes() if handshake.is_for(purpose)), None)
        if purpose is None:
            raise PeerGone(f"{link.opener} asks for what is not served here")
        await loop.sock_sendall(connection, handshake.reply)
        return link.opener, purpose, handshake.keys(await _read(connection, PROOF_BYTES))


async def connect_directly(way: Way, purpose: str, timeout_s: float) -> tuple[socket.socket, ChannelKeys]:
    """A proven connection to the other end of `way`, not blocking, by whichever of its hosts answers first.

    Raises:
        PeerGone: none does; what listens there is another, or does not serve the purpose.
        TimeoutError: no host has answered in time.
    """
    trying = {asyncio.create_task(_connected(way, host, purpose)) for host in way.hosts}
    pending, reasons = set(trying), list[str]()
    try:
        async with asyncio.timeout(timeout_s):
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    if (reason := attempt.exception()) is None:
                        trying.remove(attempt)
                        return attempt.result()
                    reasons.append(str(reason) or type(reason).__name__)
    finally:
        await _give_up(trying)
    raise PeerGone(f"{way.link.answerer} cannot be reached directly: {'; '.join(reasons)}")


async def _give_up(attempts: Iterable[asyncio.Task[tuple[socket.socket, ChannelKeys]]]) -> None:
    """Those that have come second, too: their connections are open."""
    for attempt in attempts:
        attempt.cancel()
    for outcome in await asyncio.gather(*attempts, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            outcome[0].close()


async def _connected(way: Way, host: str, purpose: str) -> tuple[socket.socket, ChannelKeys]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        _prepare(connection)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (host, way.port))
        handshake = OpeningHandshake(way.link, way.number(), purpose)
        await loop.sock_sendall(connection, handshake.hello)
        proof = handshake.proof(await _read(connection, REPLY_BYTES))
        await loop.sock_sendall(connection, proof)
    except BaseException:
        connection.close()
        raise
    return connection, handshake.keys


async def _read(connection: socket.socket, count: int) -> bytes:
    """So many bytes and none of those behind them; EOFError if they do not come."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < count:
        piece = await loop.sock_recv(connection, count - len(data))
        if not piece:
            raise EOFError("the other end of a direct connection closed it")
        data += piece
    return data


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_near(host: str) -> bool:
    with suppress(ValueError):
        return is_lan(host.partition("%")[0])
    return False
