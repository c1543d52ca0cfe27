"""Why the daemon serves the span it serves, as the local API hands it out."""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.local.schema import Schema


@dataclass(frozen=True)
class SpanCandidate(Schema):
    """A span and the common score if this peer served it: lower is better, uncovered blocks come first."""

    span: str
    uncovered: int
    score: float
    to_fetch: int  # blocks that are not on this disk


@dataclass(frozen=True)
class SpanHolder(Schema):
    """Another peer and what it offers to each of its blocks."""

    peer_id: str
    name: str
    span: str
    tokens_per_s: float


@dataclass(frozen=True)
class PlacementAccount(Schema):
    """Of the model that this peer lends for; `model` is "" while it lends nothing, then `why` says so."""

    model: str
    why: str
    blocks: int = 0
    capacity_blocks: int = 0
    block_ms: float = 0.0
    present: SpanCandidate | None = None
    best: tuple[SpanCandidate, ...] = ()
    others: tuple[SpanHolder, ...] = ()
    alone: tuple[str, ...] = ()  # served by nobody but this peer
    missing: tuple[str, ...] = ()  # served by nobody
    next_check_s: float | None = None
    group: str = ""  # why it leads a tensor-parallel group, serves in one, or does neither
