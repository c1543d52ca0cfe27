"""What a group sends, in bytes, and when it is faster; docs/groups.md says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerllm_swarm.errors import BadInstance
from peerllm_swarm.group_traffic import SyncForm, Way, exchange_bytes, exchange_ms, group_speed, token_bytes
from peerllm_swarm.planning.distributed_llama import (
    LLAMA_7B,
    LLAMA_13B,
    LLAMA_70B,
    LlamaShape,
    tensor_parallel_pays,
    today_traffic,
    token_traffic,
)
from peerllm_swarm.slices import BlockShape, slices_for

PAGE = Path(__file__).parents[2] / "docs" / "groups.md"
MODELS = {"7B": LLAMA_7B, "13B": LLAMA_13B, "70B": LLAMA_70B}
EVEN = BlockShape(hidden=4096, heads=32, kv_heads=32, head_dim=128, feed_forward=11008)


def test_sizes_of_a_vector():
    assert [form.size(4096) for form in SyncForm] == [16384, 8192, 4352]


def test_parts_are_a_rings_bytes_in_float32():
    """Two members send the same either way; from three on parts send less, where their sums are no larger."""
    for members in range(2, 9):
        ring = 2 * (members - 1) * SyncForm.FLOAT32.size(576)
        assert exchange_bytes(576, members, SyncForm.FLOAT32, Way.BY_PARTS) == ring
        assert ring <= exchange_bytes(576, members, SyncForm.FLOAT32)


def test_one_member_sends_nothing():
    assert token_bytes(30, 576, 1) == 0
    with pytest.raises(BadInstance):
        token_bytes(30, 576, 0)


def row_of(model: str, members: int) -> list[int]:
    """Of the page's table, in KiB: Distributed Llama's report and its version of today, then ours."""
    shape: LlamaShape = MODELS[model]
    ours = (
        token_bytes(shape.blocks, shape.dim, members, form, way)
        for form, way in (
            (SyncForm.Q80, Way.ALL_TO_ALL),
            (SyncForm.FLOAT16, Way.ALL_TO_ALL),
            (SyncForm.FLOAT32, Way.ALL_TO_ALL),
            (SyncForm.FLOAT32, Way.BY_PARTS),
        )
    )
    kib = (today_traffic(shape, members), *ours)
    return [token_traffic(shape, members).table_kib, *(int(size // 1024) for size in kib)]


def test_the_pages_table_is_what_the_formulas_give():
    rows = re.findall(r"^\| (7B|13B|70B) \| (\d) \| ([\d, |]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 7
    for model, members, cells in rows:
        assert [int(cell.replace(",", "")) for cell in cells.split("|")] == row_of(model, int(members)), (
            model,
            members,
        )


@given(st.integers(2, 8), st.floats(0.01, 50), st.floats(0, 2), st.floats(1e6, 1e10))
def test_pays_as_the_rule_of_the_yardstick_says(members: int, block_ms: float, rtt_ms: float, bytes_per_s: float):
    """For equal members and a shape that they share evenly."""
    shape = BlockShape(hidden=4096, heads=840, kv_heads=840, head_dim=32, feed_forward=840 * 32)
    slices = slices_for(shape, [1.0] * members)
    speed = group_speed(shape, slices, [block_ms] * members, form=SyncForm.Q80, rtt_ms=rtt_ms, bytes_per_s=bytes_per_s)
    sent = token_bytes(32, 4096, members) / members
    ruled = tensor_parallel_pays(32, members, block_ms, rtt_ms=rtt_ms, traffic_bytes=sent, bytes_per_s=bytes_per_s)
    if abs(speed.block_ms - block_ms) > 1e-9 * block_ms:
        assert (speed.block_ms < block_ms) == ruled


def test_the_slowest_member_is_waited_for_in_both_halves():
    slices = slices_for(EVEN, [1, 1])
    alone = group_speed(EVEN, slices, [2.0, 2.0], form=SyncForm.Q80, rtt_ms=0.0)
    slowed = group_speed(EVEN, slices, [2.0, 4.0], form=SyncForm.Q80, rtt_ms=0.0)
    assert alone.compute_ms == pytest.approx(1.0)
    assert slowed.compute_ms == pytest.approx(2.0)


def test_an_exchange_takes_a_round_trip_and_the_members_own_link():
    assert exchange_ms(4096, 4, SyncForm.Q80, 0.3, bytes_per_s=1e6) == pytest.approx(0.3 + 3 * 4.352)


def test_a_single_peer_exchanges_nothing():
    assert group_speed(EVEN, slices_for(EVEN, [1]), [2.0], form=SyncForm.FLOAT32, rtt_ms=1).block_ms == pytest.approx(2)
