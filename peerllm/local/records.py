"""The records in view with what this peer has measured of their owners: all that placement and routing decide by."""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.local.schema import Schema


@dataclass(frozen=True)
class RoundTrip(Schema):
    """To one other peer, as a record claims it."""

    peer_id: str
    rtt_ms: float


@dataclass(frozen=True)
class SeenRecord(Schema):
    """What a peer says of itself, as in `PeerRecord`; "", 0 and False stand for unknown.

    `measured_rtt_ms` and `measured_block_ms` were measured from here and are None if they never were, or too long ago.
    """

    peer_id: str
    name: str
    state: str
    you: bool = False
    model: str = ""
    fingerprint: str = ""
    blocks: int = 0
    span: str = ""
    capacity_blocks: int = 0
    decode_ms: float = 0.0
    prefill_tps: float = 0.0
    slots_free: int = 0
    cache_tokens_left: int = 0
    queue_ms: float = 0.0
    free_entry: bool = False
    rtt_ms: tuple[RoundTrip, ...] = ()
    measured_rtt_ms: float | None = None
    measured_block_ms: float | None = None
    group: str = ""
    members: tuple[str, ...] = ()
    group_room: float = 0.0


@dataclass(frozen=True)
class SwarmRecords(Schema):
    """One view of the swarm, at a Unix time; this peer's own record is in it."""

    at: float
    records: tuple[SeenRecord, ...] = ()
