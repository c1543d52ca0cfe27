"""Many rows in steps of a size that keeps all hops of a route at work and fits a frame."""

from __future__ import annotations

from collections.abc import Iterator

from peerllm.wire.messages import WireHidden

CHUNK_BYTES = 1 << 20
GRAPH_ROWS = 48
"""What llama.cpp computes at once (docs/adr/0008): a chunk that is no multiple ends in a small graph, which reads all
weights for few rows. Source: docs/performance.md#prefill."""

CHUNK_ROWS = 3 * GRAPH_ROWS
"""At most: a step of more gains nothing, and whoever decodes beside it waits for longer."""

CHUNKS_PER_HOP = 16
"""Of a prompt, if it is long enough. The last hop stands still for the first chunk, the first one for the last: with
so many, h hops lose at most 1/16 of the time that they take one after the other."""


def chunk_rows(count: int, row_bytes: int, hops: int) -> int:
    """Rows of each step in which `count` rows of so many bytes should pass so many hops.

    >>> chunk_rows(2000, 2304, hops=3), chunk_rows(2000, 2304, hops=1), chunk_rows(9000, 8192, hops=3)
    (48, 144, 96)
    """
    fitting = min(CHUNK_ROWS, CHUNK_BYTES // row_bytes)
    graphs = max(1, count // (CHUNKS_PER_HOP * hops * GRAPH_ROWS)) if hops > 1 else CHUNK_ROWS // GRAPH_ROWS
    return max(1, min(fitting // GRAPH_ROWS, graphs) * GRAPH_ROWS or fitting)


def per_full_chunk(chunk: WireHidden) -> int:
    """How many chunks such as this one are as much as the largest there is."""
    return max(1, min(CHUNK_ROWS // len(chunk), CHUNK_BYTES // chunk.nbytes))


def chunks_of(rows: WireHidden, hops: int = 1) -> Iterator[tuple[int, WireHidden]]:
    """The rows ``[T, D]`` cut for so many hops, each piece with the number of its first row."""
    if not len(rows):
        return
    size = chunk_rows(len(rows), rows[0].nbytes, hops)
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]
