"""What a slice of a span takes of this machine: its room, its files, and the engine that computes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from peerllm.engine.budget import span_memory
from peerllm.engine.courtesy import on_thread
from peerllm.engine.load import choose_engine, load_slice
from peerllm.engine.slice_engine import SliceEngine
from peerllm.engine.thread_cap import ThreadCap
from peerllm.errors import NoMemory, PeerllmError
from peerllm.model.progress import Progress
from peerllm.model.store import StoredModel
from peerllm.serving.offer import Offer
from peerllm.wire.group_messages import Invite
from peerllm_swarm.slices import BlockShape, BlockSlice
from peerllm_swarm.span import BlockSpan


def shape_of(stored: StoredModel, offer: Offer) -> BlockShape | None:
    """Where the model's blocks can be cut; None if this engine serves no slices of it."""
    try:
        choose_engine(stored.spec, offer.engine)
        if offer.engine != "llama" or offer.dtype != stored.spec.quantisation.lower():
            return None
        from peerllm.model.slice_gguf import block_shape

        return block_shape(stored)
    except PeerllmError:
        return None


def group_room(offer: Offer) -> float:
    """Blocks, with a fraction, that fit into what is lent: what this machine brings into a group."""
    one = _span_bytes(offer, BlockSpan(0, 1))
    if offer.spec.blocks == 1:
        return min(1.0, offer.memory_bytes / one)
    each = _span_bytes(offer, BlockSpan(0, 2)) - one
    room = (offer.memory_bytes - (one - each)) / each
    most = offer.capacity_blocks + 1 if offer.capacity_blocks < offer.spec.blocks else offer.spec.blocks
    return max(0.0, min(room, float(most)))


def heads_part(offer: Offer, shape: BlockShape) -> float:
    """Which part of a block's memory its heads are, with the keys and values of all sessions."""
    plan = span_memory(
        offer.spec,
        offer.spec.whole,
        engine=offer.engine,
        dtype=offer.dtype,
        slots=offer.slots,
        context_tokens=offer.context_tokens,
    )
    return (plan.weights_bytes * shape.attention_share + plan.kv_bytes) / (plan.weights_bytes + plan.kv_bytes)


def require_slice_room(
    offer: Offer, shape: BlockShape, span: BlockSpan, part: BlockSlice, *, slots: int, context_tokens: int
) -> None:
    """Raises `NoMemory` with the numbers unless the slice fits into what is lent."""
    needed = _slice_bytes(offer, shape, span, part, slots, context_tokens)
    if needed > offer.memory_bytes:
        raise NoMemory(
            f"{part.share(shape):.0%} of span {span} of {offer.spec.name} needs {needed / 2**30:.2f} GiB for {slots} "
            f"sessions of {context_tokens} tokens, {offer.memory_bytes / 2**30:.2f} GiB are lent"
        )


def fits_beside(offer: Offer, served: BlockSpan, shape: BlockShape, span: BlockSpan, part: BlockSlice) -> bool:
    """Is there room for a slice while a span of this peer's own stays in memory?"""
    slice_bytes = _slice_bytes(offer, shape, span, part, offer.slots, offer.context_tokens)
    return _span_bytes(offer, served) + slice_bytes <= offer.memory_bytes


def fetch_slice(stored: StoredModel, invite: Invite, index: int, progress: Progress) -> None:
    """What `load_member` needs on this disk, so that it then takes no longer than reading it."""
    from peerllm.model.slice_gguf import cut_slice

    cut_slice(stored, invite.span, invite.parts[index], progress)


def load_member(
    stored: StoredModel, offer: Offer, invite: Invite, index: int, cap: ThreadCap | None, progress: Progress
) -> SliceEngine:
    """Member `index`'s slice; it computes once it has joined the group's exchange."""
    return load_slice(
        stored,
        invite.span,
        invite.parts,
        index,
        engine=offer.engine,
        device=offer.device,
        slots=invite.slots,
        context_tokens=invite.context_tokens,
        threads=offer.threads,
        cap=cap,
        progress=progress,
    )


async def loaded_slice(load: Callable[[], SliceEngine], *, polite: bool) -> SliceEngine:
    """What `load` returns, from a thread; freed once it is there if nobody waits for it any more."""
    loading = asyncio.ensure_future(on_thread(load, polite=polite))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        loading.add_done_callback(_shut_down)  # a thread cannot be cancelled
        raise


def _shut_down(loading: asyncio.Future[SliceEngine]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().shutdown()


def _slice_bytes(
    offer: Offer, shape: BlockShape, span: BlockSpan, part: BlockSlice, slots: int, context_tokens: int
) -> int:
    """Weights by their share, keys and values by the heads, and all of the scratch: hidden states are whole."""
    plan = span_memory(
        offer.spec, span, engine=offer.engine, dtype=offer.dtype, slots=slots, context_tokens=context_tokens
    )
    heads = (part.kv_heads[1] - part.kv_heads[0]) / shape.kv_heads
    return round(plan.weights_bytes * part.share(shape) + plan.kv_bytes * heads + plan.scratch_bytes)


def _span_bytes(offer: Offer, span: BlockSpan) -> int:
    return span_memory(
        offer.spec,
        span,
        engine=offer.engine,
        dtype=offer.dtype,
        slots=offer.slots,
        context_tokens=offer.context_tokens,
    ).total_bytes
