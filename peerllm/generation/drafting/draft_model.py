"""A small whole model on this machine that continues the answers of a larger one of the same vocabulary."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from peerllm.engine.courtesy import lower_this_thread
from peerllm.engine.load import choose_engine, load_ends, load_span
from peerllm.engine.reply import Reply
from peerllm.engine.span_engine import Ends, Rows, SpanEngine
from peerllm.errors import NoSlot, UnsupportedModel
from peerllm.model.store import StoredModel
from peerllm.model.tokenizer import Tokenizer

T = TypeVar("T")

SLOTS = 2
"""Answers that are helped at once; each costs a KV cache, and the thread is one."""

MOST_CONTEXT = 4096
"""Tokens of a slot: texts beyond go without."""

READ_AT_ONCE = 64
"""Tokens that a guess may have to read first; more are read while the answer goes on without guesses."""

UNSURE = 0.2
"""Below this probability a guess is the last of its draft."""


@dataclass(frozen=True)
class Guess:
    """The likeliest token, and what the small model thinks of it."""

    token: int
    probability: float


class DraftModel:
    """Owns engine and ends; everything runs on its thread, one call at a time, behind all other work of this machine
    if `polite`."""

    def __init__(self, name: str, engine: SpanEngine, ends: Ends, eos_ids: frozenset[int], *, polite: bool) -> None:
        self.name = name
        self._engine = engine
        self._ends = ends
        self._eos_ids = eos_ids
        self._inbox: SimpleQueue[tuple[Reply[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(polite,), name="drafts", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, stored: StoredModel, tokenizer: Tokenizer, *, threads: int, polite: bool = False) -> DraftModel:
        """Load the whole model, for answers that are written with `tokenizer`; blocks for some seconds.

        Raises:
            UnsupportedModel: its tokens are not the same.
            EngineUnavailable, BadModelFile, NoMemory, PullFailed: as `load_span`.
        """
        require_same_tokens(stored, Tokenizer.of(stored), tokenizer)
        engine, dtype = choose_engine(stored.spec, device="cpu")
        ends = load_ends(stored, engine=engine, dtype=dtype, threads=threads)
        context_tokens = min(stored.spec.context_tokens, MOST_CONTEXT)
        span = load_span(
            stored, stored.spec.whole, engine=engine, slots=SLOTS, context_tokens=context_tokens, threads=threads
        )
        return cls(stored.spec.name, span, ends, tokenizer.eos_ids, polite=polite)

    def session(self) -> DraftSession:
        """For one answer."""
        return DraftSession(self)

    async def shutdown(self) -> None:
        """Free the model and end the thread, after the calls that wait."""
        try:
            await self.run(self._engine.shutdown)
            await self.run(self._ends.shutdown)
        finally:
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, on the model's thread."""
        reply: Reply[T] = Reply()
        self._inbox.put((reply, work))
        return await reply

    def open(self) -> int | None:
        """A slot; None if all are taken."""
        try:
            return self._engine.open()
        except NoSlot:
            return None

    def close(self, slot: int) -> None:
        self._engine.close(slot)

    @property
    def context_tokens(self) -> int:
        return self._engine.info.context_tokens

    def read(self, slot: int, tokens: Sequence[int], position: int) -> np.ndarray:
        """The logits behind the last of these tokens, which stand at `position` and on."""
        span = self._engine.info.span
        self._engine.rewind(slot, position)
        [hidden] = self._engine.step([Rows(slot, position, self._ends.embed(tokens), span.start, span.end)])
        return self._ends.logits(hidden[-1:])[0]

    def continued(self, slot: int, tokens: Sequence[int], position: int, at_most: int) -> list[Guess]:
        """Up to so many guesses behind `tokens`, which stand at `position` and on; none that ends the answer."""
        guesses: list[Guess] = []
        while True:
            guess = _likeliest(self.read(slot, tokens, position))
            if guess.token in self._eos_ids:
                return guesses
            guesses.append(guess)
            if len(guesses) == at_most or guess.probability < UNSURE:
                return guesses
            position += len(tokens)
            tokens = (guess.token,)

    def _work(self, polite: bool) -> None:
        if polite:
            lower_this_thread()
        while (call := self._inbox.get()) is not None:
            reply, work = call
            reply.give_outcome(work)


class DraftSession:
    """One answer's slot of a draft model, taken when the first guess is asked for."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._slot: int | None = None
        self._read: list[int] = []  # what the slot's KV cache holds
        self._reading: asyncio.Task[None] | None = None
        self.token_ms = 0.0
        """What one guess took last; 0 before the first."""

    async def propose(self, tokens: Sequence[int], at_most: int) -> Sequence[Guess]:
        """None while a long text is still being read, where it is too long, and where all slots are taken."""
        if self._reading is not None and not self._reading.done():
            return ()
        if len(tokens) + at_most > self._model.context_tokens or not await self._has_slot():
            return ()
        same = self._same(tokens)
        if len(tokens) - same > READ_AT_ONCE:
            self._reading = asyncio.create_task(self._read_on(tokens[:-1], same))
            return ()
        started_at = time.perf_counter()
        guesses = await self._continued(tokens, same, at_most)
        self.token_ms = (time.perf_counter() - started_at) * 1e3 / max(1, len(guesses))
        return guesses

    async def aclose(self) -> None:
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        slot, self._slot = self._slot, None
        if slot is not None:
            await self._model.run(lambda: self._model.close(slot))

    async def _has_slot(self) -> bool:
        if self._slot is None:
            self._slot = await self._model.run(self._model.open)
        return self._slot is not None

    def _same(self, tokens: Sequence[int]) -> int:
        """Tokens that need not be read again; the last one must, for what comes behind it."""
        most = min(len(self._read), len(tokens) - 1)
        return next((at for at in range(most) if self._read[at] != tokens[at]), most)

    async def _read_on(self, tokens: Sequence[int], same: int) -> None:
        """In pieces, so that other answers' guesses come between them."""
        del self._read[same:]
        for start in range(same, len(tokens), READ_AT_ONCE):
            piece = tokens[start : start + READ_AT_ONCE]
            await self._run(self._model.read, piece, start)
            self._read += piece

    async def _continued(self, tokens: Sequence[int], same: int, at_most: int) -> Sequence[Guess]:
        guesses = await self._run(self._model.continued, tokens[same:], same, at_most)
        self._read = [*tokens, *(guess.token for guess in guesses[:-1])]
        return guesses

    async def _run(self, work: Callable[..., T], *given: Any) -> T:
        slot = self._slot
        return await self._model.run(lambda: work(slot, *given))


def require_same_tokens(stored: StoredModel, its: Tokenizer, asked: Tokenizer) -> None:
    """Raises `UnsupportedModel` unless both models read and write the same tokens."""
    if its.vocabulary.digest == asked.vocabulary.digest:
        return
    raise UnsupportedModel(
        f"{stored.spec.name} cannot draft for this model: its vocabulary is another one ({its.size} tokens, digest "
        f"{its.vocabulary.digest[:12]}, against {asked.size}, {asked.vocabulary.digest[:12]}); choose a smaller model "
        'of the same family as speculation.draft_model, or "none"'
    )


def _likeliest(logits: np.ndarray) -> Guess:
    token = int(np.argmax(logits))
    return Guess(token, float(1 / np.exp(logits - logits[token]).sum()))
