"""How a prompt is cut so that all hops of its route work at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerllm.engine import llama_context
from peerllm.wire.chunks import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    CHUNKS_PER_HOP,
    GRAPH_ROWS,
    chunk_rows,
    chunks_of,
    per_full_chunk,
)


def test_a_graph_is_what_the_engine_computes_at_once() -> None:
    assert GRAPH_ROWS == llama_context.GRAPH_ROWS


@pytest.mark.parametrize(
    ("count", "row_bytes", "hops", "rows"),
    [
        (2000, 2304, 3, 48),
        (2000, 2304, 1, 144),
        (200, 2304, 2, 48),
        (9000, 2304, 3, 144),
        (9000, 8192, 3, 96),
        (9000, 32768, 3, 32),
        (9000, 1 << 21, 3, 1),
    ],
)
def test_rows_of_a_chunk(count: int, row_bytes: int, hops: int, rows: int) -> None:
    assert chunk_rows(count, row_bytes, hops) == rows


@given(st.integers(1, 20_000), st.sampled_from([1152, 2304, 8192, 16384]), st.integers(1, 12))
def test_full_graphs_within_a_frame_and_enough_of_them(count: int, row_bytes: int, hops: int) -> None:
    rows = chunk_rows(count, row_bytes, hops)
    assert rows % GRAPH_ROWS == 0
    assert rows <= CHUNK_ROWS
    assert rows * row_bytes <= CHUNK_BYTES
    if hops > 1 and rows > GRAPH_ROWS:
        assert count / rows >= CHUNKS_PER_HOP * hops


def test_chunks_are_the_rows_in_order() -> None:
    rows = np.arange(200, dtype=np.float32).reshape(100, 2)
    pieces = list(chunks_of(rows, hops=2))
    assert [first for first, _ in pieces] == [0, 48, 96]
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces]), rows)
    assert not list(chunks_of(rows[:0]))


def test_small_chunks_count_for_less() -> None:
    assert per_full_chunk(np.zeros((48, 576), np.float32)) == 3
    assert per_full_chunk(np.zeros((48, 2048), np.float32)) == 2
    assert per_full_chunk(np.zeros((144, 576), np.float32)) == 1
    assert per_full_chunk(np.zeros((1, 1 << 19), np.float32)) == 1
