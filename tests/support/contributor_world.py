"""A real contributor among peers of whom there are only records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from peerllm.config import Config, ContributionConfig, EngineConfig
from peerllm.engine.span_engine import Hidden, SpanEngine
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.lending import Lending
from peerllm.model.progress import Progress
from peerllm.model.store import ModelStore, StoredModel
from peerllm.presence import Presence
from peerllm.serving.contribution import Contribution
from peerllm.serving.contributor import Contributor
from peerllm.serving.loaded_span import load_engine
from peerllm.serving.offer import Offer, work_out_offer
from peerllm.wire.messages import WireDtype
from peerllm_swarm.balancing import Pace
from peerllm_swarm.identity import Identity
from peerllm_swarm.memory_directory import MemoryBus, MemoryDirectory
from peerllm_swarm.record_codec import Withdrawal, encode_record, encode_withdrawal
from peerllm_swarm.record_table import RecordTable
from peerllm_swarm.records import PeerRecord, PeerState
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.settle import Timing
from peerllm_swarm.span import BlockSpan
from tests.support.gguf_models import TINY, tiny_gguf
from tests.support.peers import transport, until

SWARM = "0123456789abcdef"
QUICK = Timing(visible_s=0.05, repair_s=0.5)
OFTEN = Pace(interval_s=0.2, rest_s=0.0, turn_s=1.0, wanted_s=0.5, wanted_rest_s=0.0)
LOWER, UPPER = BlockSpan(0, 3), BlockSpan(3, 6)


@dataclass
class World:
    """One contributor, and what it has done."""

    home: Path
    bus: MemoryBus
    contributor: Contributor
    presence: Presence
    offers: list[Offer]  # of the owner's favourite, and of another model
    published: list[PeerRecord]  # all that the contributor has announced
    loads: list[BlockSpan]  # all spans that it has loaded
    config: Config

    def lend(self, *, max_blocks: int) -> None:
        """The owner says otherwise."""
        self.config = replace(self.config, contribution=replace(self.config.contribution, max_blocks=max_blocks))

    def other(self, name: str, span: BlockSpan, block_ms: float = 5.0, wants: str = "") -> None:
        """A peer that serves `span` of the favourite, from now on, and asks for a model."""
        identity = Identity.load_or_create(self.home / name)
        now = time.time()
        record = PeerRecord(
            peer_id=identity.peer_id,
            swarm=SWARM,
            sequence=int(now * 1000),
            issued_at=now,
            expires_at=now + 60,
            state=PeerState.ONLINE,
            name=name,
            software="",
            addresses=("/ip4/127.0.0.1/tcp/1",),
            model=self.offers[0].spec.name,
            fingerprint=self.offers[0].fingerprint,
            blocks=self.offers[0].spec.blocks,
            span=span,
            capacity_blocks=len(span),
            decode_ms=block_ms,
            demand=((wants, 20.0),) if wants else (),
        )
        self.bus.publish(identity.peer_id, encode_record(record, identity))

    def paused(self, name: str) -> None:
        """The peer serves nobody, and says so as `Presence.publish_idle` does."""
        record = next(record for record in self.presence.view().records if record.name == name)
        idle = replace(
            record, sequence=record.sequence + 1, state=PeerState.IDLE, span=None, fingerprint="", model="", blocks=0
        )
        self.bus.publish(record.peer_id, encode_record(idle, Identity.load_or_create(self.home / name)))

    def gone(self, name: str) -> BlockSpan:
        """The peer says goodbye; its span."""
        record = next(record for record in self.presence.view().records if record.name == name)
        identity = Identity.load_or_create(self.home / name)
        withdrawal = Withdrawal.of(record, now=time.time())
        self.bus.publish(identity.peer_id, encode_withdrawal(withdrawal, identity))
        assert record.span is not None
        return record.span

    async def serving(self) -> BlockSpan:
        """Lend, and say what is served."""
        self.contributor.switch(True)
        await until(lambda: self.presence.record.state is PeerState.ONLINE, 20.0)
        assert self.presence.record.span is not None
        return self.presence.record.span

    @asynccontextmanager
    async def session(self, span: BlockSpan) -> AsyncIterator[Chain]:
        """An asker's, through this peer alone."""
        route = Route(self.offers[0].fingerprint, (Hop(self.presence.peer_id, span),))
        addresses = {self.presence.peer_id: self.presence.record.addresses}
        async with (
            transport(self.home / "asker") as (streams, _),
            open_chain(
                route, addresses, streams, tokens=64, wire_dtype=WireDtype.FLOAT32, timings=ChainTimings()
            ) as chain,
        ):
            yield chain

    def serves(self, span: BlockSpan) -> Callable[[], bool]:
        return lambda: self.presence.record.state is PeerState.ONLINE and self.presence.record.span == span


@asynccontextmanager
async def world(home: Path, *, capacity: int) -> AsyncIterator[World]:
    favourite, also = (str(tiny_gguf(home, TINY, seed=seed)) for seed in (7, 8))
    config = Config(
        contribution=ContributionConfig(
            max_blocks=capacity, slots=2, context_tokens=128, model=favourite, also=(also,)
        ),
        engine=EngineConfig(threads=1),
    )
    bus, identity, table = MemoryBus(), Identity.load_or_create(home / "me"), RecordTable(SWARM)
    directory = MemoryDirectory(bus, identity, table)
    await directory.start()
    store = ModelStore(home / "models")
    worlds: list[World] = []
    lending = Lending(store, lambda: worlds[0].config, identity.peer_id, lambda: 5.0, lambda _: None)
    offers = [work_out_offer(store.open(name).spec, config, threads=1) for name in config.contribution.all_models]
    async with transport(home / "me") as (streams, addresses):

        async def reachable() -> tuple[str, ...]:
            return addresses

        loads: list[BlockSpan] = []

        def load(stored: StoredModel, offer: Offer, span: BlockSpan, progress: Progress) -> tuple[SpanEngine, float]:
            loads.append(span)
            return load_engine(stored, offer, span, progress)

        presence = Presence(directory, identity.peer_id, SWARM, reachable)
        changes: list[Contribution] = []
        contributor = Contributor(
            lending.prepare,
            presence,
            streams,
            changes.append,
            lambda _: None,
            timing=lambda: QUICK,
            elsewhere=lending.elsewhere,
            drain_s=2.0,
            pace=OFTEN,
            load_engine=load,
        )
        published: list[PeerRecord] = []

        async def follow() -> None:
            seen = 0
            while True:
                seen = await presence.wait(seen, time.time() + 60.0)
                if not published or published[-1] != presence.record:
                    published.append(presence.record)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(contributor.run()), group.create_task(follow())]
            try:
                worlds.append(World(home, bus, contributor, presence, offers, published, loads, config))
                yield worlds[0]
            finally:
                for task in tasks:
                    task.cancel()


def rows(count: int) -> Hidden:
    return np.random.default_rng(count).standard_normal((count, TINY.hidden), dtype=np.float32)
