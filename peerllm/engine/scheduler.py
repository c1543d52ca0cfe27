"""Continuous batching: the one thread that owns a `SpanEngine`, and the sessions that wait for it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from peerllm.engine.batching import TURN_ROWS, choose_rows
from peerllm.engine.courtesy import lower_this_thread
from peerllm.engine.exact_rows import exact_rows
from peerllm.engine.reply import Reply
from peerllm.engine.span_engine import Hidden, Rows, SpanEngine
from peerllm.errors import EngineError, EngineFault

log = logging.getLogger(__name__)

T = TypeVar("T")

STOP_S = 10.0
"""For the step that runs to end: the largest take a second or two, one that hangs is not waited for."""

STEPS_PER_SESSION = 4
"""That may wait at once. Sessions of ours have one here; more only tells of a peer that does not wait for its turn."""

DECODING_S = 0.5
"""After a session's last token the next one is expected: a token's way through a route takes less."""


@dataclass(frozen=True)
class StepTiming:
    """Where the time of one session's step went at this peer, in microseconds."""

    queue_us: int
    compute_us: int
    busy_us: int = 0
    """The session's part of the engine's time: that of a step is shared out by rows among the sessions in it."""


@dataclass(frozen=True)
class DecodeWork:
    """Done since the span was loaded, in steps of nothing but single tokens."""

    tokens: int = 0
    busy_s: float = 0.0


@dataclass
class _Held:
    """A slot of the engine's that is taken: by whom, for how many tokens, and how many of its steps wait."""

    slot: int
    asker: str
    tokens: int
    own: bool = False
    steps: int = 0


@dataclass
class _Step:
    """A session's rows on their way through the engine, possibly in several slices."""

    rows: Rows
    held: _Held
    done: Reply[tuple[Hidden, StepTiming]]
    queued_at: float
    at_once: int
    goes_back: bool
    started_at: float = 0.0
    busy_s: float = 0.0
    taken: int = 0
    outputs: list[Hidden] = field(default_factory=list[Hidden])

    @property
    def rows_left(self) -> int:
        return len(self.rows.hidden) - self.taken

    @property
    def rows_wanted(self) -> int:
        """In the next engine step."""
        return min(self.rows_left, self.at_once)

    def slice(self, count: int) -> Rows:
        rows = self.rows
        hidden = rows.hidden[self.taken : self.taken + count]
        return Rows(self.held.slot, rows.position + self.taken, hidden, rows.enter, rows.exit)

    def finish(self) -> None:
        now = time.perf_counter()
        queue_s, compute_s = self.started_at - self.queued_at, now - self.started_at
        timing = StepTiming(int(queue_s * 1e6), int(compute_s * 1e6), int(self.busy_s * 1e6))
        hidden = self.outputs[0] if len(self.outputs) == 1 else np.concatenate(self.outputs)
        self.done.give((hidden, timing))


@dataclass(frozen=True)
class _Call:
    """Anything else that must run on the engine's thread, between two steps."""

    run: Callable[[], Any]
    done: Reply[Any]


