"""Peers of a small model, and routes through them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from peerllm_swarm.latency import Latency
from peerllm_swarm.records import PeerRecord, PeerState, SwarmView
from peerllm_swarm.routing import Asker, Route, find_route
from peerllm_swarm.span import BlockSpan, PeerId

MODEL = "0123456789abcdef"


NOW = 1000.0


ME = Asker(PeerId("me"))


def peer(peer_id: str, start: int, end: int, *, blocks: int = 12, **changes: object) -> PeerRecord:
    record = PeerRecord(
        peer_id=PeerId(peer_id),
        swarm="",
        sequence=5,
        issued_at=NOW,
        expires_at=NOW + 60,
        state=PeerState.ONLINE,
        name="",
        software="",
        addresses=(),
        fingerprint=MODEL,
        blocks=blocks,
        span=BlockSpan(start, end),
        capacity_blocks=end - start,
        decode_ms=1.0,
        slots_free=2,
        cache_tokens_left=4096,
        free_entry=True,
    )
    return replace(record, **changes)  # pyright: ignore[reportArgumentType]  # fields by name


def view(*records: PeerRecord) -> SwarmView:
    return SwarmView(NOW, records)


def find(*records: PeerRecord, asker: Asker = ME, tokens: int = 0, blocks: int = 12) -> Route:
    return find_route(view(*records), MODEL, blocks, asker=asker, tokens=tokens)


def measured(**rtt_ms: float) -> Asker:
    latency = Latency()
    for name, rtt in rtt_ms.items():
        latency = latency.with_rtt(PeerId(name), rtt, NOW)
    return replace(ME, latency=latency)


def visits(route: Route) -> list[tuple[str, str]]:
    return [(hop.peer_id, str(hop.span)) for hop in route.hops]


def random_swarm(random: Random, *, most: int, free_entry: bool | None = None) -> tuple[int, list[PeerRecord], Asker]:
    """A few peers with equal and unequal speeds, links known and unknown, some of them failed or entered freely."""
    blocks = random.randint(1, 8)
    names = [f"peer {number}" for number in range(random.randint(1, most))]
    records: list[PeerRecord] = []
    asker = ME
    for name in names:
        start = random.choice([0, random.randint(0, blocks - 1)])
        links = tuple(
            (PeerId(other), random.choice([0.0, 4.0, 90.0])) for other in (*names, "me") if random.random() < 0.3
        )
        records.append(
            peer(
                name,
                start,
                random.randint(start + 1, blocks),
                blocks=blocks,
                decode_ms=random.choice([0.0, 1.0, 1.0, 7.5]),
                queue_ms=random.choice([0.0, 0.0, 3.0]),
                rtt_ms=links,
                free_entry=random.random() < 0.5 if free_entry is None else free_entry,
            )
        )
        if random.random() < 0.5:
            latency = asker.latency.with_rtt(PeerId(name), random.choice([0.5, 20.0]), NOW)
            asker = replace(asker, latency=latency)
    return blocks, records, asker
