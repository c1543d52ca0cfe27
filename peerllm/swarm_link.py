"""This daemon's link to the swarm: identity, libp2p host, directories; each may be down by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from peerllm.config import SwarmConfig
from peerllm.errors import UsageError
from peerllm.locations import Locations
from peerllm.presence import Presence
from peerllm.wire.bandwidth import Bandwidth
from peerllm.wire.direct_transport import DirectTransport, direct_transport
from peerllm.wire.transport import Libp2pTransport, Transport
from peerllm_swarm.dht_directory import DhtDirectory
from peerllm_swarm.dial_back import answer_dial_backs
from peerllm_swarm.directory import DirectoryStatus
from peerllm_swarm.errors import SwarmError
from peerllm_swarm.gate import Gate
from peerllm_swarm.hello import Target, answer_hello, say_hello
from peerllm_swarm.host_options import HostOptions
from peerllm_swarm.identity import Identity
from peerllm_swarm.join_messages import Redeem, Renew, Welcome
from peerllm_swarm.joining import JoinDesk, answer_joins, ask_to_join
from peerllm_swarm.lean_hivemind import import_lean
from peerllm_swarm.mdns_directory import MdnsDirectory
from peerllm_swarm.membership import Membership
from peerllm_swarm.merged_directory import MergedDirectory
from peerllm_swarm.p2p import start_p2p, stop_p2p
from peerllm_swarm.reach_keeper import ReachKeeper
from peerllm_swarm.record_table import RecordTable
from peerllm_swarm.relay_choice import RelayRule, any_far_host, first_options
from peerllm_swarm.revocation_exchange import RevocationExchange
from peerllm_swarm.span import PeerId

if TYPE_CHECKING:
    from peerllm_swarm.gated_p2p import GatedP2P

log = logging.getLogger(__name__)

HELLO_S = 5.0
JOIN_S = 15.0
FIRST_RETRY_S = 2.0
LAST_RETRY_S = 60.0


class SwarmLink:
    """What is open while the daemon takes part; made by `open_swarm_link`."""

    def __init__(
        self,
        identity: Identity,
        p2p: GatedP2P,
        transport: Transport,
        presence: Presence,
        merged: MergedDirectory,
        dht: DhtDirectory | None,
        revocations: RevocationExchange,
        reach: ReachKeeper,
    ) -> None:
        self.identity = identity
        self._p2p = p2p
        self.reach = reach
        self.transport = transport
        self.presence = presence
        self._merged = merged
        self._dht = dht
        self._revocations = revocations
        self._entries: dict[str, asyncio.Task[None]] = {}
        self._untried: set[str] = set()

    @property
    def is_entering(self) -> bool:
        """Is there an address to enter the swarm by that has been neither reached nor given up for now?"""
        return bool(self._untried)

    @property
    def direct_port(self) -> int:
        """Where peers of the local networks connect directly; 0 if they cannot."""
        return self.transport.port if isinstance(self.transport, DirectTransport) else 0

    def has_socket(self, peer_id: PeerId) -> bool:
        """Do streams to this peer go by a direct socket now?"""
        return isinstance(self.transport, DirectTransport) and self.transport.has_way(peer_id)

    @property
    def entry_hosts(self) -> tuple[str, ...]:
        return tuple(_target(address).host for address in self._entries)

    @property
    def directories(self) -> tuple[DirectoryStatus, ...]:
        return self._merged.parts

    @property
    def enters_from_afar(self) -> bool:
        """Was an address to enter the swarm by given? Then not all of it can be expected on the local network."""
        return bool(self._entries)

    def spread_revocations(self) -> None:
        """Tell all members in view what this peer knows of revocations, as it has just revoked one."""
        self._revocations.spread()

    def enter_by(self, address: str) -> None:
        """Meet the peer at HOST[:PORT] and, through it, the swarm; tried again until it answers."""
        target = _target(address)
        if address not in self._entries:
            self._untried.add(address)
            self._entries[address] = asyncio.create_task(self._enter(address, target), name=f"enter by {target}")

    async def forget_entries(self) -> None:
        entries, self._entries = list(self._entries.values()), {}
        self._untried.clear()
        for entry in entries:
            entry.cancel()
        await asyncio.gather(*entries, return_exceptions=True)

    async def ask_to_join(self, peer_id: PeerId, addresses: Sequence[str], request: Redeem | Renew) -> Welcome:
        """What an issuer of any swarm answers; raises Unreachable or JoinRefused."""
        return await ask_to_join(self._p2p, peer_id, addresses, request, timeout_s=JOIN_S)

    async def _enter(self, address: str, target: Target) -> None:
        pause_s = FIRST_RETRY_S
        while True:
            try:
                greeting = await say_hello(self._p2p, target, timeout_s=HELLO_S)
                if self._dht is not None:
                    await self._dht.join(greeting.peer_id, greeting.addresses)
                log.info("entered the swarm by=%s peer=%s", target, greeting.peer_id)
                return
            except SwarmError as error:
                log.warning("cannot enter the swarm by=%s retry_s=%g: %s", target, pause_s, error)
            finally:
                self._untried.discard(address)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_RETRY_S)


@asynccontextmanager
async def open_swarm_link(
    config: SwarmConfig,
    locations: Locations,
    entries: Sequence[str],
    membership: Membership,
    desk: JoinDesk,
    keep_revocations: Callable[[], Awaitable[None]],
    options: HostOptions | None = None,
    bandwidth: Bandwidth | None = None,
) -> AsyncIterator[SwarmLink]:
    """Start the libp2p host and the directories; all of it ends, and is withdrawn, with the context.

    Args:
        membership: of the swarm to take part in.
        desk: answers strangers who come with an invitation.
        keep_revocations: called when `membership` has learnt of revocations from others.
        options: what `SwarmLink.reach` has wanted of a link before this one; None: what the entries say.
        bandwidth: for what others ask of this peer; None sets no limit.
    Raises:
        Unreachable: the libp2p host cannot start; BadIdentity: the key file is no such.
    """
    identity = Identity.load_or_create(locations.state_dir)
    await asyncio.to_thread(import_lean, "hivemind.p2p")  # takes a moment: not on the loop
    swarm = membership.swarm
    async with contextlib.AsyncExitStack() as stack:
        if options is None:
            hosts = [_target(entry).host for entry in entries]
            options = first_options(RelayRule(config.relay), lan_only=config.lan_only, entries=hosts)
        p2p = await start_p2p(identity, port=config.port, host=config.listen, options=options, gate=Gate(membership))
        stack.push_async_callback(stop_p2p, p2p)
        await answer_hello(p2p)
        await answer_joins(p2p, desk)
        transport: Transport = Libp2pTransport(p2p, bandwidth=bandwidth)
        stack.push_async_callback(transport.close)
        if config.direct:
            direct = direct_transport(transport, host=config.listen, port=config.direct_port)
            transport = await stack.enter_async_context(direct)
        table = RecordTable(swarm, membership=membership)
        stack.callback(table.close)
        dht = DhtDirectory(p2p, identity, table) if config.dht else None
        mdns = MdnsDirectory(identity, table) if config.mdns else None
        merged = MergedDirectory([directory for directory in (mdns, dht) if directory is not None], table)
        stack.push_async_callback(merged.close)
        await merged.start()
        reach = ReachKeeper(p2p, identity.peer_id, merged.view, RelayRule(config.relay))
        table.on_claim.append(reach.note_claim)
        presence = Presence(merged, identity.peer_id, swarm, reach.addresses)
        stack.push_async_callback(presence.withdraw)
        await answer_dial_backs(p2p, presence.others)
        revocations = RevocationExchange(p2p, presence.others, keep_revocations, Random())
        stack.push_async_callback(revocations.close)
        await revocations.start()
        link = SwarmLink(identity, p2p, transport, presence, merged, dht, revocations, reach)
        stack.push_async_callback(link.forget_entries)
        for entry in entries:
            link.enter_by(entry)
        reach.enter_by(lambda: link.is_entering, lambda: any_far_host(link.entry_hosts))
        keeping = asyncio.create_task(reach.run(), name="keep reachable")
        stack.push_async_callback(_end, keeping)
        yield link


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _target(address: str) -> Target:
    try:
        return Target.parse(address)
    except ValueError as error:
        raise UsageError(str(error)) from error
