"""What a peer publishes of itself: one small signed record per peer and model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from peerllm_swarm.span import BlockSpan, PeerId

RECORD_VERSION = 2
MAX_RECORD_BYTES = 4480  # 4096, a certificate and two speeds
RECORD_LIFETIME_S = 60.0
REFRESH_S = 20.0


class PeerState(StrEnum):
    """Where a peer is on its way to serve; only `ONLINE` is routed to."""

    IDLE = "idle"  # known, serves nothing
    ANNOUNCED = "announced"  # would serve, has not chosen
    CLAIMED = "claimed"
    LOADING = "loading"
    ONLINE = "online"
    DRAINING = "draining"


@dataclass(frozen=True)
class PeerRecord:
    """A peer's claim about itself; measurements made by others outrank it.

    Times are Unix seconds. `sequence` grows with every record of a peer: the highest wins.
    `decode_ms` is milliseconds per block and token with one session, 0 if unknown;
    `prefill_tps` is tokens per second through one block in a prefill of 128.
    """

    peer_id: PeerId
    swarm: str  # 16 hex digits
    sequence: int
    issued_at: float
    expires_at: float
    state: PeerState
    name: str  # of the machine, for people
    software: str  # peerllm version
    addresses: tuple[str, ...]  # libp2p multiaddrs without /p2p/..., reachable ones first
    model: str = ""  # display name of the model ("" when IDLE)
    fingerprint: str = ""  # weights digest + engine + dtype
    blocks: int = 0  # of the whole model
    span: BlockSpan | None = None  # from CLAIMED on
    capacity_blocks: int = 0
    decode_ms: float = 0.0
    prefill_tps: float = 0.0
    slots_free: int = 0
    cache_tokens_left: int = 0  # KV room for one more session
    queue_ms: float = 0.0
    free_entry: bool = False
    claimed_at: float = 0.0
    rtt_ms: tuple[tuple[PeerId, float], ...] = ()  # to at most 16 nearest peers
    moving_until: float = 0.0  # the lease of a peer that is about to move its span
    plan: tuple[tuple[PeerId, BlockSpan], ...] = ()  # moves it proposes, in order; at most 10
    demand: tuple[tuple[str, float], ...] = ()  # its owner's requests per minute, by model, last asked first; at most 4
    lends: tuple[str, ...] = ()  # fingerprints of what it may serve, whatever it serves now; at most 4
    loaded: float = 0.0  # how much of the span it loads is there, 0 to 1
    load_left_s: float = 0.0  # until that is all of it, counted from `issued_at`; 0 if unknown
    power: str = ""  # the mode it works in now: "eco", "turbo", "" if unknown
    speeds: tuple[tuple[str, float, float], ...] = ()  # by mode: tokens/s through its span, watts or 0; at most 2
    group: PeerId | Literal[""] = ""  # who leads the group that it serves in; it then has no span of its own
    members: tuple[PeerId, ...] = ()  # of the group that it leads, without itself; at most 7
    group_room: float = 0.0  # blocks of its model, with a fraction, that it would hold for a group; 0: it joins none

    def serves(self, fingerprint: str) -> bool:
        return self.state is PeerState.ONLINE and self.fingerprint == fingerprint and self.span is not None


@dataclass(frozen=True)
class SwarmView:
    """The unexpired records that one peer sees at one instant, its own included."""

    at: float
    records: tuple[PeerRecord, ...]

    def of(self, fingerprint: str) -> tuple[PeerRecord, ...]:
        return tuple(r for r in self.records if r.fingerprint == fingerprint)

    def online(self, fingerprint: str) -> tuple[PeerRecord, ...]:
        return tuple(r for r in self.records if r.serves(fingerprint))
