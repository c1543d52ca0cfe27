"""A span in memory and everything that runs on it: its thread, its sessions, what it measures of itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from peerllm.engine.budget import history_bytes
from peerllm.engine.courtesy import on_thread
from peerllm.engine.load import fetch_span, load_span
from peerllm.engine.scheduler import DecodeWork, StepScheduler
from peerllm.engine.self_test import load_tested
from peerllm.engine.span_engine import EngineInfo, SpanEngine
from peerllm.engine.thread_cap import ThreadCap
from peerllm.engine.throughput import Throughput, measure
from peerllm.giving.books import Books
from peerllm.model.progress import Progress
from peerllm.model.store import StoredModel
from peerllm.serving.group_lead import Group
from peerllm.serving.handler import SpanHandler
from peerllm.serving.offer import Offer
from peerllm.wire.transport import Transport
from peerllm_swarm.handover import Outage
from peerllm_swarm.span import BlockSpan

DOWNLOAD_BYTES_PER_S = 12.5e6
"""What a block that is not on disk is expected to take: 100 Mbit/s, Petals' guess of a line it could not measure."""

LoadEngine = Callable[[StoredModel, Offer, BlockSpan, Progress], tuple[SpanEngine, float]]
"""Called on a thread: the engine with the span in it, and how many seconds loading took once all was on this disk."""

log = logging.getLogger(__name__)


class LoadedSpan:
    """Made by `load`, warmed once, then ready for sessions until `unload`."""

    def __init__(
        self,
        engine: SpanEngine,
        offer: Offer,
        transport: Transport,
        load_s: float,
        books: Books | None,
        group: Group | None = None,
        dissolve: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`group` is whose engine this is, if it is a group's; `dissolve` tells its members once it is unloaded."""
        self.group = group
        self._dissolve = dissolve
        self.info: EngineInfo = engine.info
        self._hidden = offer.spec.hidden
        self._scheduler = StepScheduler(engine, polite=offer.polite)
        self._throughput = Throughput(decode_ms_per_block=0.0, prefill_tps=0.0)
        self._load_s = load_s
        self._block_bytes = offer.spec.span_bytes(engine.info.span) / len(engine.info.span)
        remembered = history_bytes(offer.spec, slots=engine.info.slots, context_tokens=engine.info.context_tokens)
        self.handler = SpanHandler(self._scheduler, offer.fingerprint, transport, history_bytes=remembered, books=books)

    @classmethod
    async def load(
        cls,
        stored: StoredModel,
        offer: Offer,
        span: BlockSpan,
        transport: Transport,
        progress: Progress,
        load_engine: LoadEngine,
        books: Books | None = None,
    ) -> LoadedSpan:
        """Fetch and load the span's tensors on a thread; `progress` is called there.

        Raises:
            NoMemory: the span does not fit into what is lent; nothing was loaded.
            EngineError, ModelError: see `peerllm.engine.load.load_span`.
        """
        offer.require_room(span)
        work = partial(load_engine, stored, offer, span, progress)
        loading = asyncio.ensure_future(on_thread(work, polite=offer.polite))
        try:
            engine, load_s = await asyncio.shield(loading)
            return cls(engine, offer, transport, load_s, books)
        except asyncio.CancelledError:
            loading.add_done_callback(_shut_down)  # a thread cannot be cancelled
            raise

    async def warm(self) -> None:
        """Run the span, which touches all of its memory, and measure how fast it is."""
        engine = self._scheduler.engine
        self._throughput = await self._scheduler.run(lambda: measure(engine, self._hidden))
        log.info("span warm span=%s decode_ms=%.3f", self.info.span, self._throughput.decode_ms_per_block)

    @property
    def block_ms(self) -> float:
        """Decode, per block and token, as measured when it was warmed."""
        return self._throughput.decode_ms_per_block

    @property
    def work(self) -> DecodeWork:
        return self._scheduler.work

    def outage(self) -> Outage:
        """What it takes this machine to load another span, by how long this one took."""
        return Outage(load_s=self._load_s / len(self.info.span), fetch_s=self._block_bytes / DOWNLOAD_BYTES_PER_S)

    def measured(self) -> dict[str, Any]:
        """What this peer's record says of the span's speed and of the room in it now."""
        slots_free = max(0, self.info.slots - self.handler.sessions)
        return {
            "decode_ms": self._throughput.decode_ms_per_block,
            "prefill_tps": self._throughput.prefill_tps,
            "slots_free": slots_free,
            "cache_tokens_left": self.info.context_tokens,
            "queue_ms": self.handler.queue_ms if slots_free else self.handler.release_ms or 0.0,
        }

    async def unload(self) -> None:
        """Free its memory; sessions that still run fail."""
        await self._scheduler.shutdown()
        if self._dissolve is not None:
            await self._dissolve()


def load_engine(
    stored: StoredModel, offer: Offer, span: BlockSpan, progress: Progress, cap: ThreadCap | None = None
) -> tuple[SpanEngine, float]:
    """The engine, tested, and how many seconds loading took once all was on this disk."""
    fetch_span(stored, span, engine=offer.engine, dtype=offer.dtype, progress=progress)
    began = time.monotonic()

    def load() -> SpanEngine:
        return load_span(
            stored,
            span,
            engine=offer.engine,
            dtype=offer.dtype,
            device=offer.device,
            slots=offer.slots,
            context_tokens=offer.context_tokens,
            threads=offer.threads,
            cap=cap,
            progress=progress,
        )

    return load_tested(load, stored, span, progress), time.monotonic() - began


def _shut_down(loading: asyncio.Future[tuple[SpanEngine, float]]) -> None:
    """Free an engine that nobody waits for any more."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result()[0].shutdown()
