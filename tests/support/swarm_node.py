"""A node in a swarm that is only told of: peers, holes and answers are what a test says they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from peerllm.api.node_services import ModelCard
from peerllm.errors import PeerllmError
from peerllm.generation.answer import AnswerEvent, Content, Delta, Finished, Reasoning
from peerllm.generation.answer_request import AnswerRequest
from peerllm.local.accounts import RequestAccount, RouteChange
from peerllm.local.schema import Event, LifecycleState, MembershipStatus, ModelCoverage, PeerInfo, Status, SwarmInfo
from peerllm.model_cards import STATES
from peerllm_swarm.span import BlockSpan, uncovered
from tests.support.whole_model_node import CONTEXT_TOKENS, MODEL, WholeModel, WholeModelNode

BLOCKS = 30


@dataclass(frozen=True)
class Script:
    """What the next answers are: pieces of text, how far apart, through whom, and how they end."""

    pieces: tuple[str, ...]
    apart_s: float = 0.0
    reasoning: str = ""
    waiting: str = ""
    waiting_s: float = 0.0
    peers: tuple[str, ...] = ()
    route: tuple[str, ...] = ()
    lost: tuple[RouteChange, ...] = ()
    failure: PeerllmError | None = None


def peer(name: str, span: str, rtt_ms: float | None = 1.0, *, state: str = "online", model: str = MODEL) -> PeerInfo:
    """Another peer, whose id is made of its name."""
    return PeerInfo(f"12D3KooW{name}", name, state, model, span, BLOCKS, 0.5, rtt_ms)


class SwarmNode(WholeModelNode):
    """What tests change from their own thread is told to clients by `tell`."""

    def __init__(self, model: WholeModel | None = None, others: tuple[PeerInfo, ...] = ()) -> None:
        super().__init__(model)
        self.others = others
        self.span = ""
        self.script: Script | None = None
        self.lifecycle: LifecycleState | None = None
        self.membership = MembershipStatus(made_here=True, expires_at=1_800_000_000)
        self.more_models: tuple[ModelCard, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self, kind: str, data: dict[str, object] | None = None) -> None:
        """An event for everybody who listens; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._put, Event(kind, time.time(), data or {}))

    async def events(self) -> AsyncIterator[Event]:
        self._loop = asyncio.get_running_loop()
        async for event in super().events():
            yield event

    def status(self) -> Status:
        now = super().status()
        span = self.span if self.sharing else ""
        lent = replace(now.contribution, span=span, slots_free=4 if span else 0, engine="llama", dtype="q8_0")
        state = self.lifecycle or now.lifecycle
        return replace(now, contribution=lent, lifecycle=state, membership=self.membership, peers=len(self.others))

    def peers(self) -> list[PeerInfo]:
        span = self.span if self.sharing else ""
        own = PeerInfo("12D3KooWAlone", "alone", "online" if span else "idle", MODEL, span, BLOCKS, 0.5, 0.0, you=True)
        return [own, *self.others]

    def swarm(self) -> SwarmInfo:
        peers = self.peers()
        models = [ModelCoverage(model, BLOCKS, *_covered(peers, model)) for model in sorted({p.model for p in peers})]
        return SwarmInfo("home", "0" * 16, tuple(models), tuple(peers))

    def models(self) -> list[ModelCard]:
        gaps = {model.model: model.gaps for model in self.swarm().models}
        states = {model: "loading" if missing else "ready" for model, missing in gaps.items()}
        cards = [ModelCard(model, 1, "peerllm", state, CONTEXT_TOKENS) for model, state in states.items()]
        return sorted([*cards, *self.more_models], key=lambda card: STATES.index(card.state))

    async def answer(self, request: AnswerRequest) -> AsyncIterator[AnswerEvent]:
        if self.script is None:
            async for event in super().answer(request):
                yield event
            return
        self.asked.append(request)
        self.answering += 1
        try:
            async for event in _played(self.script, request):
                yield event
            changes = self.script.lost
            self.ledger.keep(RequestAccount(request.id, request.model, time.time(), "stop", 12, 1, changes=changes))
            self.finished += 1
        finally:
            self.answering -= 1


async def _played(script: Script, request: AnswerRequest) -> AsyncIterator[AnswerEvent]:
    request.doing.peers = script.peers
    if script.waiting:
        request.doing.waiting = script.waiting
        await asyncio.sleep(script.waiting_s)
        request.doing.waiting = ""
    started = time.monotonic()
    if script.reasoning:
        yield Delta(script.reasoning, 0, (Reasoning(script.reasoning),))
    for token, piece in enumerate(script.pieces):
        yield Delta(piece, token, (Content(piece),))
        await asyncio.sleep(script.apart_s)
    if script.failure is not None:
        raise script.failure
    tokens_per_s = len(script.pieces) / max(time.monotonic() - started, 1e-3)
    yield Finished("stop", 12, len(script.pieces), 0.16, tokens_per_s, script.route, len(script.lost))


def _covered(peers: list[PeerInfo], model: str) -> tuple[int, tuple[str, ...], int]:
    spans = [_span(peer.span) for peer in peers if peer.model == model and peer.span and peer.state == "online"]
    gaps = uncovered(spans, BLOCKS)
    return BLOCKS - sum(map(len, gaps)), tuple(map(str, gaps)), len(spans)


def _span(text: str) -> BlockSpan:
    start, end = text.split(":")
    return BlockSpan(int(start), int(end))
