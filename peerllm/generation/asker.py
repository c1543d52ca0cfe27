"""The asking side as one thing: a chat in, tokens out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from peerllm.errors import PeerllmError
from peerllm.generation.accounting import Accounting
from peerllm.generation.answer import AnswerEvent
from peerllm.generation.answer_request import AnswerRequest
from peerllm.generation.answer_text import answer_text
from peerllm.generation.asked_model import AskedModel, AskedModels
from peerllm.generation.demand import Demand
from peerllm.generation.drafting.drafter import Drafting
from peerllm.generation.embedding import EmbeddingRequest, Embeddings, Vector, all_embedded, embedded
from peerllm.generation.generate import generate
from peerllm.generation.kept_sessions import KeptSessions
from peerllm.generation.ledger import Ledger
from peerllm.generation.model_wait import ModelWait
from peerllm.generation.preparing import check_fits, prepare, prompt_tokens
from peerllm.generation.read_prompts import Prompt, ReadPrompts
from peerllm.generation.reading import family_behind
from peerllm.generation.router import Router
from peerllm.generation.session import Chains, closes, none_kept
from peerllm.generation.spot_check import SpotChecks
from peerllm_swarm.spot_checks import tolerance


@dataclass(frozen=True)
class _Way:
    """How one request may be answered: through which peers, of which fingerprint, and how long it may be."""

    model: AskedModel
    router: Router
    of: str
    context_tokens: int


class Asker:
    """Asks the swarm on behalf of this machine's programs."""

    def __init__(
        self,
        models: AskedModels,
        router: Router,
        ledger: Ledger,
        demand: Demand,
        spot_checks: SpotChecks,
        model_wait: ModelWait,
        kept_sessions: KeptSessions,
        read_prompts: ReadPrompts,
    ) -> None:
        """`ledger` is where the accounts of all answers are kept, `demand` counts what is asked for.

        `model_wait` is how answers wait for models that nobody serves yet, `kept_sessions` are to go on with,
        `read_prompts` to begin with.
        """
        self._models = models
        self._router = router
        self._ledger = ledger
        self._demand = demand
        self._spot_checks = spot_checks
        self._model_wait = model_wait
        self._kept_sessions = kept_sessions
        self._read_prompts = read_prompts

    async def answer(self, asked: AnswerRequest) -> AsyncGenerator[AnswerEvent]:
        """Tokens as they come, then `Finished`; closing the iterator frees the route at once.

        Raises:
            UnknownModel, UnsupportedModel, PullFailed: the model's ends cannot be had.
            ContextTooLong: prompt and answer do not fit; nothing was computed.
            ModelLoading, NoPeers: no route covers the model yet, or at all; HopLost: too many hops were lost.
        """
        async with (
            self._models.using(asked.model, asked.doing) as model,
            contextlib.aclosing(self._answer(model, asked)) as events,
        ):
            async for event in events:
                yield event

    async def embed(self, asked: EmbeddingRequest) -> Embeddings:
        """The vectors of all texts; raises like `answer`, `UsageError` included."""
        async with self._models.using(asked.model, asked.doing) as model:
            way = await self._way(model, asked)
            prompts = [prompt_tokens(text, model.tokenizer, model.template) for text in asked.inputs]
            for prompt in prompts:
                check_fits(len(prompt), 0, way.context_tokens)
            ends = await model.ends(way.of)
            accounting = Accounting(asked.id, asked.model, sum(map(len, prompts)), way.router.name_of)

            async def embed_one(prompt: Sequence[int]) -> Vector:
                return await embedded(prompt, asked, ends, accounting.watched(self._chains(way, len(prompt), asked)))

            with self._failures_noted(accounting):
                vectors = await all_embedded(prompts, embed_one)
            self._ledger.keep(accounting.account("embedded"))
            return Embeddings(vectors, tuple(map(len, prompts)))

    async def _answer(self, model: AskedModel, asked: AnswerRequest) -> AsyncGenerator[AnswerEvent]:
        way = await self._way(model, asked)
        request = prepare(asked, model.tokenizer, model.template, way.context_tokens)
        family = family_behind(model.tokenizer, model.family, request.prompt)
        text = answer_text(asked, request.prompt, model.tokenizer, family)
        constraint = None if asked.grammar is None else await model.constraints.start(asked.grammar, family)
        ends = await model.ends(way.of)
        accounting = Accounting(asked.id, asked.model, len(request.prompt), way.router.name_of)
        prompt = way.router.prompt(self._read_prompts, way.of)
        chains = self._chains(way, len(request.prompt) + request.max_tokens, asked, prompt)
        drafter = model.drafts.drafter(asked) if model.drafts is not None else None
        drafting = Drafting(drafter, drafter.plan) if drafter is not None else None
        answer = generate(request, ends, model.tokenizer, accounting.watched(chains), text, constraint, drafting)
        with contextlib.closing(prompt):
            async with contextlib.aclosing(self._noted(accounting, answer)) as events:
                async for event in events:
                    prompt.been_read()
                    yield event if drafter is None else drafter.counted(event)

    async def _way(self, model: AskedModel, asked: AnswerRequest | EmbeddingRequest) -> _Way:
        """Once the model is served."""
        self._demand.asked(model.spec.name, time.time())
        router = self._router.under(asked.terms)
        choose = partial(router.choose, list(model.fingerprints()), model.spec.blocks)
        of = await self._model_wait.until_served(model, choose, asked.doing)
        context_tokens = min(model.spec.context_tokens, router.room_tokens(of, model.spec.blocks))
        return _Way(model, router, of, context_tokens)

    def _chains(
        self, way: _Way, tokens: int, asked: AnswerRequest | EmbeddingRequest, prompt: Prompt | None = None
    ) -> Chains:
        """For a session of so many tokens."""
        router, of, blocks = way.router, way.of, way.model.spec.blocks
        ending, resume = closes, none_kept
        if isinstance(asked, AnswerRequest):
            ending = partial(router.keep, self._kept_sessions, of)
            resume = partial(router.resume, self._kept_sessions, of, tokens, asked.doing, prompt=prompt)
        if not asked.terms.restrict:  # a witness would see hidden states, too
            limit = tolerance(*way.model.fingerprints()[of])
            ending = partial(self._spot_checks.at_end, limit=limit, then=ending)
        return Chains(
            partial(router.open, of, blocks, tokens, asked.doing, prompt),
            partial(router.mend, tokens=tokens, doing=asked.doing),
            router.lost,
            ending,
            resume,
        )

    async def _noted(self, accounting: Accounting, answer: AsyncGenerator[AnswerEvent]) -> AsyncGenerator[AnswerEvent]:
        """The answer, whose account is in the ledger before its reader sees the end, however it ends."""
        with self._ledger.following(partial(accounting.account, "running")), self._failures_noted(accounting):
            async with contextlib.aclosing(answer):
                async for event in answer:
                    accounting.note(event)
                    if accounting.is_finished:
                        self._ledger.keep(accounting.account())
                    yield event

    @contextlib.contextmanager
    def _failures_noted(self, accounting: Accounting) -> Iterator[None]:
        try:
            yield
        except PeerllmError as error:
            self._ledger.keep(accounting.account("failed", str(error)))
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if not accounting.is_finished:
                self._ledger.keep(accounting.account("cancelled"))
            raise
