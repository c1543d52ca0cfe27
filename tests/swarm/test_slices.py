"""A block shared by the members of a group: whole, cut where it can be cut, as even in time as whole heads allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm_swarm.errors import BadInstance, CannotSlice
from peerllm_swarm.slices import BlockShape, BlockSlice, check_slices, slices_for

SMOLLM2 = BlockShape(hidden=576, heads=9, kv_heads=3, head_dim=64, feed_forward=1536)
TINYLLAMA = BlockShape(hidden=2048, heads=32, kv_heads=4, head_dim=64, feed_forward=5632, quantum=256)

shapes = st.builds(
    lambda kv_heads, queries, head_dim, columns, quantum: BlockShape(
        kv_heads * queries * head_dim, kv_heads * queries, kv_heads, head_dim, columns * quantum, quantum
    ),
    st.integers(1, 12),
    st.integers(1, 8),
    st.sampled_from([16, 32, 64, 80, 128]),
    st.integers(1, 60),
    st.sampled_from([1, 32, 256]),
)
speeds = st.lists(st.floats(0.05, 50), min_size=1, max_size=8)


def heads_of(slices: Sequence[BlockSlice]) -> list[int]:
    return [part.kv_heads[1] - part.kv_heads[0] for part in slices]


def columns_of(slices: Sequence[BlockSlice]) -> list[int]:
    return [part.columns[1] - part.columns[0] for part in slices]


def shared(pieces: int, members: int) -> Iterator[tuple[int, ...]]:
    """All ways to hand out so many pieces with at least one each."""
    if members == 1:
        yield (pieces,)
        return
    for first in range(1, pieces - members + 2):
        for others in shared(pieces - first, members - 1):
            yield first, *others


def test_smollm2_on_two_machines_is_six_heads_and_three():
    """Nine heads are no multiple of two: distributed-llama refuses them."""
    slices = slices_for(SMOLLM2, [1, 1])
    assert [part.query_heads(SMOLLM2) for part in slices] == [(0, 6), (6, 9)]
    assert columns_of(slices) == [768, 768]


def test_smollm2_on_three_machines_is_three_heads_each():
    slices = slices_for(SMOLLM2, [1, 1, 1])
    assert [part.query_heads(SMOLLM2) for part in slices] == [(0, 3), (3, 6), (6, 9)]
    assert columns_of(slices) == [512, 512, 512]


@pytest.mark.parametrize(
    ("shape", "members", "words"),
    [
        (SMOLLM2, 4, "3 KV heads cannot be shared by 4 members"),
        (BlockShape(576, 9, 3, 64, 1536, quantum=256), 2, "192 columns .* quantum of 256 every 4 heads: .* 1 pieces"),
        (BlockShape(576, 9, 9, 64, 64), 3, "64 columns are 2 times the quantum of 32, fewer than 3"),
    ],
)
def test_refusal_shows_the_arithmetic(shape: BlockShape, members: int, words: str):
    with pytest.raises(CannotSlice, match=words):
        slices_for(shape, [1] * members)


def test_quantum_of_the_attention_may_be_another():
    """Rows of 576 are no multiple of 256: such tensors of a K-quant file are stored in a type of 32."""
    shape = BlockShape(576, 9, 3, 64, 1536, quantum=256, query_quantum=32)
    slices = slices_for(shape, [1, 1])
    assert heads_of(slices) == [2, 1]
    assert columns_of(slices) == [768, 768]


def test_twice_as_fast_is_twice_the_columns():
    assert columns_of(slices_for(SMOLLM2, [2, 1])) == [1024, 512]
    assert heads_of(slices_for(TINYLLAMA, [3, 1])) == [3, 1]


def test_memory_bounds_what_the_fast_one_holds():
    slices = slices_for(SMOLLM2, [10, 1], ceilings=[0.5, 1])
    assert slices[0].share(SMOLLM2) <= 0.5
    assert slices[1].share(SMOLLM2) >= 0.5
    with pytest.raises(CannotSlice, match="memory holds"):
        slices_for(SMOLLM2, [1, 1], ceilings=[0.4, 0.4])


@settings(deadline=None)
@given(shapes, speeds)
def test_slices_are_the_block(shape: BlockShape, weights: list[float]):
    if len(weights) > shape.most_members:
        with pytest.raises(CannotSlice):
            slices_for(shape, weights)
        return
    slices = slices_for(shape, weights)
    check_slices(shape, slices)
    quantum = shape.quantum
    for part in slices[:-1]:
        assert part.columns[1] % quantum == 0
        assert part.kv_heads[1] * shape.query_width % quantum == 0
    assert sum(part.share(shape) for part in slices) == pytest.approx(1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.lists(st.floats(0.1, 10), min_size=2, max_size=4), st.integers(4, 9))
def test_no_other_split_is_sooner_done(kv_heads: int, weights: list[float], columns: int):
    """Against all ways to hand out the pieces: the slowest member's time is the least there is."""
    if len(weights) > kv_heads:
        return
    shape = BlockShape(64, kv_heads, kv_heads, 32, columns * 32)
    slices = slices_for(shape, weights)

    def slowest(counts: Sequence[float]) -> float:
        return max(count / weight for count, weight in zip(counts, weights, strict=True))

    assert slowest(heads_of(slices)) == pytest.approx(min(map(slowest, shared(kv_heads, len(weights)))))
    quanta = [count / 32 for count in columns_of(slices)]
    assert slowest(quanta) == pytest.approx(min(map(slowest, shared(columns, len(weights)))))


@settings(deadline=None)
@given(shapes, st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 1)), min_size=1, max_size=4))
def test_nobody_holds_more_than_fits(shape: BlockShape, members: list[tuple[float, float]]):
    weights, ceilings = zip(*members, strict=True)
    try:
        slices = slices_for(shape, weights, ceilings=ceilings)
    except CannotSlice:
        return
    check_slices(shape, slices)
    for part, most in zip(slices, ceilings, strict=True):
        assert part.share(shape) <= most + 1e-9


@pytest.mark.parametrize(
    "slices",
    [
        [BlockSlice((0, 2), (0, 768))],  # the rest is missing
        [BlockSlice((0, 2), (0, 768)), BlockSlice((1, 3), (768, 1536))],  # a head twice
        [BlockSlice((0, 2), (0, 760)), BlockSlice((2, 3), (760, 1536))],  # through a quantum
        [BlockSlice((2, 3), (768, 1536)), BlockSlice((0, 2), (0, 768))],  # not in order
    ],
)
def test_strangers_slices_are_checked(slices: list[BlockSlice]):
    with pytest.raises(CannotSlice):
        check_slices(SMOLLM2, slices)


@pytest.mark.parametrize("numbers", [(0, 9, 3, 64, 1536), (576, 9, 2, 64, 1536), (576, 9, 3, 64, -1)])
def test_impossible_shapes_are_refused(numbers: tuple[int, ...]):
    with pytest.raises(BadInstance):
        BlockShape(*numbers)


def test_empty_slices_are_refused():
    with pytest.raises(BadInstance):
        BlockSlice((1, 1), (0, 32))
