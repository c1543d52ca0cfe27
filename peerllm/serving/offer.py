"""What the owner lends, worked out into numbers: engine, capacity in blocks, fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from peerllm.config import Config
from peerllm.engine.budget import largest_span, require_memory
from peerllm.engine.load import choose_device, choose_engine
from peerllm.engine.span_engine import fingerprint
from peerllm.errors import NoMemory
from peerllm.model.spec import ModelSpec
from peerllm.model.store import StoredModel
from peerllm_swarm.span import BlockSpan

LeftOver = Callable[[str, str], int | None]
"""The most bytes that an engine may take on a device now, whatever was lent; None if nothing is known of it."""


def unlimited(engine: str, device: str) -> int | None:
    return None


@dataclass(frozen=True)
class Offer:
    """How this machine would serve one model, before it knows which span."""

    spec: ModelSpec
    engine: str
    dtype: str
    device: str
    memory_bytes: int
    capacity_blocks: int
    slots: int
    context_tokens: int
    threads: int
    polite: bool  # in the lowest class of processor and disk
    pinned: BlockSpan | None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.spec, self.engine, self.dtype)

    def require_room(self, span: BlockSpan) -> None:
        """Raises `NoMemory` with the numbers unless the span fits into what is lent."""
        require_memory(
            self.spec,
            span,
            self.memory_bytes,
            engine=self.engine,
            dtype=self.dtype,
            slots=self.slots,
            context_tokens=self.context_tokens,
        )


@dataclass(frozen=True)
class Prepared:
    """What this machine is to serve now, and the fingerprints of all that it may serve."""

    stored: StoredModel
    offer: Offer
    lends: tuple[str, ...]


def work_out_offer(spec: ModelSpec, config: Config, *, threads: int, left_over: LeftOver = unlimited) -> Offer:
    """Raises `EngineUnavailable`, `UnsupportedModel`, or `NoMemory` when not one block fits."""
    lent, engine = config.contribution, config.engine
    dtype = None if engine.dtype == "auto" else engine.dtype
    chosen, chosen_dtype = choose_engine(spec, engine.kind, dtype=dtype, device=engine.device)
    if chosen == "llama" and engine.repack == spec.repacked_dtype:
        chosen_dtype = engine.repack
    device = "cpu" if chosen == "llama" else choose_device(engine.device)
    memory_bytes = lent_bytes(config, device)
    left = left_over(chosen, device)
    memory_bytes = memory_bytes if left is None else min(memory_bytes, left)
    context_tokens = min(lent.context_tokens, spec.context_tokens)
    capacity = largest_span(
        spec, memory_bytes, engine=chosen, dtype=chosen_dtype, slots=lent.slots, context_tokens=context_tokens
    )
    if lent.max_blocks:
        capacity = min(capacity, lent.max_blocks)
    offer = Offer(
        spec=spec,
        engine=chosen,
        dtype=chosen_dtype,
        device=device,
        memory_bytes=memory_bytes,
        capacity_blocks=capacity,
        slots=lent.slots,
        context_tokens=context_tokens,
        threads=threads,
        polite=engine.priority == "lowest",
        pinned=BlockSpan.parse(lent.span) if lent.span else None,
    )
    if not capacity:
        offer.require_room(BlockSpan(0, 1))
        raise NoMemory(f"not one block of {spec.name} fits into what is lent; raise contribution.memory_bytes")
    return offer


def lent_bytes(config: Config, device: str) -> int:
    """The owner's cap for what is served from that device."""
    memory_bytes = config.contribution.memory_bytes or psutil.virtual_memory().available // 2
    gpu_bytes = config.guest.gpu_memory_bytes
    return min(memory_bytes, gpu_bytes) if gpu_bytes and device != "cpu" else memory_bytes
