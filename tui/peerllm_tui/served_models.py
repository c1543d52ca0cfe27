"""Who serves which blocks of which model, out of what the daemon tells. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from peerllm.local.inert_text import inert
from peerllm.local.records import SeenRecord
from peerllm.local.schema import PeerInfo

ONLINE = "online"
QUARANTINED = "quarantined"
MOST_BLOCKS = 4096

_NAME_CHARS = 40
_ID_CHARS = 6
_SPAN_CHARS = 16

ModelKey = tuple[str, str, int]


@dataclass(frozen=True)
class ServedModel:
    """Peers that can stand in for one another; each has a span of the model, sorted by where it begins."""

    name: str
    fingerprint: str
    blocks: int
    peers: tuple[PeerInfo, ...]

    @property
    def key(self) -> ModelKey:
        """What stays the same while its peers come and go."""
        return self.name, self.fingerprint, self.blocks


def served_models(peers: Iterable[PeerInfo], records: Iterable[SeenRecord]) -> tuple[ServedModel, ...]:
    """This machine's first, then by name; peers with another fingerprint in their record make a model of their own."""
    fingerprints = {record.peer_id: record.fingerprint for record in records}
    groups: dict[ModelKey, list[PeerInfo]] = defaultdict(list)
    for peer in peers:
        if span_of(peer):
            groups[peer.model, fingerprints.get(peer.peer_id, ""), peer.blocks].append(peer)
    models = [
        ServedModel(name, fingerprint, blocks, tuple(sorted(group, key=_place)))
        for (name, fingerprint, blocks), group in sorted(groups.items())
    ]
    return tuple(sorted(models, key=lambda model: not any(peer.you for peer in model.peers)))


def span_of(peer: PeerInfo) -> range:
    """Its blocks, none if it has no span or one that cannot be."""
    start, _, end = peer.span.partition(":")
    if not (start.isdecimal() and end.isdecimal() and len(peer.span) <= _SPAN_CHARS):
        return range(0)
    span = range(int(start), int(end))
    return span if len(span) > 0 and span.stop <= peer.blocks <= MOST_BLOCKS else range(0)


def serves(peer: PeerInfo) -> bool:
    """Whether this machine would ask it for its blocks now."""
    return peer.state == ONLINE and peer.trust != QUARANTINED


def named(peer: PeerInfo) -> str:
    """As on the web page: "attic", "desktop (you)", "…k3Xq9f" for the nameless."""
    name = inert(peer.name, _NAME_CHARS) or f"…{inert(peer.peer_id[-_ID_CHARS:])}"
    return f"{name} (you)" if peer.you else name


def span_text(span: range) -> str:
    return f"{span.start}:{span.stop}"


def _place(peer: PeerInfo) -> tuple[int, int, str]:
    span = span_of(peer)
    return span.start, span.stop, peer.peer_id
