"""What single parts of a token's way take alone, on real rows: the fastest of several series, in microseconds."""

from __future__ import annotations

import asyncio
import time
import timeit
from collections.abc import Callable, Sequence

import numpy as np

from peerllm.engine.llama_context import RowBatch
from peerllm.engine.reply import Reply
from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.span_engine import EngineInfo, Hidden, Rows
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.sampler import Sampler, SamplingParams
from peerllm.serving.history import History, HistoryRoom
from peerllm.wire.codec import FrameDecoder, encode
from peerllm.wire.messages import Step, Want, WireDtype
from peerllm.wire.row_digests import RowDigests
from peerllm.wire.tensor import from_wire, is_sound, to_wire
from peerllm_swarm.span import BlockSpan

SERIES, CALLS, HAND_OVERS = 7, 1000, 2000


def parts_us(width: int, vocabulary: int) -> dict[str, float]:
    """For hidden states ``[1, width]``."""
    noise = np.random.default_rng(0)
    row = noise.standard_normal((1, width)).astype(np.float32)
    logits = noise.standard_normal(vocabulary).astype(np.float32)
    step = Step(7, 100, Want.LAST, row, ((10, 2000), (10, 2000)))
    frame = b"".join(encode(step))
    decoder, digests, batch = FrameDecoder(), RowDigests(), RowBatch(width)
    history = History(HistoryRoom(1 << 30), 1024)
    greedy = Sampler(SamplingParams(temperature=0.0))
    parts: dict[str, Callable[[], object]] = {
        "bytes to a step": lambda: list(decoder.feed(frame)),
        "a step to bytes": lambda: encode(step),
        "from the wire": lambda: from_wire(row),
        "no NaN, nothing absurd": lambda: is_sound(row),
        "to the wire, float32": lambda: to_wire(row, WireDtype.FLOAT32),
        "to the wire, float16": lambda: to_wire(row, WireDtype.FLOAT16),
        "kept for a lost hop": lambda: history.note(0, row),
        "digest of the input": lambda: digests.note(0, row),
        "into the engine's batch": lambda: batch.put(0, row, 0, 100),
        "greedy sampler": lambda: greedy.sample(logits, ()),
    }
    alone = {name: min(timeit.repeat(run, number=CALLS, repeat=SERIES)) / CALLS * 1e6 for name, run in parts.items()}
    return alone | asyncio.run(_hand_overs(row))


async def _hand_overs(row: Hidden) -> dict[str, float]:
    """To another thread and back: medians, as waking up is never as fast as at its fastest."""
    scheduler, ends = StepScheduler(_NoEngine()), EndsThread(_NoEnds())
    slot = await scheduler.open()
    try:
        return {
            "to the engine's thread and back": await _median_us(lambda at: scheduler.step(Rows(slot, at, row, 0, 1))),
            "to the thread of the ends and back": await _median_us(lambda _: ends.embed((1,))),
            "within a thread": await _median_us(_given_here),
        }
    finally:
        await scheduler.shutdown()
        await ends.shutdown()


async def _median_us(call: Callable[[int], object]) -> float:
    times: list[float] = []
    for at in range(HAND_OVERS):
        started = time.perf_counter()
        await call(at)  # type: ignore[misc]
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e6


async def _given_here(_at: int) -> None:
    reply: Reply[None] = Reply()
    reply.give(None)
    await reply


class _NoEngine:
    """Gives every row back as it came."""

    info = EngineInfo("none", "float32", "cpu", BlockSpan(0, 1), 1, 1 << 20, 0, 0, free_entry=False)

    def open(self) -> int:
        return 0

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        return [rows.hidden for rows in batch]

    def rewind(self, slot: int, to: int) -> None:
        pass

    def fork(self, source: int, to: int, into: int) -> None:
        pass

    def close(self, slot: int) -> None:
        pass

    def shutdown(self) -> None:
        pass


class _NoEnds:
    """Has nothing to compute."""

    _row = np.zeros((1, 1), np.float32)

    def embed(self, tokens: Sequence[int]) -> Hidden:
        return self._row

    def normed(self, hidden: Hidden) -> Hidden:
        return hidden

    def logits(self, hidden: Hidden) -> Hidden:
        return hidden

    def shutdown(self) -> None:
        pass
