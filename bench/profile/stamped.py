"""Streams, engines and ends that note when something passes them: real ones, with a clock in front.

The clock is that of the machine, so what processes of one machine note can be put in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from peerllm.engine.span_engine import Ends, Hidden, Rows, SpanEngine
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Message, Step
from peerllm.wire.transport import StreamHandler, Transport
from peerllm_swarm.span import PeerId

Stamps = dict[str, list[int]]
"""What passed -> when, in nanoseconds; only steps of one row count, one after the other."""


class Clock:
    """The stamps of one process."""

    def __init__(self) -> None:
        self.stamps: Stamps = {}

    def note(self, what: str) -> None:
        self.stamps.setdefault(what, []).append(perf_counter_ns())


class _InFrontOf:
    """Everything that is not stamped goes to the real one."""

    def __init__(self, real: Any, clock: Clock) -> None:
        self._real = real
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class StampedStream(_InFrontOf):
    """A `LiveStream`."""

    async def send(self, message: Message) -> None:
        if not _is_decode(message):
            await self._real.send(message)
            return
        self._clock.note("sending")
        await self._real.send(message)
        self._clock.note("sent")

    async def receive(self) -> Message:
        message: Message = await self._real.receive()
        if _is_decode(message):
            self._clock.note("received")
        return message


class StampedTransport(_InFrontOf):
    """A `Transport` with such streams."""

    async def open_stream(
        self, peer_id: PeerId, addresses: Sequence[str], protocol: str, timeout_s: float
    ) -> StampedStream:
        stream = await self._real.open_stream(peer_id, addresses, protocol, timeout_s)
        return StampedStream(stream, self._clock)

    async def serve(self, protocol: str, handler: StreamHandler) -> None:
        async def stamped(stream: LiveStream) -> None:
            await handler(StampedStream(stream, self._clock))  # type: ignore[arg-type]

        await self._real.serve(protocol, stamped)


class StampedEngine(_InFrontOf):
    """A `SpanEngine`."""

    def step(self, batch: Sequence[Rows]) -> list[Hidden]:
        if len(batch[0].hidden) > 1:
            return self._real.step(batch)
        self._clock.note("computing")
        outputs = self._real.step(batch)
        self._clock.note("computed")
        return outputs


class StampedEnds(_InFrontOf):
    """`Ends` of a model."""

    def logits(self, hidden: Hidden) -> np.ndarray:
        self._clock.note("head")
        logits = self._real.logits(hidden)
        self._clock.note("headed")
        return logits


def stamped_transport(real: Transport, clock: Clock) -> Transport:
    stamped: Any = StampedTransport(real, clock)
    return stamped


def stamped_engine(real: SpanEngine, clock: Clock) -> SpanEngine:
    stamped: Any = StampedEngine(real, clock)
    return stamped


def stamped_ends(real: Ends, clock: Clock) -> Ends:
    stamped: Any = StampedEnds(real, clock)
    return stamped


def _is_decode(message: Message) -> bool:
    return isinstance(message, Step) and len(message.hidden) == 1
