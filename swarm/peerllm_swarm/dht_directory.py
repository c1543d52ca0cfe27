"""The directory beyond the LAN: records under one key of a hivemind DHT, one subkey per peer.

A `DHTNode` in our own event loop, on the daemon's libp2p host. It starts alone and joins whoever becomes known later:
by `join`, or because another directory put a record into the shared table.

Of two values under one subkey hivemind keeps the one that expires last: sequences and expiries must grow together.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# hivemind is partly annotated.

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeVar

from peerllm_swarm.directory import DirectoryStatus, StatusKeeper
from peerllm_swarm.errors import DirectoryDown, Unreachable
from peerllm_swarm.identity import Identity
from peerllm_swarm.lean_hivemind import import_lean
from peerllm_swarm.p2p import connect, is_alive
from peerllm_swarm.record_codec import Withdrawal, encode_record, encode_withdrawal
from peerllm_swarm.record_table import Changes, RecordTable
from peerllm_swarm.records import REFRESH_S, PeerRecord, PeerState
from peerllm_swarm.span import PeerId

if TYPE_CHECKING:
    from hivemind.dht.node import DHTNode

    from peerllm_swarm.dht_validator import ClaimValidator
    from peerllm_swarm.gated_p2p import GatedP2P

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

CALL_TIMEOUT_S = 5.0
POLL_S = 3.0
ENOUGH_NEIGHBOURS = 8  # beyond these the DHT itself brings more
RETRY_PEER_S = 30.0
MOST_TOLD = 64
TELL_S = 1.5
"""For neighbours to hear that this peer leaves; those that are gone themselves do not hold it up for longer."""

_GRACE_S = 1.0
_ALONE = "no other peer has been joined yet"


class DhtDirectory:
    """A `Directory` over the DHT of the peers that it has joined; `p2p` stays the caller's."""

    def __init__(self, p2p: GatedP2P, identity: Identity, table: RecordTable, *, poll_s: float = POLL_S) -> None:
        self._p2p = p2p
        self._identity = identity
        self._table = table
        self._poll_s = poll_s
        self._key = f"peerllm/{table.swarm}/peers"
        self._status = StatusKeeper("dht")
        self._node: DHTNode | None = None
        self._validator: ClaimValidator | None = None
        self._own: tuple[bytes, float] | None = None  # what was announced or withdrawn last, and its expiry
        self._store_due = 0.0  # in the loop's time, like the next two
        self._fetch_due = 0.0
        self._tried: dict[PeerId, float] = {}
        self._poll: asyncio.Task[None] | None = None
        self._polling = asyncio.Lock()  # held during a poll

    @property
    def status(self) -> DirectoryStatus:
        return self._status.snapshot()

    @property
    def changed(self) -> Changes:
        return self._table.changed

    async def start(self) -> None:
        if self._node is not None:
            return
        await asyncio.to_thread(import_lean, "hivemind.dht.node")
        from hivemind.dht.node import DHTNode
        from hivemind.dht.protocol import DHTProtocol
        from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

        from peerllm_swarm.dht_serializer import BoundedSerializer
        from peerllm_swarm.dht_validator import ClaimValidator

        DHTProtocol.serializer = BoundedSerializer
        self._p2p.addresses_of = self._table.addresses_of
        self._validator = ClaimValidator(self._key, self._table, self._status.dropped)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                self._node = await DHTNode.create(
                    p2p=self._p2p,
                    record_validator=self._validator,
                    # Its cache would serve old records, and keeps a task that its shutdown forgets.
                    cache_locally=False,
                    cache_nearest=0,
                    cache_on_store=False,
                    cache_refresh_before_expiry=0,
                )
        except (OSError, TimeoutError, P2PDaemonError) as error:
            self._status.set(False, f"the DHT cannot start: {error!r}")
            raise DirectoryDown(f"the DHT cannot start: {error!r}") from error
        self._status.set(True, _ALONE)
        self._polling = asyncio.Lock()  # a new one: `close` keeps the last
        self._poll = asyncio.create_task(self._keep_polling(), name="dht poll")

    async def join(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        """Become a neighbour of this peer in the DHT, and exchange records with it.

        Raises:
            Unreachable: it is not there, or does not answer.
        """
        await self._meet(peer_id, addresses)
        await self.refresh()

    async def announce(self, record: PeerRecord) -> None:
        data = encode_record(record, self._identity, self._table.own_certificate)
        await self._publish(data, record.expires_at, goodbye=record.state is PeerState.DRAINING)

    async def withdraw(self, record: PeerRecord) -> None:
        withdrawal = Withdrawal.of(record, now=self._table.clock())
        data = encode_withdrawal(withdrawal, self._identity, self._table.own_certificate)
        await self._publish(data, withdrawal.expires_at, goodbye=True)

    def view(self) -> tuple[PeerRecord, ...]:
        return self._table.view()

    async def refresh(self) -> None:
        """Store the own record where it now belongs and read those of others; DirectoryDown if that is impossible."""
        await self._store()
        await self._fetch()

    async def close(self) -> None:
        if self._poll is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):  # interrupted in a call, hivemind leaves tasks of it behind
                    await self._polling.acquire()
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
            self._poll = None
        node, self._node = self._node, None
        if node is not None and is_alive(self._p2p):
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await node.shutdown()
            except Exception as error:  # whatever ails hivemind's node: it is about to end
                logger.warning("dht did not close in order: %r", error)
        self._status.set(False, "closed")

    def _running(self) -> DHTNode:
        if self._node is None:
            raise DirectoryDown("the DHT is not started")
        if not is_alive(self._p2p):
            self._status.set(False, "the libp2p daemon has ended")
            raise DirectoryDown("the DHT is down: the libp2p daemon has ended")
        return self._node

    async def _publish(self, data: bytes, expires_at: float, *, goodbye: bool) -> None:
        self._own = data, expires_at
        self._table.offer(data, self._status.dropped)
        if goodbye:
            await self._tell_neighbours(data, expires_at)
        await self._store()

    async def _tell_neighbours(self, data: bytes, expires_at: float) -> None:
        """Have them store it now, wherever it belongs: what is stored at a peer is in its table, without a poll."""
        from hivemind.dht.routing import DHTID

        protocol = self._running().protocol
        keys, values = [DHTID.generate(self._key)], [protocol.serializer.dumps(data)]
        neighbours = list(protocol.routing_table.peer_id_to_uid)[:MOST_TOLD]
        calls = [
            protocol.call_store(peer, keys, values, expires_at, subkeys=[self._identity.peer_id]) for peer in neighbours
        ]
        _, late = (
            await asyncio.wait([asyncio.create_task(call) for call in calls], timeout=TELL_S) if calls else ((), ())
        )
        for call in late:
            call.cancel()

    async def _store(self) -> None:
        node = self._running()
        if self._own is None:
            return
        data, expires_at = self._own
        if expires_at <= self._table.clock():
            return
        self._store_due = asyncio.get_running_loop().time() + REFRESH_S
        self._hold(data, expires_at, self._identity.peer_id)
        # False means that every node has this or a newer value already, or refuses it: `_fetch` shows what holds.
        await _within_deadline(node.store(self._key, data, expires_at, subkey=self._identity.peer_id))

    async def _fetch(self) -> None:
        node = self._running()
        self._fetch_due = asyncio.get_running_loop().time() + self._poll_s
        found = await _within_deadline(node.get(self._key, latest=True))
        for peer, item in found.value.items() if found is not None else ():
            self._table.offer(item.value, self._status.dropped)
            self._hold(item.value, item.expiration_time, peer)
        self._status.set(True, "" if node.protocol.routing_table.uid_to_peer_id else _ALONE)

    def _hold(self, data: bytes, expires_at: float, peer_id: str) -> None:
        """Answer for this record ourselves, too.

        All records have one key, hence lie with the same five peers; a newcomer who enters by any other one, and has
        the addresses of none, would find nothing.
        """
        from hivemind.dht.routing import DHTID

        protocol = self._running().protocol
        protocol.storage.store(DHTID.generate(self._key), protocol.serializer.dumps(data), expires_at, subkey=peer_id)

    async def _meet(self, peer_id: PeerId, addresses: Sequence[str]) -> None:
        from hivemind.p2p import PeerID

        node = self._running()
        await connect(self._p2p, peer_id, addresses, CALL_TIMEOUT_S)
        # Not strict: that would refuse a peer whose clock is 3 s off; our records allow for more.
        ping = node.protocol.call_ping(PeerID.from_base58(peer_id), validate=True, strict=False)
        if await _within_deadline(ping) is None:
            raise Unreachable(f"peer {peer_id} is connected, but its DHT does not answer")
        await _within_deadline(node.find_nearest_nodes([node.node_id]))

    async def _keep_polling(self) -> None:
        seen = 0
        while True:
            try:
                async with self._polling:
                    await self._poll_once()
            except DirectoryDown as error:
                self._status.set(False, str(error))
            except Exception:  # hivemind's own faults must not end the polling
                logger.exception("dht poll failed")
                self._status.set(False, "a DHT call failed; the log has more")
            try:  # a record from another directory may name a peer to meet: do not wait for the next poll
                async with asyncio.timeout(self._poll_s):  # not `wait_for`: Python 3.11's can swallow a cancellation
                    seen = await self.changed.wait(seen)
            except TimeoutError:
                seen = self.changed.count

    async def _poll_once(self) -> None:
        if self._validator is not None:
            self._validator.clean(self._running().protocol.storage)
        now = asyncio.get_running_loop().time()
        if await self._meet_known_peers(now) or now >= self._store_due:
            await self._store()
            self._fetch_due = 0.0
        if now >= self._fetch_due:
            await self._fetch()

    async def _meet_known_peers(self, now: float) -> bool:
        """Join some peers of the table that are no neighbours yet; whether any was joined."""
        neighbours = {str(peer) for peer in self._running().protocol.routing_table.peer_id_to_uid}
        wanted = ENOUGH_NEIGHBOURS - len(neighbours)
        records = {record.peer_id: record for record in self._table.view() if record.peer_id != self._identity.peer_id}
        self._tried = {peer: at for peer, at in self._tried.items() if at > now - RETRY_PEER_S}
        strangers = [peer for peer in records if peer not in neighbours and peer not in self._tried]
        chosen = strangers[: max(wanted, 0)]
        self._tried.update(dict.fromkeys(chosen, now))
        return any(await asyncio.gather(*(self._try_to_meet(records[peer_id]) for peer_id in chosen)))

    async def _try_to_meet(self, record: PeerRecord) -> bool:
        try:
            await self._meet(record.peer_id, record.addresses)
        except (Unreachable, DirectoryDown) as error:
            logger.debug("dht neighbour not met: %s", error)
            return False
        return True


async def _within_deadline(call: Awaitable[_T]) -> _T:
    """hivemind's calls can wait forever: on a value it cannot decode, or a stream that broke."""
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await call
    except TimeoutError as error:
        raise DirectoryDown(f"a DHT call took more than {CALL_TIMEOUT_S:g} s") from error
