"""Left-over memory over time: a short spike changes nothing, a lasting need of others does, and growing is slow."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm.config import Config, ContributionConfig
from peerllm.engine.budget import RUNTIME_BYTES
from peerllm.guest_config import GuestConfig
from peerllm.model.spec import ModelSpec, WeightFormat
from peerllm.serving.memory_room import (
    GROW_AFTER_S,
    SAMPLE_S,
    WINDOW_S,
    Change,
    MemoryRoom,
    advise,
    blocks_that_fit,
    changed,
    observe,
    room_bytes,
)
from peerllm.serving.offer import Offer, lent_bytes
from peerllm.serving.readings import Readings

MIB = 1 << 20
GIB = 1 << 30
RESERVE = GIB
RUNTIME = RUNTIME_BYTES["llama"]

SPEC = ModelSpec(
    name="one-gib",
    architecture="llama",
    format=WeightFormat.GGUF,
    digest="b179",
    blocks=32,
    hidden=2048,
    heads=16,
    kv_heads=4,
    head_dim=128,
    vocab=32000,
    context_tokens=2048,
    block_bytes=(30 * MIB,) * 32,
    ends_bytes=100 * MIB,
    quantisation="q4_0",
)
OFFER = Offer(
    spec=SPEC,
    engine="llama",
    dtype="q4_0",
    device="cpu",
    memory_bytes=4 * GIB,
    capacity_blocks=32,
    slots=4,
    context_tokens=512,
    threads=1,
    polite=False,
    pinned=None,
)


def readings(spare_bytes: int, own_bytes: int = 0) -> Readings:
    return Readings(at=0.0, memory_free_bytes=spare_bytes - own_bytes, own_memory_bytes=own_bytes)


def watched(
    *stretches: tuple[float, int], room: MemoryRoom | None = None, now: float = 0.0
) -> tuple[MemoryRoom, float]:
    """What is known after so many seconds with so many bytes to spare, and the time it is then."""
    room = room or MemoryRoom()
    for seconds, spare_bytes in stretches:
        for _ in range(int(seconds / SAMPLE_S)):
            now += SAMPLE_S
            room = observe(room, readings(spare_bytes), now)
    return room, now


def left(room: MemoryRoom, cap_bytes: int = 64 * GIB) -> int | None:
    return room_bytes(room, cap_bytes=cap_bytes, reserve_bytes=RESERVE, runtime_bytes=RUNTIME)


def told(room: MemoryRoom, served: int, now: float) -> tuple[Change, int]:
    advice = advise(room, OFFER, served, reserve_bytes=RESERVE, now=now)[1]
    return advice.change, advice.blocks


def test_left_over_is_the_least_of_cap_and_of_what_is_to_spare_besides_the_reserve() -> None:
    room, _ = watched((WINDOW_S, 5 * GIB))
    assert left(room) == 4 * GIB - RUNTIME
    assert left(room, cap_bytes=GIB) == GIB
    assert left(watched((WINDOW_S, GIB // 2))[0]) == 0


def test_unknown_memory_says_nothing() -> None:
    room = observe(MemoryRoom(), Readings(at=0.0, memory_free_bytes=GIB), 1.0)
    assert left(room) is None
    assert told(room, 7, 1.0) == (Change.STAY, 7)


def test_what_peerllm_itself_holds_is_to_spare() -> None:
    room = observe(MemoryRoom(), readings(8 * GIB, own_bytes=3 * GIB), 1.0)
    assert left(room) == 7 * GIB - RUNTIME


def test_a_short_spike_of_others_changes_nothing() -> None:
    room, now = watched((WINDOW_S, 6 * GIB), (60.0, 2 * GIB))
    assert left(room) == 5 * GIB - RUNTIME
    assert told(room, 32, now)[0] is Change.STAY


def test_a_lasting_need_of_others_shrinks_the_span_to_what_fits_with_a_margin() -> None:
    room, now = watched((WINDOW_S, 6 * GIB), (150.0, int(1.7 * GIB)))
    change, blocks = told(room, 32, now)
    assert change is Change.SHRINK
    assert 0 < blocks < blocks_that_fit(OFFER, left(room) or 0) < 32
    assert told(room, blocks, now) == (Change.STAY, blocks)


def test_where_nothing_fits_any_more_all_is_given_back() -> None:
    room, now = watched((WINDOW_S, GIB))
    assert told(room, 8, now) == (Change.SHRINK, 0)


def test_a_spike_between_two_samples_is_seen() -> None:
    room = MemoryRoom()
    for now, spare_bytes in ((0.0, 6 * GIB), (3.0, GIB), (6.0, 6 * GIB)):
        room = observe(room, readings(spare_bytes), now)
    assert room.samples == ((0.0, GIB),)


def test_growing_waits_until_there_has_long_been_room() -> None:
    room, now = watched((WINDOW_S, 6 * GIB))
    room = changed(room, now)
    room, advice = advise(room, OFFER, 8, reserve_bytes=RESERVE, now=now)
    assert advice.change is Change.STAY
    room, later = watched((GROW_AFTER_S, 6 * GIB), room=room, now=now)
    assert told(room, 8, later - 1) == (Change.STAY, 8)
    assert told(room, 8, later) == (Change.GROW, 32)
    assert told(changed(room, later), 32, later) == (Change.STAY, 32)


def test_room_for_a_block_or_two_is_not_worth_loading_anew() -> None:
    room, now = watched((WINDOW_S, 6 * GIB))
    room, _ = advise(room, OFFER, 28, reserve_bytes=RESERVE, now=now)
    assert told(room, 28, now + GROW_AFTER_S) == (Change.STAY, 28)


def test_never_more_than_the_owner_lends() -> None:
    room, now = watched((WINDOW_S, 6 * GIB))
    offer = replace(OFFER, capacity_blocks=10)
    room, _ = advise(room, offer, 4, reserve_bytes=RESERVE, now=now)
    assert advise(room, offer, 4, reserve_bytes=RESERVE, now=now + GROW_AFTER_S)[1].blocks == 10


def test_what_is_long_past_does_not_count() -> None:
    room, now = watched((WINDOW_S, GIB), (WINDOW_S, 6 * GIB))
    assert left(room) == 5 * GIB - RUNTIME
    assert len(room.samples) <= WINDOW_S / SAMPLE_S
    assert left(observe(room, readings(3 * GIB), now - 86400)) == 2 * GIB - RUNTIME


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8 * GIB), min_size=1, max_size=60))
def test_the_span_always_fits_into_what_is_left_after_the_advice(spares: list[int]) -> None:
    room, served, now = MemoryRoom(), 32, 0.0
    for spare_bytes in spares:
        now += 120.0
        room = observe(room, readings(spare_bytes), now)
        room, advice = advise(room, OFFER, served, reserve_bytes=RESERVE, now=now)
        if advice.blocks != served:
            assert (advice.change is Change.GROW) == (advice.blocks > served)
            room, served = changed(room, now), advice.blocks
        assert served <= blocks_that_fit(OFFER, left(room, OFFER.memory_bytes) or 0)


def test_gpu_memory_has_a_limit_of_its_own() -> None:
    config = Config(contribution=ContributionConfig(memory_bytes=6 * GIB), guest=GuestConfig(gpu_memory_bytes=3 * GIB))
    assert lent_bytes(config, "cpu") == 6 * GIB
    assert lent_bytes(config, "cuda:0") == 3 * GIB
    assert lent_bytes(replace(config, guest=GuestConfig()), "cuda:0") == 6 * GIB
