"""How a block is cut among the members of a tensor-parallel group: whole heads, and columns on the quantum.

A member holds a range of KV heads with the query heads that read them, and a range of feed-forward columns. Both
halves of a block end in an exchange that waits for the slowest member, so each is split for the least time of the
slowest by itself: what a member is behind in heads it cannot make good in columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peerllm_swarm.errors import BadInstance, CannotSlice, NoPlacement
from peerllm_swarm.planning.quantities import positive
from peerllm_swarm.planning.splits import max_min_split

MOST_MEMBERS = 8
"""More members than this send more than they save on any LAN (docs/groups.md), and fit into no record."""


@dataclass(frozen=True)
class BlockShape:
    """The sizes of a block that say where it can be cut.

    `quantum` values share one scale in the file (32, 256 for K-quants, 1 for plain floats), so the columns of the
    feed-forward's last matrix are cut on multiples of it; `query_quantum` is the same of the attention's last matrix
    where its type is another one.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    quantum: int = 32
    query_quantum: int | None = None

    def __post_init__(self) -> None:
        for what in ("hidden", "heads", "kv_heads", "head_dim", "feed_forward", "quantum"):
            positive(what, getattr(self, what))
        if self.query_quantum is not None:
            positive("query_quantum", self.query_quantum)
        if self.heads % self.kv_heads:
            raise BadInstance(f"{self.heads} query heads do not share {self.kv_heads} KV heads evenly")

    @property
    def queries_per_kv_head(self) -> int:
        return self.heads // self.kv_heads

    @property
    def query_width(self) -> int:
        """Columns of the attention's last matrix that belong to one KV head."""
        return self.queries_per_kv_head * self.head_dim

    @property
    def kv_heads_together(self) -> int:
        """How many KV heads stay together so that their columns end on the quantum."""
        quantum = self.query_quantum or self.quantum
        return quantum // math.gcd(quantum, self.query_width)

    @property
    def head_pieces(self) -> int:
        return max(1, self.kv_heads // self.kv_heads_together)

    @property
    def column_pieces(self) -> int:
        return max(1, self.feed_forward // self.quantum)

    @property
    def most_members(self) -> int:
        """How many members can each hold a KV head and a quantum of columns."""
        return min(MOST_MEMBERS, self.head_pieces, self.column_pieces)

    @property
    def attention_share(self) -> float:
        """The part of the block's weights that the heads are; the feed-forward's three matrices are the rest."""
        attention = 2 * self.head_dim * (self.heads + self.kv_heads)
        return attention / (attention + 3 * self.feed_forward)


@dataclass(frozen=True)
class BlockSlice:
    """What one member holds of every block of the span: KV heads `[start, end)` and columns `[start, end)`."""

    kv_heads: tuple[int, int]
    columns: tuple[int, int]

    def __post_init__(self) -> None:
        for what, (start, end) in (("KV heads", self.kv_heads), ("columns", self.columns)):
            if not 0 <= start < end:
                raise BadInstance(f"the {what} {start}:{end} of a slice are none")

    def query_heads(self, shape: BlockShape) -> tuple[int, int]:
        start, end = self.kv_heads
        return start * shape.queries_per_kv_head, end * shape.queries_per_kv_head

    def share(self, shape: BlockShape) -> float:
        """The part of the block's weights in this slice, of 1."""
        heads = (self.kv_heads[1] - self.kv_heads[0]) / shape.kv_heads
        columns = (self.columns[1] - self.columns[0]) / shape.feed_forward
        return shape.attention_share * heads + (1 - shape.attention_share) * columns


def slices_for(
    shape: BlockShape,
    weights: Sequence[float],
    *,
    ceilings: Sequence[float] | None = None,
    heads_part: float | None = None,
) -> tuple[BlockSlice, ...]:
    """One slice per member, in order, that together are the block: uneven by `weights`, which are speeds.

    Args:
        ceilings: the part of a block that each member has memory for; none: all of it.
        heads_part: which part of a block's memory its heads are, with their keys and values; none: of its weights.
    Raises:
        CannotSlice: fewer pieces than members, or too little memory; says the arithmetic.
    """
    most = [1.0] * len(weights) if ceilings is None else list(ceilings)
    _check(shape, weights, most)
    part = shape.attention_share if heads_part is None else heads_part
    heads = _split(weights, _head_caps(shape, most, part), shape.head_pieces, "KV heads", part)
    columns = _split(weights, _column_caps(shape, most, heads, part), shape.column_pieces, "columns", part)
    kv_heads = _ranges(heads, shape.kv_heads_together, shape.kv_heads)
    return tuple(map(BlockSlice, kv_heads, _ranges(columns, shape.quantum, shape.feed_forward)))


def check_slices(shape: BlockShape, slices: Sequence[BlockSlice]) -> None:
    """Refuse slices from a stranger that are not the whole block, in order, cut where it can be cut.

    Raises:
        CannotSlice: they overlap, leave something out, or cut through a head's columns or a quantum.
    """
    _check_side([part.kv_heads for part in slices], shape.kv_heads_together, shape.kv_heads, "KV heads")
    _check_side([part.columns for part in slices], shape.quantum, shape.feed_forward, "columns")


def _check(shape: BlockShape, weights: Sequence[float], ceilings: Sequence[float]) -> None:
    members = len(weights)
    if members < 1 or len(ceilings) != members:
        raise BadInstance(f"{len(ceilings)} ceilings do not belong to {members} members")
    for weight in weights:
        positive("a weight", weight)
    if shape.head_pieces < members:
        raise CannotSlice(_too_few_heads(shape, members))
    if shape.column_pieces < members:
        quanta = f"{shape.feed_forward} columns are {shape.column_pieces} times the quantum of {shape.quantum}"
        raise CannotSlice(f"{quanta}, fewer than {members} members")


def _too_few_heads(shape: BlockShape, members: int) -> str:
    if shape.kv_heads_together == 1:
        return f"{shape.kv_heads} KV heads cannot be shared by {members} members with at least one each"
    quantum = shape.query_quantum or shape.quantum
    return (
        f"the {shape.query_width} columns of a KV head meet the quantum of {quantum} every {shape.kv_heads_together} "
        f"heads: {shape.kv_heads} KV heads are {shape.head_pieces} pieces, fewer than {members} members"
    )


def _head_caps(shape: BlockShape, ceilings: Sequence[float], heads_part: float) -> list[int]:
    """As many as leave room for a quantum of columns; at least one, or what is refused is the columns."""
    quantum = (1 - heads_part) / shape.column_pieces
    each = heads_part / shape.head_pieces
    return [max(1, min(shape.head_pieces, math.floor((most - quantum) / each + 1e-9))) for most in ceilings]


def _column_caps(shape: BlockShape, ceilings: Sequence[float], heads: Sequence[int], heads_part: float) -> list[int]:
    each = (1 - heads_part) / shape.column_pieces
    used = [heads_part * count / shape.head_pieces for count in heads]
    return [
        min(shape.column_pieces, math.floor((most - part) / each + 1e-9))
        for most, part in zip(ceilings, used, strict=True)
    ]


def _split(weights: Sequence[float], caps: Sequence[int], pieces: int, what: str, heads_part: float) -> list[int]:
    if min(caps) < 1 or sum(caps) < pieces:
        room = " + ".join(str(max(0, cap)) for cap in caps)
        raise CannotSlice(
            f"the members' memory holds {room} of {pieces} pieces of {what}; the heads are {heads_part:.0%} of a block"
        )
    try:
        return max_min_split(weights, caps, pieces, least=1)
    except NoPlacement as problem:
        raise CannotSlice(str(problem)) from problem


def _ranges(counts: Sequence[int], piece: int, total: int) -> list[tuple[int, int]]:
    """Neighbouring ranges of so many pieces; what is left over beyond the last whole piece is the last one's."""
    ranges: list[tuple[int, int]] = []
    start = 0
    for count in counts:
        end = start + count * piece
        ranges.append((start, end))
        start = end
    ranges[-1] = (ranges[-1][0], total)
    return ranges


def _check_side(ranges: Sequence[tuple[int, int]], piece: int, total: int, what: str) -> None:
    reached = 0
    for start, end in ranges:
        if start != reached or start % piece:
            raise CannotSlice(f"the {what} {start}:{end} do not follow on {reached} on a multiple of {piece}")
        reached = end
    if reached != total:
        raise CannotSlice(f"the slices hold {reached} of {total} {what}")
