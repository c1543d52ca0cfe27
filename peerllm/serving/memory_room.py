"""How much memory is left over for a span, followed over time, and how many blocks that is. Pure.

Left over is what LLaMPS means by it: the least of the owner's cap and of what the machine had to spare, besides the
reserve, in all but the worst tenth of the last minutes. What a short spike takes is the reserve's business.

Whoever serves calls `observe` with every reading, serving or not, and before choosing a span takes `room_bytes` as the
budget for `blocks_that_fit`. While a span is served, `advise` says every few seconds whether it still fits: `SHRINK` is
a reason to choose again with that capacity (0 blocks: to give the memory back), `GROW` one only if the swarm gains by
it. After any change of span `changed` is to be called, so that the next growth waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from peerllm.engine.budget import RUNTIME_BYTES, largest_span
from peerllm.serving.offer import Offer
from peerllm.serving.readings import Readings

WINDOW_S = 900.0
"""What a machine did in the last quarter of an hour it may do again in the next; loading a span takes a minute."""

SAMPLE_S = 10.0
"""One sample, the lowest reading, for each such stretch."""

QUANTILE = 0.1
"""Of the samples that may be lower than what counts as left over."""

MARGIN = 0.1
"""Of the room that a new span leaves unused, so that the next reading does not take it away again."""

GROW_AFTER_S = 600.0
"""So long there has to be room for more, and the span to have stayed as it is: growing means loading anew."""


class Change(StrEnum):
    STAY = "stay"
    SHRINK = "shrink"
    GROW = "grow"


@dataclass(frozen=True)
class Advice:
    """What to do with a span, and the number of blocks to do it with."""

    change: Change
    blocks: int


@dataclass(frozen=True)
class MemoryRoom:
    """What was read lately: `samples` are (begin of the stretch, bytes to spare); begin with `MemoryRoom()`."""

    samples: tuple[tuple[float, int], ...] = ()
    roomy_since: float | None = None
    """Since when the present span could be larger."""
    changed_at: float = 0.0
    """When the span was last another."""


def observe(room: MemoryRoom, readings: Readings, now: float) -> MemoryRoom:
    """The room after these readings; unknown ones leave it as it is."""
    if readings.memory_free_bytes is None or readings.own_memory_bytes is None:
        return room
    spare_bytes = readings.memory_free_bytes + readings.own_memory_bytes
    # samples that are yet to come are of a clock that was set back
    kept = tuple((at, low) for at, low in room.samples if now - WINDOW_S < at <= now)
    if kept and now - kept[-1][0] < SAMPLE_S:
        at, low = kept[-1]
        return replace(room, samples=(*kept[:-1], (at, min(low, spare_bytes))))
    return replace(room, samples=(*kept, (now, spare_bytes)))


def room_bytes(room: MemoryRoom, *, cap_bytes: int, reserve_bytes: int, runtime_bytes: int) -> int | None:
    """What a span may take with its cache and scratch; None before anything was read.

    `runtime_bytes` is what the process itself takes with the engine's libraries (`budget.RUNTIME_BYTES`).
    """
    if not room.samples:
        return None
    lows = sorted(low for _, low in room.samples)
    spare_bytes = lows[int(QUANTILE * len(lows))]
    return max(0, min(cap_bytes, spare_bytes - reserve_bytes - runtime_bytes))


def blocks_that_fit(offer: Offer, budget_bytes: int) -> int:
    """The most blocks of the offer's model, any run of them, that fit; never more than the owner lends."""
    fitting = largest_span(
        offer.spec,
        budget_bytes,
        engine=offer.engine,
        dtype=offer.dtype,
        slots=offer.slots,
        context_tokens=offer.context_tokens,
    )
    return min(fitting, offer.capacity_blocks)


def advise(
    room: MemoryRoom, offer: Offer, served_blocks: int, *, reserve_bytes: int, now: float
) -> tuple[MemoryRoom, Advice]:
    """The next room, and what to do with a span of so many blocks.

    `offer` is the one of the owner's cap, not one that was cut down to the room: else nothing would ever grow.
    """
    runtime_bytes = RUNTIME_BYTES[offer.engine]
    left_bytes = room_bytes(
        room, cap_bytes=offer.memory_bytes, reserve_bytes=reserve_bytes, runtime_bytes=runtime_bytes
    )
    if left_bytes is None:
        return room, Advice(Change.STAY, served_blocks)
    comfortable = blocks_that_fit(offer, int(left_bytes * (1 - MARGIN)))
    if blocks_that_fit(offer, left_bytes) < served_blocks:
        return replace(room, roomy_since=None), Advice(Change.SHRINK, comfortable)
    if comfortable < served_blocks + max(1, served_blocks // 4):
        return replace(room, roomy_since=None), Advice(Change.STAY, served_blocks)
    since = now if room.roomy_since is None else min(room.roomy_since, now)
    if now - max(since, room.changed_at) < GROW_AFTER_S:
        return replace(room, roomy_since=since), Advice(Change.STAY, served_blocks)
    return replace(room, roomy_since=since), Advice(Change.GROW, comfortable)


def changed(room: MemoryRoom, now: float) -> MemoryRoom:
    """After the span became another."""
    return replace(room, roomy_since=None, changed_at=now)
