"""What the API asks of the node behind it: the daemon in service, a whole model in one process in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from peerllm.generation.answer import AnswerEvent
from peerllm.generation.answer_request import AnswerRequest
from peerllm.generation.embedding import EmbeddingRequest, Embeddings
from peerllm.local.accounts import RequestAccount
from peerllm.local.lending import GuestStatus, LedgerRow, Limit
from peerllm.local.membership import Invited, KnownSwarm, Member
from peerllm.local.placement import PlacementAccount
from peerllm.local.records import SwarmRecords
from peerllm.local.schema import Event, PeerInfo, Status, SwarmInfo


@dataclass(frozen=True)
class ModelCard:
    """A model that can be asked for; `state` is "ready", "loading", "loadable" or "unavailable".

    `names` are others that it answers to. Of its `blocks` so many are `covered` now, by `peers`; while it loads,
    `fraction` (0 to 1) is there and the rest takes `eta_s`. None, 0 and "" are what is not known.
    """

    id: str
    created: int  # Unix seconds
    owned_by: str
    state: str
    context_tokens: int | None
    names: tuple[str, ...] = ()
    blocks: int = 0
    covered: int = 0
    peers: int = 0
    engine: str = ""
    dtype: str = ""
    fraction: float | None = None
    eta_s: float | None = None


class SwarmServices(Protocol):
    """The swarms of this home and who belongs to the one in use.

    All raise `JoinFailed` for what this peer may not do, or cannot yet; `BadKeyring` for damaged files.
    """

    async def all(self) -> list[KnownSwarm]: ...

    async def create(self, name: str) -> KnownSwarm:
        """Make a swarm and take part in it; raises `UsageError` if the name will not do."""
        ...

    async def use(self, name: str) -> KnownSwarm:
        """Take part in another one; raises `UsageError` if there is no such."""
        ...

    async def invite(self, *, lifetime_s: float, uses: int, may_issue: bool) -> Invited: ...

    def members(self) -> list[Member]: ...

    async def revoke(self, peer_id: str) -> None: ...


class GuestServices(Protocol):
    """How this machine lends: its owner's hand on it, and the governor's."""

    def status(self) -> GuestStatus: ...

    async def share(self, on: bool, *, finish: bool = False) -> None:
        """Lend from now on, which is consent, or stop: at once, or once running sessions have ended by themselves."""
        ...

    async def pause(self, until: float) -> None:
        """Lend nothing until a Unix time; one that has passed ends the pause."""
        ...

    def limits(self) -> list[Limit]: ...

    async def set_limits(self, values: Mapping[str, object]) -> None:
        """Setting to value, None for what the config says; raises `UsageError` and then changes nothing."""
        ...

    async def ledger(self, days: int) -> list[LedgerRow]:
        """The last day first."""
        ...


class NodeServices(Protocol):
    """The node as the API sees it. Everything runs on the API's event loop and returns without blocking it."""

    @property
    def swarms(self) -> SwarmServices: ...

    @property
    def guest(self) -> GuestServices: ...

    def status(self) -> Status: ...

    def peers(self) -> list[PeerInfo]: ...

    def swarm(self) -> SwarmInfo: ...

    def records(self) -> SwarmRecords:
        """The records in view and what was measured of their owners."""
        ...

    def models(self) -> list[ModelCard]:
        """What can be asked for, the most ready first."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """The present lifecycle state, then every change."""
        ...

    def answer(self, request: AnswerRequest) -> AsyncIterator[AnswerEvent]:
        """Tokens as they come, then `Finished`; closing the iterator frees the route at once.

        Raises, before the first token or later: `UnknownModel`, `ModelLoading`, `NoPeers`, `UsageError`,
        `ContextTooLong` and other `GenerationError`, `Refused`.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The vectors of all texts; raises like `answer`."""
        ...

    def placement(self) -> PlacementAccount:
        """Why this machine serves what it serves."""
        ...

    def requests(self) -> list[RequestAccount]:
        """The accounts of the last requests, the one that ended last first."""
        ...

    def request(self, name: str) -> RequestAccount:
        """The account of one of them, by its id or a beginning of it, or ``last``; raises `UnknownRequest`."""
        ...

    async def log_lines(self, lines: int) -> list[str]:
        """The last lines of the daemon's log."""
        ...

    async def join(self, way: str) -> str:
        """Come in by an invitation, or add a peer's address to enter the swarm by; the swarm's name.

        Raises `UsageError` for a malformed one, `JoinFailed` for an invitation that does not lead in.
        """
        ...

    async def leave(self) -> str:
        """Forget the addresses, and a swarm that was joined by invitation; the swarm that this peer is in then."""
        ...

    async def stop(self) -> None:
        """Begin to drain and end; returns at once."""
        ...
