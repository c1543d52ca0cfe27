"""What the daemon tells its clients, as frozen values with a JSON form.

Clients and daemon may differ in version: reading skips fields it does not know and takes the default for
missing ones, so a field is only ever added, with a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from peerllm.local.json_form import from_json, to_json

LIFECYCLE = (
    "idle",
    "discovering",
    "joining",
    "downloading",
    "loading",
    "warming",
    "serving",
    "draining",
    "paused",
    "error",
)
"""The names that `LifecycleState.name` takes."""


class Schema:
    """A value of the local API."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Raises `BadAnswer` if the data does not fit."""
        return from_json(cls, data)


@dataclass(frozen=True)
class LifecycleState(Schema):
    """What the daemon is doing: one of `LIFECYCLE`, since a Unix time, done to `progress` (0..1) if that is known."""

    name: str
    since: float
    progress: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class ContributionStatus(Schema):
    """What this machine lends; `span` is "" until one is chosen, `blocks` counts those of the whole model."""

    enabled: bool
    model: str = ""
    span: str = ""
    blocks: int = 0
    slots_used: int = 0
    slots_free: int = 0
    engine: str = ""
    dtype: str = ""
    memory_bytes: int = 0
    decode_ms: float = 0.0
    weights_bytes_downloaded: int = 0
    reason: str = ""
    in_group: bool = False
    """It serves a slice in somebody else's group; `reason` says whose."""
    members: tuple[str, ...] = ()
    """The other peers of the group that it leads."""


@dataclass(frozen=True)
class DirectoryState(Schema):
    """One way of finding peers: whether it works, and if not, why."""

    name: str
    up: bool
    reason: str = ""
    peers: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class NetworkStatus(Schema):
    """How others reach this peer: `reach` is unknown, alone, direct, relayed or unreachable, and `reason` says why.

    `relays` are its addresses at relays, `relaying` is what it does with them (off, open, hidden). `clock` says whose
    clock is off and what to do, "" if none is known to be. At `direct_port` neighbours open direct sockets; 0 for none.
    """

    reach: str = "unknown"
    reason: str = ""
    relays: tuple[str, ...] = ()
    relaying: str = "off"
    lan_only: bool = False
    clock: str = ""
    direct_port: int = 0


@dataclass(frozen=True)
class ApiStatus(Schema):
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True)
class MembershipStatus(Schema):
    """How this peer belongs to its swarm; `problem` says why it does not, `renewal` why it will not for long."""

    public: bool = False
    made_here: bool = False
    may_issue: bool = False
    expires_at: int = 0
    problem: str = ""
    renewal: str = ""


@dataclass(frozen=True)
class SpeculationStatus(Schema):
    """Whether tokens are guessed ahead, and what that has come to since the start: of `drafted_tokens` in so many
    `rounds` of all answers `accepted_tokens` were right. `draft_models` are those that are loaded for it."""

    enabled: bool = False
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status(Schema):
    version: str
    peer_id: str
    name: str
    pid: int
    since: float
    swarm: str
    lifecycle: LifecycleState
    contribution: ContributionStatus
    api: ApiStatus
    directories: tuple[DirectoryState, ...] = ()
    port: int = 0
    """Peer-to-peer port that is bound; 0 until then."""
    addresses: tuple[str, ...] = ()
    """Where others can reach this peer: what `peerllm join` takes on another machine."""
    peers: int = 0
    """Others that are in view now."""
    network: NetworkStatus = NetworkStatus()
    speculation: SpeculationStatus = SpeculationStatus()
    membership: MembershipStatus = MembershipStatus()


@dataclass(frozen=True)
class PeerInfo(Schema):
    """One peer as this one sees it; `rtt_ms` is measured from here and None if unknown."""

    peer_id: str
    name: str
    state: str
    model: str = ""
    span: str = ""
    blocks: int = 0
    decode_ms: float = 0.0
    rtt_ms: float | None = None
    addresses: int = 0
    you: bool = False
    reach: str = ""
    """How this peer gets there: direct, relayed, unreachable; "" before it has tried. Of itself: how others do."""
    reach_reason: str = ""
    by_socket: bool = False
    """Do this peer's streams to it go by a direct socket, past libp2p?"""
    clock_ahead_s: float = 0.0
    """By how much its clock is off, seen from here, if that is too much."""
    slots_free: int = 0
    engine: str = ""
    trust: str = ""
    """What spot checks made from here have found: "quarantined" (not asked), "disputed"; "" for nothing."""
    trust_reason: str = ""
    version: str = ""
    """Of peerllm there."""
    queue_ms: float = 0.0
    """How long a token waits there before it is computed."""
    power: str = ""
    """The mode it works in: eco, turbo; "" if unknown."""
    tokens_per_s: float = 0.0
    """Through its span while it works in that mode; 0 if unknown."""
    watts: float = 0.0
    """Of its processors while it does; 0 if unknown."""
    group: str = ""
    """The peer that leads the group it serves in; it then has no blocks of its own."""
    members: tuple[str, ...] = ()
    """The other peers of the group that it leads."""


@dataclass(frozen=True)
class ModelCoverage(Schema):
    """How much of a model the swarm serves: a chat needs every block, so `gaps` must be empty."""

    model: str
    blocks: int
    covered: int
    gaps: tuple[str, ...] = ()
    peers: int = 0


@dataclass(frozen=True)
class SwarmInfo(Schema):
    name: str
    id: str
    models: tuple[ModelCoverage, ...] = ()
    peers: tuple[PeerInfo, ...] = ()


@dataclass(frozen=True)
class Event(Schema):
    """Something changed: `kind` is "lifecycle", "contribution", "peers" or "directory"; `data` has its new value."""

    kind: str
    at: float
    data: dict[str, Any] = field(default_factory=dict[str, Any])
