"""What the members of a tensor-parallel group send for one token, and how fast the group is then.

Every block has two exchanges of partial sums, behind the attention and behind the feed-forward; in each of them
everybody needs everybody's sums. docs/groups.md compares the bytes with Distributed Llama's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from peerllm_swarm.errors import BadInstance
from peerllm_swarm.planning.quantities import block_count, positive
from peerllm_swarm.slices import BlockShape, BlockSlice

EXCHANGES_PER_BLOCK = 2

GIGABIT_BYTES_PER_S = 117e6
"""What TCP carries over Gigabit Ethernet (941 Mbit/s of payload): what a LAN is taken to be, as links that nobody
has loaded cannot be measured without loading them."""


class SyncForm(StrEnum):
    """How partial sums travel."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    Q80 = "q80"  # a float16 scale and 32 bytes for 32 values

    def size(self, values: int) -> int:
        """Bytes of so many values."""
        if self is SyncForm.Q80:
            return -(-values // 32) * 34
        return values * (4 if self is SyncForm.FLOAT32 else 2)


class Way(StrEnum):
    """Who sends to whom in an exchange."""

    ALL_TO_ALL = "all-to-all"  # one message each way between every two members: one hop of latency
    BY_PARTS = "by parts"  # everybody sums a part and sends that, in float32, to all: a ring's bytes in two hops


def exchange_bytes(hidden: int, members: int, form: SyncForm, way: Way = Way.ALL_TO_ALL) -> int:
    """Bytes that all members together send in one exchange of one token's partial sums."""
    _check_members(members)
    each = form.size(hidden)
    if way is Way.BY_PARTS:
        return (members - 1) * (each + SyncForm.FLOAT32.size(hidden))
    return members * (members - 1) * each


def token_bytes(
    blocks: int, hidden: int, members: int, form: SyncForm = SyncForm.Q80, way: Way = Way.ALL_TO_ALL
) -> int:
    """Bytes that a group sends for one token through so many blocks, all members together."""
    block_count("the number of blocks", blocks)
    return EXCHANGES_PER_BLOCK * blocks * exchange_bytes(hidden, members, form, way)


def exchange_ms(
    hidden: int, members: int, form: SyncForm, rtt_ms: float, bytes_per_s: float = GIGABIT_BYTES_PER_S
) -> float:
    """What one exchange takes: a round trip, and a member's own link, full duplex, for what it sends the others."""
    positive("the bandwidth", bytes_per_s)
    return rtt_ms + exchange_bytes(hidden, members, form) / members / bytes_per_s * 1e3


@dataclass(frozen=True)
class GroupSpeed:
    """Of a block, in milliseconds per decoded token."""

    compute_ms: float
    exchange_ms: float

    @property
    def block_ms(self) -> float:
        return self.compute_ms + self.exchange_ms


def group_speed(
    shape: BlockShape,
    slices: Sequence[BlockSlice],
    block_ms: Sequence[float],
    *,
    form: SyncForm,
    rtt_ms: float,
    bytes_per_s: float = GIGABIT_BYTES_PER_S,
) -> GroupSpeed:
    """What a group takes for a block, both halves of which wait for their slowest member.

    For equal members and slices it is faster than one of them exactly where
    `blocks * 2 * rtt + bytes / bandwidth < (1 - 1/n) * blocks * step` (docs/placement.md#groups).

    Args:
        block_ms: what each member takes for a whole block by itself.
        rtt_ms: between the two that are furthest apart.
    """
    if len(slices) != len(block_ms):
        raise BadInstance(f"{len(slices)} slices do not belong to {len(block_ms)} members")
    attention = max(
        ms * (part.kv_heads[1] - part.kv_heads[0]) / shape.kv_heads for part, ms in zip(slices, block_ms, strict=True)
    )
    feed_forward = max(
        ms * (part.columns[1] - part.columns[0]) / shape.feed_forward for part, ms in zip(slices, block_ms, strict=True)
    )
    compute_ms = shape.attention_share * attention + (1 - shape.attention_share) * feed_forward
    exchanged_ms = exchange_ms(shape.hidden, len(slices), form, rtt_ms, bytes_per_s) if len(slices) > 1 else 0.0
    return GroupSpeed(compute_ms, EXCHANGES_PER_BLOCK * exchanged_ms)


def _check_members(members: int) -> None:
    if members < 1:
        raise BadInstance(f"at least one member computes, not {members}")
