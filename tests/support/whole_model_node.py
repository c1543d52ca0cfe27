"""A node that answers alone: the embedded model whole, in this process. It passes for the daemon before the API."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from peerllm.api.node_services import ModelCard
from peerllm.config import SwarmConfig
from peerllm.engine.load import load_ends, load_span
from peerllm.engine.scheduler import StepScheduler
from peerllm.errors import ModelLoading, UnknownModel, UsageError
from peerllm.generation.answer import AnswerEvent
from peerllm.generation.answer_request import AnswerRequest
from peerllm.generation.answer_text import answer_text
from peerllm.generation.constraint import Constraints
from peerllm.generation.drafting.answer_drafter import AnswerDrafter
from peerllm.generation.drafting.drafter import Drafting, Verified
from peerllm.generation.drafting.drafts import NONE, DraftSettings, ModelDrafts
from peerllm.generation.embedding import EmbeddingRequest, Embeddings, all_embedded, embedded
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.generate import generate
from peerllm.generation.ledger import Ledger
from peerllm.generation.preparing import check_fits, prepare, prompt_tokens
from peerllm.generation.reading import family_behind
from peerllm.local.accounts import RequestAccount
from peerllm.local.placement import PlacementAccount
from peerllm.local.records import SwarmRecords
from peerllm.local.schema import (
    ApiStatus,
    ContributionStatus,
    Event,
    LifecycleState,
    ModelCoverage,
    PeerInfo,
    Status,
    SwarmInfo,
)
from peerllm.locations import Locations
from peerllm.model.chat_template import ChatTemplate
from peerllm.model.store import ModelStore
from peerllm.model.tokenizer import Tokenizer
from peerllm.swarms import Swarms
from peerllm_swarm.span import BlockSpan
from tests.support.local_chain import local_chains
from tests.support.sample_seen import HOME
from tests.support.stand_in_guest import StandInGuest

MODEL = "smollm2-135m"
CONTEXT_TOKENS = 512
SLOTS = 8

FAR = (Verified(drafted=0, accepted=0, round_ms=300.0, compute_ms=1.0),)
"""What predicted answers take their rounds to cost, so that guesses pay whatever this machine is doing."""


class WholeModel:
    """The whole file as one span, and its two ends, each on its thread as in a daemon."""

    def __init__(self, gguf: Path) -> None:
        pytest.importorskip("llama_cpp")
        self._folder = TemporaryDirectory(prefix="whole-model-")
        store = ModelStore(Path(self._folder.name), offline=True)
        stored = store.open(str(gguf))
        self.tokenizer = Tokenizer.of(stored)
        self.template = ChatTemplate.of(stored, self.tokenizer)
        self.constraints = Constraints(self.tokenizer)
        self.ends = EndsThread(load_ends(stored, engine="llama", threads=1))
        span = BlockSpan(0, stored.spec.blocks)
        engine = load_span(stored, span, engine="llama", slots=SLOTS, context_tokens=CONTEXT_TOKENS, threads=1)
        self._scheduler = StepScheduler(engine)
        self.chains = local_chains(self._scheduler)
        self.drafts = ModelDrafts(DraftSettings(model=NONE), store, stored, self.tokenizer)

    def close(self) -> None:
        asyncio.run(self._shutdown())
        self._folder.cleanup()

    async def _shutdown(self) -> None:
        await self.ends.shutdown()
        await self._scheduler.shutdown()


class WholeModelNode:
    """`NodeServices` over a `WholeModel`, or over none: then it is loading."""

    def __init__(self, model: WholeModel | None, home: Path = Path("nowhere")) -> None:
        self.model = model
        self.swarms = Swarms(SwarmConfig(), Locations.of({"PEERLLM_HOME": str(home)}))
        self.answering = 0
        """Answers under way: 0 again once a client has hung up."""
        self.finished = 0
        """Answers that came to their own end."""
        self.asked: list[AnswerRequest] = []
        self.failure: Exception | None = None
        """What every answer fails with, before its first token."""
        self.ledger = Ledger()
        self.guest = StandInGuest(self._put)
        self.log = [f"line {number} of the log" for number in range(1, 201)]
        self.joined: list[str] = []
        self.stopping = asyncio.Event()
        self._changes: set[asyncio.Queue[Event]] = set()
        self._slots = asyncio.Semaphore(SLOTS)
        self._since = time.time()

    @property
    def sharing(self) -> bool:
        return self.guest.sharing

    def status(self) -> Status:
        name = "draining" if self.stopping.is_set() else "serving" if self.model else "loading"
        if self.guest.now.verdict in ("pause", "release"):
            name = "paused"
        return Status(
            version="0",
            peer_id="12D3KooWAlone",
            name="alone",
            pid=os.getpid(),
            since=self._since,
            swarm="home",
            lifecycle=LifecycleState(name, self._since, None if self.model else 0.25, "all blocks here"),
            contribution=ContributionStatus(self.sharing, MODEL, "0:30" if self.sharing else "", 30),
            api=ApiStatus("127.0.0.1", 0),
        )

    def peers(self) -> list[PeerInfo]:
        return [PeerInfo("12D3KooWAlone", "alone", "online", MODEL, "0:30", 30, 0.5, you=True)]

    def swarm(self) -> SwarmInfo:
        return SwarmInfo("home", "0" * 16, (ModelCoverage(MODEL, 30, 30, peers=1),), tuple(self.peers()))

    def records(self) -> SwarmRecords:
        return HOME

    def models(self) -> list[ModelCard]:
        return [ModelCard(MODEL, 1, "peerllm", "ready" if self.model else "loading", CONTEXT_TOKENS)]

    async def events(self) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._changes.add(queue)
        try:
            yield Event("lifecycle", time.time(), self.status().lifecycle.to_json())
            while True:
                yield await queue.get()
        finally:
            self._changes.discard(queue)

    async def answer(self, request: AnswerRequest) -> AsyncIterator[AnswerEvent]:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        model = self._model(request.model)
        self.answering += 1
        try:
            async with self._slots, aclosing(await _answer(model, request)) as events:
                async for event in events:
                    yield event
            self.finished += 1
        finally:
            self.answering -= 1

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        model = self._model(request.model)
        prompts = [prompt_tokens(text, model.tokenizer, model.template) for text in request.inputs]
        for prompt in prompts:
            check_fits(len(prompt), 0, CONTEXT_TOKENS)
        self.answering += 1
        try:
            vectors = await all_embedded(prompts, lambda prompt: embedded(prompt, request, model.ends, model.chains))
        finally:
            self.answering -= 1
        return Embeddings(vectors, tuple(map(len, prompts)))

    def _model(self, name: str) -> WholeModel:
        if name != MODEL:
            raise UnknownModel(f"there is no model {name!r} in the swarm; there is {MODEL}")
        if self.model is None:
            raise ModelLoading(f"{MODEL} is loading, 25 % done", retry_after_s=3)
        return self.model

    def placement(self) -> PlacementAccount:
        return PlacementAccount(model="", why="this node lends nothing")

    def requests(self) -> list[RequestAccount]:
        return self.ledger.all()

    def request(self, name: str) -> RequestAccount:
        return self.ledger.find(name)

    async def log_lines(self, lines: int) -> list[str]:
        return self.log[-lines:]

    def _put(self, event: Event) -> None:
        for queue in self._changes:
            queue.put_nowait(event)

    async def join(self, way: str) -> str:
        if "/" in way:
            raise UsageError(f"{way!r} is no HOST[:PORT]")
        self.joined.append(way)
        return "home"

    async def leave(self) -> str:
        self.joined.clear()
        return "home"

    async def stop(self) -> None:
        self.stopping.set()


async def _answer(model: WholeModel, asked: AnswerRequest) -> AsyncGenerator[AnswerEvent]:
    request = prepare(asked, model.tokenizer, model.template, CONTEXT_TOKENS)
    family = family_behind(model.tokenizer, model.template.family, request.prompt)
    text = answer_text(asked, request.prompt, model.tokenizer, family)
    constraint = None if asked.grammar is None else await model.constraints.start(asked.grammar, family)
    drafter = model.drafts.drafter(asked) if asked.prediction else None
    drafting = Drafting(drafter, lambda _: drafter.plan(FAR)) if drafter is not None else None
    answer = generate(request, model.ends, model.tokenizer, model.chains, text, constraint, drafting)
    return answer if drafter is None else _counted(drafter, answer)


async def _counted(drafter: AnswerDrafter, answer: AsyncGenerator[AnswerEvent]) -> AsyncGenerator[AnswerEvent]:
    async with aclosing(answer):
        async for event in answer:
            yield drafter.counted(event)
