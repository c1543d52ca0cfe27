"""What answers of this daemon are guessed ahead with: what earlier ones have taught, and a small model on the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peerllm.errors import PeerllmError
from peerllm.generation.answer import Finished
from peerllm.generation.answer_request import AnswerRequest
from peerllm.generation.drafting.acceptance import Acceptance
from peerllm.generation.drafting.answer_drafter import AnswerDrafter
from peerllm.generation.drafting.draft_model import DraftModel, DraftSession, Guess
from peerllm.generation.sampler import GREEDY_BELOW
from peerllm.model.partial_file import is_whole
from peerllm.model.spec import ModelSpec, WeightFormat
from peerllm.model.store import ModelStore, StoredModel
from peerllm.model.tokenizer import Tokenizer

log = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"

SMALLER = 8
"""A model that is chosen by itself has at most so small a part of the other one's weights: else its guesses come too
late."""

MOST_BYTES = 512 << 20
"""Weights of a model that is loaded without being asked for by name."""

ASSUMED_TOKEN_MS = 10.0
"""Of a small model that is not loaded yet."""


@dataclass
class Totals:
    """Of all answers that were guessed ahead."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0

    def add(self, end: Finished) -> None:
        self.rounds += end.rounds
        self.drafted += end.drafted_tokens
        self.accepted += end.accepted_tokens


@dataclass(frozen=True)
class DraftSettings:
    """`model` is a name, "auto" for a small one that is on this disk, or "none"; `max_length` are tokens per round."""

    enabled: bool = True
    model: str = AUTO
    max_length: int = 32


class Drafts:
    """Those of all models that this daemon is asked for."""

    def __init__(self, settings: DraftSettings, store: ModelStore) -> None:
        self.settings = settings
        self.totals = Totals()
        self._store = store

    def of(self, stored: StoredModel, tokenizer: Tokenizer) -> ModelDrafts:
        return ModelDrafts(self.settings, self._store, stored, tokenizer, self.totals)


class ModelDrafts:
    """Those of one model."""

    def __init__(
        self,
        settings: DraftSettings,
        store: ModelStore,
        stored: StoredModel,
        tokenizer: Tokenizer,
        totals: Totals | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._stored = stored
        self._tokenizer = tokenizer
        self._totals = totals or Totals()
        self._acceptance: dict[bool, Acceptance] = {}  # by whether the likeliest token is always taken
        self._loading: asyncio.Task[DraftModel | None] | None = None

    def drafter(self, asked: AnswerRequest) -> AnswerDrafter | None:
        """For one answer; None if it is to be made without."""
        if not (self._settings.enabled if asked.terms.speculation is None else asked.terms.speculation):
            return None
        greedy = asked.sampling.temperature < GREEDY_BELOW
        prediction = self._tokenizer.encode(asked.prediction, add_bos=False) if asked.prediction else ()
        return AnswerDrafter(
            self._acceptance.setdefault(greedy, Acceptance()),
            prediction=prediction,
            model=None if self._settings.model == NONE else _LoadedWhenWanted(self),
            max_length=self._settings.max_length,
            ended=self._totals.add,
        )

    @property
    def model(self) -> str:
        """The name of the small model that is loaded; "" for none."""
        loading = self._loading
        if loading is None or not loading.done() or loading.cancelled():
            return ""
        model = loading.result()
        return model.name if model is not None else ""

    def session(self) -> DraftSession | None:
        """Of the small model; the first call begins to load it, and there is none until then."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._loaded))
        if not self._loading.done() or self._loading.cancelled():
            return None
        model = self._loading.result()
        return model.session() if model is not None else None

    async def shutdown(self) -> None:
        if self._loading is not None:
            [model] = await asyncio.gather(self._loading, return_exceptions=True)
            if isinstance(model, DraftModel):
                await model.shutdown()

    def _loaded(self) -> DraftModel | None:
        """The first candidate that can be loaded and has the same tokens."""
        for name in self._candidates():
            try:
                stored = self._store.open(name)
                model = DraftModel.load(stored, self._tokenizer, threads=1, polite=True)
            except PeerllmError as error:
                named = self._settings.model != AUTO
                log.log(logging.ERROR if named else logging.INFO, "no draft model name=%s: %s", name[:120], error)
            else:
                log.info("draft model loaded name=%s for=%s", stored.spec.name, self._stored.spec.name)
                return model
        return None

    def _candidates(self) -> Iterator[str]:
        if self._settings.model != AUTO:
            yield self._settings.model
            return
        here = sorted(self._store.known(), key=lambda known: _weights_bytes(known.spec))
        for known in here:
            if could_draft(known.spec, self._stored.spec) and all(map(is_whole, known.paths)):
                yield known.source


class _LoadedWhenWanted:
    """A session of the small model that is loaded once a guess of it would pay."""

    def __init__(self, drafts: ModelDrafts) -> None:
        self._drafts = drafts
        self._session: DraftSession | None = None

    @property
    def token_ms(self) -> float:
        return self._session.token_ms if self._session is not None else ASSUMED_TOKEN_MS

    async def propose(self, tokens: Sequence[int], at_most: int) -> Sequence[Guess]:
        if self._session is None:
            self._session = self._drafts.session()
        return await self._session.propose(tokens, at_most) if self._session is not None else ()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.aclose()


def could_draft(small: ModelSpec, large: ModelSpec) -> bool:
    """Is it small enough to be loaded without being asked for, and are there as many tokens?"""
    most = min(MOST_BYTES, _weights_bytes(large) / SMALLER)
    return small.format is WeightFormat.GGUF and small.vocab == large.vocab and _weights_bytes(small) <= most


def _weights_bytes(spec: ModelSpec) -> int:
    return sum(spec.block_bytes) + spec.ends_bytes
