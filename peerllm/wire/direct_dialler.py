"""Opens direct connections to other peers: agrees with them over libp2p once, then dials where libp2p is connected."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from weakref import WeakValueDictionary

from peerllm.errors import PeerGone, WireError
from peerllm.wire.channel_keys import ChannelKeys
from peerllm.wire.direct_links import DIRECT_PROTOCOL, Way, ask_for_link, lasting_until
from peerllm.wire.direct_port import connect_directly
from peerllm.wire.direct_ways import DirectWays
from peerllm.wire.transport import Libp2pTransport
from peerllm_swarm.connections import connections
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)

CONNECT_S = 0.5
"""For a direct connection: on a LAN it takes a millisecond, and what is filtered on the way never answers."""

MAX_HOSTS = 4
_SILENT = f"its port does not answer within {CONNECT_S:g} s"
_AT_ONCE = 16  # handshakes under way here: far fewer than another peer's port takes from one host


class DirectDialler:
    """Of one peer, to all others."""

    def __init__(self, libp2p: Libp2pTransport) -> None:
        self._libp2p = libp2p
        self._ways = DirectWays()
        self._agreeing: WeakValueDictionary[PeerId, asyncio.Lock] = WeakValueDictionary()
        self._turn = asyncio.Semaphore(_AT_ONCE)

    def has_way(self, peer_id: PeerId) -> bool:
        """Did the last direct connection to this peer succeed?"""
        return self._ways.kept(peer_id, _now()) is not None

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[str], purpose: str, timeout_s: float
    ) -> tuple[socket.socket, ChannelKeys] | None:
        """A proven direct connection, not blocking; None where there is no way but libp2p.

        Raises:
            PeerGone: the peer is no member, or cannot be reached at all within the time.
        """
        if peer_id == self._libp2p.peer_id:
            return None
        until = _now() + timeout_s
        kept = self._ways.kept(peer_id, _now())
        if kept is not None and self._libp2p.p2p.gate.admits(peer_id):
            try:
                return await self._dialled(kept, purpose, until)
            except PeerGone as error:  # the other side has restarted, mostly, and forgotten the link
                log.debug("direct connection refused peer=%s: %s", peer_id, error)
                self._ways.drop(peer_id)
            except TimeoutError:
                return self._give_up(peer_id, _SILENT)
        return await self._newly_connected(peer_id, addresses, purpose, until)

    async def _newly_connected(
        self, peer_id: PeerId, addresses: Sequence[str], purpose: str, until: float
    ) -> tuple[socket.socket, ChannelKeys] | None:
        lock = self._agreeing.get(peer_id)
        if lock is None:
            lock = self._agreeing[peer_id] = asyncio.Lock()
        async with lock:  # others who want the same wait for it, and then have it
            if not self._ways.may_try(peer_id, _now()):
                return None
            way = self._ways.kept(peer_id, _now()) or await self._agreed(peer_id, addresses, until)
            if way is None:
                return self._give_up(peer_id, "it offers none, or is on no network of this peer's")
            try:
                connection, keys = await self._dialled(way, purpose, until)
            except (PeerGone, TimeoutError) as error:
                return self._give_up(peer_id, str(error) or _SILENT)
            way.hosts = (connection.getpeername()[0],)
            self._ways.keep(peer_id, way)
            return connection, keys

    async def _dialled(self, way: Way, purpose: str, until: float) -> tuple[socket.socket, ChannelKeys]:
        async with self._turn:
            return await connect_directly(way, purpose, min(CONNECT_S, until - _now()))

    async def _agreed(self, peer_id: PeerId, addresses: Sequence[str], until: float) -> Way | None:
        """None if the peer is not on a local network, or does not offer direct connections."""
        await self._libp2p.reach(peer_id, addresses, until - _now())
        paths = (await connections(self._libp2p.p2p)).get(peer_id, ())
        hosts = tuple(dict.fromkeys(path.host for path in paths if path.is_lan))[:MAX_HOSTS]
        if not hosts:
            return None
        try:
            async with asyncio.timeout(until - _now()):
                reader, writer = await self._libp2p.open_bytes(peer_id, DIRECT_PROTOCOL, until - _now())
                try:
                    link, port = await ask_for_link(reader, writer, self._libp2p.peer_id, peer_id)
                finally:
                    writer.close()
        except (WireError, OSError, EOFError) as error:
            log.debug("no agreement on a direct connection peer=%s: %s", peer_id, error)
            return None
        return Way(link, hosts, port, lasting_until(_now()))

    def _give_up(self, peer_id: PeerId, reason: str) -> None:
        log.debug("streams go over libp2p peer=%s: %s", peer_id, reason)
        self._ways.pause(peer_id, _now())


def _now() -> float:
    return asyncio.get_running_loop().time()
