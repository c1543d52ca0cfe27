"""When peers of one LAN form a group: faster, or the only way to hold the model; and never at the cost of a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.grouping import Around, GroupVerdict, Terms, grouped, member_of, propose_group, reason_to_part
from peerllm_swarm.records import PeerRecord, PeerState, SwarmView
from peerllm_swarm.slices import BlockShape, check_slices
from peerllm_swarm.span import BlockSpan, PeerId

MODEL = "f" * 16
BLOCKS = 12
SHAPE = BlockShape(hidden=2048, heads=32, kv_heads=4, head_dim=64, feed_forward=5632)
TERMS = Terms(SHAPE, SyncForm.Q80)
WHOLE = BlockSpan(0, BLOCKS)
LAN = "/ip4/192.168.0.{}/tcp/7338"


@dataclass(frozen=True)
class Swarm:
    """Peers named by letters; the order of names is that of ids."""

    records: Mapping[str, PeerRecord]
    rtt_ms: float = 0.1

    def verdict(self, me: str, *, resting: str = "", terms: Terms = TERMS) -> GroupVerdict:
        around = Around(
            {PeerId(name): self.rtt_ms for name in self.records if name != me}, frozenset(map(PeerId, resting))
        )
        view = SwarmView(100.0, tuple(self.records.values()))
        return propose_group(view, member_of(self.records[me]), MODEL, BLOCKS, terms, around)

    def with_demand(self, per_minute: float) -> Swarm:
        asked = {name: replace(record, demand=(("m", per_minute),)) for name, record in self.records.items()}
        return replace(self, records=asked)


def peer(
    name: str,
    span: BlockSpan | None = WHOLE,
    block_ms: float = 4.0,
    room: float | None = None,
    **changes: Any,
) -> PeerRecord:
    """One that serves `span`, with room for it and no more unless said otherwise."""
    held = float(len(span) if span else 0) if room is None else room
    record = PeerRecord(
        peer_id=PeerId(name),
        swarm="",
        sequence=1,
        issued_at=0.0,
        expires_at=1000.0,
        state=PeerState.ONLINE if span else PeerState.ANNOUNCED,
        name=name,
        software="",
        addresses=(LAN.format(ord(name[0])),),
        model="m",
        fingerprint=MODEL,
        blocks=BLOCKS,
        span=span,
        capacity_blocks=int(held),
        decode_ms=block_ms,
        group_room=held,
    )
    return replace(record, **changes)


def swarm(*records: PeerRecord, rtt_ms: float = 0.1) -> Swarm:
    linked = [
        replace(record, rtt_ms=tuple((other.peer_id, rtt_ms) for other in records if other is not record))
        for record in records
    ]
    return Swarm({record.name: record for record in linked}, rtt_ms)


def test_two_whole_replicas_of_one_household_become_one_that_is_faster():
    verdict = swarm(peer("a"), peer("b")).verdict("a")
    assert verdict.plan is not None
    assert [member.peer_id for member in verdict.plan.members] == ["a", "b"]
    assert verdict.plan.span == WHOLE
    assert verdict.plan.speed.block_ms < 4.0
    check_slices(SHAPE, verdict.plan.slices)
    assert "2 members are faster" in verdict.why


def test_only_one_of_them_leads():
    both = swarm(peer("a"), peer("b"))
    assert both.verdict("b").plan is None
    assert "is to lead it" in both.verdict("b").why


def test_who_is_behind_a_nat_does_not_lead():
    relayed = "/ip4/1.2.3.4/tcp/7338/p2p/12D3KooWQDbSmN2DgSbFnu1kPqPA3qkhhKcMw91rNRQBtNDkQwsG/p2p-circuit"
    behind = peer("a", addresses=(relayed, LAN.format(1)))
    assert swarm(behind, peer("b")).verdict("b").plan is not None
    assert swarm(behind, peer("b")).verdict("a").plan is None


@pytest.mark.parametrize(
    ("changes", "rtt_ms", "words"),
    [
        ({}, 1.1, "would not be faster"),  # 2 exchanges of 1.1 ms for the half of 4 ms
        ({}, 2.5, "no other peer"),
        ({"addresses": ("/ip4/8.8.8.8/tcp/7338",)}, 0.1, "no other peer"),
        ({"group_room": 0.0}, 0.1, "no other peer"),  # its owner joins no groups
        ({"moving_until": 200.0}, 0.1, "no other peer"),
        ({"members": (PeerId("z"),)}, 0.1, "no other peer"),
        ({"state": PeerState.DRAINING}, 0.1, "no other peer"),
        ({"fingerprint": "e" * 16}, 0.1, "no other peer"),
    ],
)
def test_no_group(changes: dict[str, Any], rtt_ms: float, words: str):
    verdict = swarm(peer("a"), peer("b", **changes), rtt_ms=rtt_ms).verdict("a")
    assert verdict.plan is None
    assert words in verdict.why


def test_who_said_no_is_left_alone_for_a_while():
    assert swarm(peer("a"), peer("b")).verdict("a", resting="b").plan is None


def test_a_fast_peer_does_not_wait_for_a_slow_one():
    assert swarm(peer("a", block_ms=0.3), peer("b", block_ms=4.0)).verdict("a").plan is None


def test_blocks_that_nobody_else_covers_stay():
    """Two halves of the model, each without room for more: a group of both holds all of it, of one and a third none."""
    halves = swarm(peer("a", BlockSpan(0, 6)), peer("b", BlockSpan(6, 12)))
    plan = halves.verdict("a").plan
    assert plan is not None
    assert plan.span == WHOLE
    three = swarm(peer("a", BlockSpan(0, 6)), peer("b", BlockSpan(6, 12), addresses=()), peer("c", BlockSpan(0, 6)))
    plan = three.verdict("a").plan
    assert plan is None or plan.after.uncovered == 0


def test_many_askers_are_better_served_by_replicas():
    """Over a LAN that takes most of what a group gains: fast enough for one answer, too dear for many at once."""
    slow_lan = swarm(peer("a"), peer("b"), rtt_ms=0.35)
    assert slow_lan.with_demand(1).verdict("a").plan is not None
    crowd = slow_lan.with_demand(60).verdict("a")
    assert crowd.plan is None
    assert "too little" in crowd.why


def test_pooled_memory_serves_what_none_can_hold():
    """Neither holds a block alone; together they hold all twelve, though that is slow."""
    poor = [peer(name, None, block_ms=0.0, room=6.5, capacity_blocks=0) for name in "ab"]
    plan = swarm(*poor, rtt_ms=1.9).verdict("a").plan
    assert plan is not None
    assert plan.span == WHOLE
    assert plan.covers_more


def test_no_pooling_where_peers_can_cover_the_blocks_each_for_itself():
    waiting = [peer(name, None, room=7.0) for name in "ab"]
    assert swarm(*waiting).verdict("a").plan is None


def test_three_members_where_that_pays():
    plan = swarm(peer("a", block_ms=40), peer("b", block_ms=40), peer("c", block_ms=40)).verdict("a").plan
    assert plan is not None
    assert len(plan.members) == 3


def test_more_members_than_heads_are_no_choice():
    many = [peer(name, block_ms=400) for name in "abcdefg"]
    plan = swarm(*many).verdict("a").plan
    assert plan is not None
    assert len(plan.members) == 4  # KV heads


def test_group_parts_where_the_swarm_needs_its_members_apart():
    """A hole opens that a member can close."""
    spans = (BlockSpan(0, 6), BlockSpan(0, 6), BlockSpan(6, 12))
    before = swarm(*(peer(name, span) for name, span in zip("abc", spans, strict=True)))
    view = SwarmView(100.0, ())
    members = tuple(member_of(before.records[name]) for name in "ab")
    reason = reason_to_part(view, members, BlockSpan(0, 6), 2.2, MODEL, BLOCKS)
    assert reason is not None
    assert "6 blocks more" in reason


@st.composite
def swarms(draw: st.DrawFn) -> Swarm:
    """Up to five peers of any speed and room, on a LAN or not quite."""
    records: list[PeerRecord] = []
    for name in "abcde"[: draw(st.integers(2, 5))]:
        start = draw(st.integers(0, BLOCKS - 1))
        span = BlockSpan(start, draw(st.integers(start + 1, BLOCKS)))
        records.append(
            peer(
                name,
                span,
                block_ms=draw(st.floats(0.1, 50)),
                room=len(span) + draw(st.floats(0, 12)),
                demand=(("m", draw(st.sampled_from([0.0, 0.5, 5.0, 20.0]))),),
            )
        )
    return swarm(*records, rtt_ms=draw(st.floats(0.01, 2.5)))


@settings(deadline=None, max_examples=60)
@given(swarms())
def test_a_group_has_one_lead_covers_as_much_and_does_not_part_at_once(world: Swarm):
    verdicts = {name: world.verdict(name) for name in world.records}
    for name, verdict in verdicts.items():
        plan = verdict.plan
        if plan is None:
            continue
        assert plan.lead == name
        check_slices(SHAPE, plan.slices)
        assert plan.after <= plan.before
        assert plan.pays or plan.covers_more
        for member in plan.members[1:]:
            theirs = verdicts[member.peer_id].plan
            assert theirs is None or name not in {other.peer_id for other in theirs.members}
        rest = grouped(SwarmView(100.0, tuple(world.records.values())), plan)
        assert reason_to_part(rest, plan.members, plan.span, plan.speed.block_ms, MODEL, BLOCKS) is None