class StepScheduler:
    """Runs the waiting rows of all sessions together, step after step, on its own thread.

    All methods are called from the event loop. A step that was cancelled still runs to its end in the
    engine: the slot is only consistent once it has. Slots have numbers of their own here, none of which is
    given twice: a late step of a session that has ended meets nobody else's cache.
    """

    def __init__(self, engine: SpanEngine, *, polite: bool = False) -> None:
        """`polite`: everything that is not this engine's comes first on this machine."""
        self.engine = engine
        self._polite = polite
        self._held: dict[int, _Held] = {}
        self._numbers = itertools.count()
        self._inbox: queue.SimpleQueue[_Step | _Call | None] = queue.SimpleQueue()
        self._waiting: dict[int, deque[_Step]] = {}  # by slot, in the order of their turns
        self._decoded_at = -DECODING_S
        self.work = DecodeWork()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def step(self, rows: Rows, *, goes_back: bool = False, as_alone: bool = False) -> tuple[Hidden, StepTiming]:
        """Hidden states behind the session's exit, ``[T, D]`` float32, and what it cost.

        Args:
            goes_back: forget what the slot holds from the rows' position on before they are computed.
            as_alone: give every row the bits that it has in a step of its own (`exact_rows`).
        Raises:
            EngineError: the rows do not continue the slot, exceed what it was opened for, or too many steps wait.
        """
        self._refuse_if_closed()
        held = self._of(rows.slot)
        if rows.position + len(rows.hidden) > held.tokens:
            raise EngineError(f"the session was opened for {held.tokens} tokens and cannot hold more")
        if held.steps == STEPS_PER_SESSION:
            raise EngineError(f"{held.steps} steps of the session wait already")
        at_once = exact_rows(self.engine.info) if as_alone else len(rows.hidden)
        step = _Step(rows, held, Reply(), time.perf_counter(), at_once, goes_back)
        held.steps += 1
        self._inbox.put(step)
        try:
            return await step.done
        finally:
            held.steps -= 1

    async def run(self, work: Callable[[], T]) -> T:
        """Anything else that needs the engine, between two steps and on its thread."""
        return await self._call(work)

    async def open(self, asker: str = "", tokens: int | None = None, *, own: bool = False) -> int:
        """A slot for a session of that asker's with room for so many tokens, or for all that fits.

        The rows of this machine's `own` sessions go into each step first.

        Raises:
            NoSlot: all are taken.
        """
        opening = asyncio.ensure_future(self._call(self.engine.open))
        try:
            slot = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._give_back)  # the thread may have taken it already
            raise
        number = next(self._numbers)
        self._held[number] = _Held(slot, asker, self.engine.info.context_tokens if tokens is None else tokens, own)
        return number

    def allow(self, slot: int, tokens: int) -> None:
        """Let the slot's session have so many tokens from now on."""
        self._of(slot).tokens = tokens

    async def fork(self, source: int, to: int, into: int) -> None:
        """Have an empty slot hold the first `to` positions of another one (`SpanEngine.fork`); raises `EngineError`."""
        held, empty = self._of(source), self._of(into)
        if to > empty.tokens:
            raise EngineError(f"the session was opened for {empty.tokens} tokens and cannot hold {to}")
        await self._call(lambda: self.engine.fork(held.slot, to, empty.slot))

    async def rewind(self, slot: int, to: int) -> None:
        """Forget positions ``>= to``; steps of the slot that still wait are dropped."""

        held = self._of(slot)

        def work() -> None:
            self._drop_waiting(slot)
            self.engine.rewind(held.slot, to)

        await self._call(work)

    async def close(self, slot: int) -> None:
        """Give the slot back; steps of it that still wait are dropped."""
        held = self._of(slot)
        del self._held[slot]

        def work() -> None:
            self._drop_waiting(slot)
            self.engine.close(held.slot)

        await self._call(work)

    async def shutdown(self) -> None:
        """Let the step that runs end, refuse what waits, free the engine, end the thread."""
        if self._closed:
            return
        self._closed = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, STOP_S)
        if self._thread.is_alive():
            log.error("the engine does not come back from a step; its memory is free only when this process ends")

    @property
    def queued(self) -> int:
        """Sessions that wait for the engine now (an estimate: read without a lock)."""
        return len(self._waiting)

    async def _call(self, run: Callable[[], Any]) -> Any:
        self._refuse_if_closed()
        call = _Call(run, Reply())
        self._inbox.put(call)
        return await call.done

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EngineError("this span is being unloaded")

    def _of(self, slot: int) -> _Held:
        if slot not in self._held:
            raise EngineError(f"slot {slot} is not open")
        return self._held[slot]

    def _give_back(self, opening: asyncio.Future[int]) -> None:
        if not opening.cancelled() and opening.exception() is None and not self._closed:
            slot = opening.result()
            self._inbox.put(_Call(lambda: self.engine.close(slot), Reply()))

    def _drop_waiting(self, slot: int) -> None:
        for step in self._waiting.pop(slot, ()):
            step.done.fail(EngineError("the session went back before its step was run"))

    def _run(self) -> None:
        if self._polite:
            lower_this_thread()  # before the engine starts its helpers, who inherit it
        try:
            while self._collect():
                if self._waiting:
                    self._run_step()
        finally:
            for steps in self._waiting.values():
                for step in steps:
                    step.done.fail(EngineError("this span is being unloaded"))
            self._waiting.clear()
            self.engine.shutdown()

    def _collect(self) -> bool:
        """Take everything that has arrived; wait if there is nothing to do. False at the end."""
        block = not self._waiting
        while True:
            try:
                item = self._inbox.get(block=block)
            except queue.Empty:
                return True
            block = False
            if item is None:
                return False
            if isinstance(item, _Step):
                self._waiting.setdefault(item.rows.slot, deque()).append(item)
            else:
                item.done.give_outcome(item.run)

    def _run_step(self) -> None:
        now = time.perf_counter()
        first = [steps[0] for steps in self._waiting.values()]
        taken = choose_rows(
            [step.rows_wanted for step in first],
            [step.held.asker for step in first],
            decoding=now - self._decoded_at < DECODING_S,
            own=next((step.held.asker for step in first if step.held.own), None),
        )
        chosen = [(step, count) for step, count in zip(first, taken, strict=True) if count]
        for step, _ in chosen:
            step.started_at = step.started_at or now
        try:
            self._compute(chosen)
        except Exception as error:
            if len(chosen) > 1:  # one session's bad rows must not fail the others: each by itself
                for one in chosen:
                    self._compute_alone(one)
            else:
                self._fail(chosen[0][0], error)

    def _compute_alone(self, one: tuple[_Step, int]) -> None:
        try:
            self._compute([one])
        except Exception as error:
            self._fail(one[0], error)

    def _compute(self, chosen: list[tuple[_Step, int]]) -> None:
        began = time.perf_counter()
        for step, _ in chosen:
            if step.goes_back and not step.taken:
                self.engine.rewind(step.held.slot, step.rows.position)
        started = time.perf_counter()
        outputs = self.engine.step([step.slice(count) for step, count in chosen])
        if all(count == 1 for _, count in chosen):
            busy_s = time.perf_counter() - started
            self.work = DecodeWork(self.work.tokens + len(chosen), self.work.busy_s + busy_s)
        row_s = (time.perf_counter() - began) / sum(count for _, count in chosen)
        for (step, count), hidden in zip(chosen, outputs, strict=True):
            step.taken += count
            step.busy_s += count * row_s
            step.outputs.append(hidden)
            if not step.rows_left:
                if len(step.rows.hidden) == 1:
                    self._decoded_at = time.perf_counter()
                self._end(step)
                step.finish()
            elif step.taken % TURN_ROWS < count:
                self._waiting[step.rows.slot] = self._waiting.pop(step.rows.slot)

    def _fail(self, step: _Step, error: Exception) -> None:
        """The session hears of it and the thread goes on; what is no `EngineError` is a fault of ours."""
        if not isinstance(error, EngineError):
            log.error("engine step failed slot=%d", step.rows.slot, exc_info=error)
            error = EngineFault(f"the engine failed: {error}")
        self._end(step)
        step.done.fail(error)

    def _end(self, step: _Step) -> None:
        """The first step of its slot waits no more; the slot's next turn comes behind those of the others."""
        steps = self._waiting.pop(step.rows.slot)
        steps.popleft()
        if steps:
            self._waiting[step.rows.slot] = steps
