"""Contributors of one process that may form groups: real p2pd, direct sockets and engines; records by memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from peerllm.config import Config, ContributionConfig, EngineConfig
from peerllm.engine.budget import span_memory
from peerllm.lending import Lending
from peerllm.model.store import ModelStore
from peerllm.presence import Presence
from peerllm.serving.contribution import Contribution
from peerllm.serving.contributor import Contributor
from peerllm.serving.groups import GroupPace, Groups
from peerllm.serving.offer import Offer, work_out_offer
from peerllm.wire.direct_transport import DirectTransport
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.identity import Identity
from peerllm_swarm.memory_directory import MemoryBus, MemoryDirectory
from peerllm_swarm.record_table import RecordTable
from tests.support.contributor_world import OFTEN, QUICK, SWARM
from tests.support.direct import direct_peer
from tests.support.gguf_models import tiny_gguf
from tests.support.group_peers import UNEVEN

POOLED = replace(UNEVEN, blocks=5)
"""Five blocks for two machines that hold less than three each: together all of them, each for itself four."""

SOON = GroupPace(first_s=0.3, interval_s=0.3, rest_s=60.0)


@dataclass
class Partner:
    """One contributor, its record and its transport."""

    contributor: Contributor
    presence: Presence
    transport: DirectTransport
    addresses: tuple[str, ...]
    changes: list[Contribution]
    running: asyncio.Task[None]

    @property
    def phase(self) -> str:
        return self.contributor.contribution.phase

    @property
    def reasons(self) -> list[str]:
        return [change.reason for change in self.changes]


@dataclass
class GroupWorld:
    partners: list[Partner]
    offer: Offer

    @property
    def lead(self) -> Partner:
        """Of all peers in a group; the least of them."""
        return min(self.partners, key=lambda partner: partner.presence.peer_id)

    @property
    def member(self) -> Partner:
        return max(self.partners, key=lambda partner: partner.presence.peer_id)

    def formed(self) -> bool:
        """The lead's record says so."""
        return bool(self.lead.presence.record.members)


def lent_bytes(model: Path, home: Path, blocks: float) -> int:
    """What holds so many blocks, with a fraction."""
    offer = work_out_offer(ModelStore(home / "models").open(str(model)).spec, _config(model, 0), threads=1)

    def taken(count: int) -> int:
        span = replace(offer.spec.whole, end=count)
        return span_memory(offer.spec, span, engine="llama", dtype=offer.dtype, slots=2, context_tokens=128).total_bytes

    return round(taken(1) + (blocks - 1) * (taken(2) - taken(1)))


def _config(model: Path, memory_bytes: int) -> Config:
    lent = ContributionConfig(model=str(model), slots=2, context_tokens=128, memory_bytes=memory_bytes)
    return Config(contribution=lent, engine=EngineConfig(threads=1))


@asynccontextmanager
async def group_world(home: Path, count: int = 2, blocks_each: float = 2.9) -> AsyncIterator[GroupWorld]:
    """So many contributors of the same model, switched on."""
    model = tiny_gguf(home, POOLED)
    config = _config(model, lent_bytes(model, home, blocks_each))
    bus = MemoryBus()
    async with AsyncExitStack() as stack:
        partners = [await _partner(stack, home / f"peer{number}", bus, config) for number in range(count)]
        store = ModelStore(home / "models")
        world = GroupWorld(partners, work_out_offer(store.open(str(model)).spec, config, threads=1))
        for partner in partners:
            partner.contributor.switch(True)
        try:
            yield world
        finally:
            for partner in partners:
                partner.running.cancel()
            await asyncio.gather(*(partner.running for partner in partners), return_exceptions=True)


async def _partner(stack: AsyncExitStack, home: Path, bus: MemoryBus, config: Config) -> Partner:
    transport, addresses = await stack.enter_async_context(direct_peer(home))
    identity = Identity.load_or_create(home)
    directory = MemoryDirectory(bus, identity, RecordTable(SWARM))
    await directory.start()

    async def reachable() -> tuple[str, ...]:
        return addresses

    presence = Presence(directory, identity.peer_id, SWARM, reachable)
    lending = Lending(ModelStore(home / "models"), lambda: config, identity.peer_id, lambda: 5.0, lambda _: None)
    changes: list[Contribution] = []
    contributor = Contributor(
        lending.prepare,
        presence,
        transport,
        changes.append,
        lambda _: None,
        timing=lambda: QUICK,
        elsewhere=lending.elsewhere,
        drain_s=2.0,
        pace=OFTEN,
        groups=Groups(
            presence, transport, lambda _: 0.05, lambda _: None, form=SyncForm.FLOAT32, pace=SOON, same_machine=True
        ),
    )
    running = asyncio.create_task(contributor.run())
    return Partner(contributor, presence, transport, addresses, changes, running)
