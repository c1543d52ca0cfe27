"""Routes are the cheapest chains there are, of peers that can be asked, and say why there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm_swarm.chain import borders
from peerllm_swarm.errors import NoRoute
from peerllm_swarm.health import Health
from peerllm_swarm.latency import Latency
from peerllm_swarm.offers import Offers
from peerllm_swarm.prices import LONGEST_QUEUE_MS
from peerllm_swarm.records import PeerRecord, PeerState, SwarmView
from peerllm_swarm.routing import Hop, Route, choose_route, find_route, recover
from peerllm_swarm.score import HOP_OVERHEAD_MS, UNKNOWN_RTT_MS
from peerllm_swarm.span import BlockSpan, PeerId, uncovered
from tests.swarm.routed_peers import ME, MODEL, NOW, find, measured, peer, random_swarm, view, visits

OTHER = "fedcba9876543210"


def test_one_peer_that_has_all_blocks_is_one_hop() -> None:
    route = find(peer("a", 0, 12))
    assert visits(route) == [("a", "0:12")]
    assert route.predicted_ms == UNKNOWN_RTT_MS + HOP_OVERHEAD_MS + 12.0


def test_what_fits_on_one_peer_is_split_only_if_predicted_faster() -> None:
    whole, head, tail = peer("a", 0, 12), peer("b", 0, 6), peer("c", 6, 12)
    near = measured(a=1.0, b=1.0, c=1.0)
    assert visits(find(whole, head, tail, asker=near)) == [("a", "0:12")]
    fast = find(whole, replace(head, decode_ms=0.1), replace(tail, decode_ms=0.1), asker=near)
    assert visits(fast) == [("b", "0:6"), ("c", "6:12")]


def test_a_span_is_left_early_for_a_faster_peer_and_entered_late_where_that_is_free() -> None:
    slow, fast = peer("a", 0, 8, decode_ms=5.0), peer("b", 4, 12)
    near = measured(a=1.0, b=1.0)
    assert visits(find(slow, fast, asker=near)) == [("a", "0:4"), ("b", "4:12")]
    first_half_fast = [replace(slow, decode_ms=0.5), replace(fast, decode_ms=2.0)]
    assert visits(find(*first_half_fast, asker=near)) == [("a", "0:8"), ("b", "8:12")]
    start_only = [replace(record, free_entry=False) for record in first_half_fast]
    assert visits(find(*start_only, asker=near)) == [("a", "0:4"), ("b", "4:12")]


def test_the_predictions_of_the_hops_add_up() -> None:
    asker = measured(a=2.0, b=6.0)
    linked = peer("a", 0, 6, rtt_ms=((PeerId("b"), 3.0),))
    route = find(linked, peer("b", 6, 12, queue_ms=7.0), asker=asker)
    assert route.hops == (
        Hop(PeerId("a"), BlockSpan(0, 6), 1.0, HOP_OVERHEAD_MS, 6.0),
        Hop(PeerId("b"), BlockSpan(6, 12), 1.5, HOP_OVERHEAD_MS + 7.0, 6.0),
    )
    assert route.return_ms == 3.0
    assert route.predicted_ms == 1.0 + 6.0 + 1.5 + 7.0 + 6.0 + 3.0 + 2 * HOP_OVERHEAD_MS


def test_a_link_nobody_measured_is_priced_as_the_way_through_the_asker() -> None:
    route = find(peer("a", 0, 6), peer("b", 6, 12), asker=measured(a=2.0, b=6.0))
    assert route.hops[1].link_ms == 4.0
    unknown = find(peer("a", 0, 6), peer("b", 6, 12))
    assert unknown.hops[1].link_ms == UNKNOWN_RTT_MS / 2


def test_measurements_outrank_claims() -> None:
    boaster = peer("a", 0, 12, decode_ms=0.01, rtt_ms=((ME.peer_id, 0.1),))
    honest = peer("b", 0, 12, rtt_ms=((ME.peer_id, 5.0),))
    assert visits(find(boaster, honest)) == [("a", "0:12")]
    tried = Latency().with_rtt(PeerId("a"), 50.0, NOW).with_step(PeerId("a"), 3.0, NOW)
    route = find(boaster, honest, asker=replace(ME, latency=tried))
    assert visits(route) == [("b", "0:12")]
    assert visits(find_route(replace(view(boaster, honest), at=NOW + 1000), MODEL, 12, asker=ME)) == [("a", "0:12")]


def test_a_queue_is_waited_for_only_if_nobody_else_is_quicker() -> None:
    busy, idle = peer("a", 0, 12, queue_ms=30.0), peer("b", 0, 12, decode_ms=2.0)
    assert visits(find(busy, idle)) == [("b", "0:12")]
    assert visits(find(busy, replace(idle, decode_ms=9.0))) == [("a", "0:12")]


def test_the_asker_reaches_its_own_blocks_without_a_link() -> None:
    route = find(peer("me", 0, 6), peer("b", 6, 12), asker=measured(b=8.0))
    assert [hop.link_ms for hop in route.hops] == [0.0, 4.0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slots_free": 0}, "no free slot"),
        ({"cache_tokens_left": 99}, "room for 99 tokens, 100 are needed"),
        ({"state": PeerState.LOADING, "name": "kitchen"}, r"kitchen \(b\) is loading 6:12"),
        ({"state": PeerState.DRAINING}, "nobody serves or loads them"),
        ({"fingerprint": OTHER}, "nobody serves or loads them"),
        ({"blocks": 13, "span": BlockSpan(6, 13)}, "nobody serves or loads them"),
        ({"span": BlockSpan(6, 13)}, "nobody serves or loads them"),
    ],
)
def test_who_cannot_be_asked_is_not_and_the_error_says_why(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(NoRoute, match=reason) as refused:
        find(peer("a", 0, 6), peer("b", 6, 12, **changes), tokens=100)
    assert refused.value.missing == (BlockSpan(6, 12),)
    assert refused.value.loading == ((PeerId("b"),) if "loading" in reason and "kitchen" in reason else ())
    assert "6:12 of 12" in str(refused.value)


def test_a_failed_peer_rests_and_its_old_record_is_a_ghost() -> None:
    a, b = peer("a", 0, 12), peer("b", 0, 12, decode_ms=9.0)
    asker = replace(ME, health=Health().failed(PeerId("a"), NOW - 1, a))
    assert visits(find(a, b, asker=asker)) == [("b", "0:12")]
    with pytest.raises(NoRoute, match="failed and rests"):
        find(a, asker=asker)
    long_ago = replace(ME, health=Health().failed(PeerId("a"), NOW - 40, a))
    with pytest.raises(NoRoute, match="not heard of since"):
        find(a, asker=long_ago)
    assert visits(find(replace(a, sequence=6), b, asker=long_ago)) == [("a", "0:12")]


def test_every_gap_is_named_and_a_crowd_is_not_listed() -> None:
    crowd = [peer(f"full{number}", 9, 12, slots_free=0) for number in range(20)]
    with pytest.raises(NoRoute) as refused:
        find(peer("a", 0, 3), peer("b", 5, 9), *crowd)
    assert refused.value.missing == (BlockSpan(3, 5), BlockSpan(9, 12))
    assert len(str(refused.value)) < 300


def test_of_two_records_of_a_peer_the_later_counts() -> None:
    with pytest.raises(NoRoute):
        find(peer("a", 0, 12), replace(peer("a", 0, 6), sequence=6))


@pytest.mark.parametrize("field", ["decode_ms", "queue_ms", "rtt_ms"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5.0, 1e300])
def test_absurd_claims_do_not_spoil_predictions(field: str, value: float) -> None:
    claimed = ((PeerId("b"), value), (ME.peer_id, value)) if field == "rtt_ms" else value
    route = find(peer("a", 0, 6, **{field: claimed}), peer("b", 6, 12))
    assert not math.isnan(route.predicted_ms)
    if field == "queue_ms":
        assert route.predicted_ms < LONGEST_QUEUE_MS + 1000


def test_the_fingerprint_with_the_cheapest_route_is_chosen_among_those_with_ends() -> None:
    cheap = peer("a", 0, 12)
    dear = [replace(peer("b", 0, 12), fingerprint=OTHER, decode_ms=3.0)]
    records = view(cheap, *dear)
    both = choose_route(records, [MODEL, OTHER], 12, has_ends=lambda _: True, asker=ME)
    assert both.fingerprint == MODEL
    only = choose_route(records, [MODEL, OTHER], 12, has_ends=lambda of: of == OTHER, asker=ME)
    assert only.fingerprint == OTHER


def test_a_fingerprint_that_is_not_covered_is_passed_over() -> None:
    records = view(peer("a", 0, 6), replace(peer("b", 0, 12), fingerprint=OTHER, decode_ms=90.0))
    assert choose_route(records, [MODEL, OTHER], 12, has_ends=lambda _: True, asker=ME).fingerprint == OTHER


def test_without_any_covered_fingerprint_the_fewest_missing_blocks_are_named() -> None:
    records = view(peer("a", 0, 6), replace(peer("b", 0, 11), fingerprint=OTHER))
    with pytest.raises(NoRoute) as refused:
        choose_route(records, [MODEL, OTHER], 12, has_ends=lambda _: True, asker=ME)
    assert refused.value.missing == (BlockSpan(11, 12),)
    with pytest.raises(NoRoute, match="embedding and head"):
        choose_route(records, [MODEL, OTHER], 12, has_ends=lambda _: False, asker=ME)


# --- recovery


def test_only_the_lost_span_is_covered_anew() -> None:
    a, b, c, d = peer("a", 0, 4), peer("b", 4, 8), peer("c", 8, 12), peer("d", 2, 10, decode_ms=5.0)
    route = find(a, b, c)
    recovered = recover(route, [route.hops[1]], view(a, c, d), asker=ME)
    assert visits(recovered) == [("a", "0:4"), ("d", "4:8"), ("c", "8:12")]


def test_the_lost_peer_is_not_asked_again_though_its_record_is_still_there() -> None:
    a, b, c = peer("a", 0, 6), peer("b", 6, 12), peer("c", 6, 12, decode_ms=9.0)
    route = find(a, b, c)
    assert visits(recover(route, route.hops[1:], view(a, b, c), asker=ME)) == [("a", "0:6"), ("c", "6:12")]


def test_hops_that_stay_may_be_full_or_gone_from_the_view() -> None:
    a, b, c, d = peer("a", 0, 4), peer("b", 4, 8), peer("c", 8, 12), peer("d", 4, 8)
    route = find(a, b, c)
    recovered = recover(route, [route.hops[1]], view(replace(c, slots_free=0), d), asker=ME)
    assert visits(recovered) == [("a", "0:4"), ("d", "4:8"), ("c", "8:12")]
    assert recovered.hops[0] == route.hops[0]


def test_a_neighbour_is_given_up_where_nobody_can_be_entered_at_the_gap() -> None:
    a, b, c = peer("a", 0, 4), peer("b", 4, 8), peer("c", 8, 12)
    route = find(a, b, c)
    start_only = peer("d", 2, 8, free_entry=False)
    recovered = recover(route, [route.hops[1]], view(a, c, start_only), asker=ME)
    assert visits(recovered) == [("a", "0:2"), ("d", "2:8"), ("c", "8:12")]


def test_a_neighbour_that_has_the_lost_blocks_takes_them_over() -> None:
    a, b = peer("a", 0, 12, decode_ms=9.0), peer("b", 4, 12)
    route = find(a, b, asker=measured(a=1.0, b=1.0))
    assert len(route.hops) == 2
    assert visits(recover(route, route.hops[1:], view(a), asker=ME)) == [("a", "0:12")]


def test_several_lost_hops_are_covered_anew() -> None:
    records = [peer(name, start, start + 2) for name, start in zip("abcdef", range(0, 12, 2), strict=True)]
    spares = [peer("s", 2, 4), peer("t", 6, 12)]
    route = find(*records)
    recovered = recover(route, [route.hops[1], route.hops[3], route.hops[4]], view(*records, *spares), asker=ME)
    assert visits(recovered) == [("a", "0:2"), ("s", "2:4"), ("c", "4:6"), ("t", "6:10"), ("f", "10:12")]


def test_what_nobody_else_covers_is_named() -> None:
    a, b = peer("a", 0, 6), peer("b", 6, 12)
    route = find(a, b)
    with pytest.raises(NoRoute) as refused:
        recover(route, [route.hops[1]], view(a, b), asker=ME)
    assert refused.value.missing == (BlockSpan(6, 12),)


@given(st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_recovery_succeeds_whenever_the_others_cover_the_model(seed: int) -> None:
    random = Random(seed)
    blocks, records, asker = random_swarm(random, most=7)
    if gaps(records, blocks):
        return
    route = find(*records, asker=asker, blocks=blocks)
    lost = [hop for hop in route.hops if random.random() < 0.5] or [route.hops[0]]
    gone = {hop.peer_id for hop in lost}
    left = [record for record in records if record.peer_id not in gone]
    if missing := gaps(left, blocks):
        with pytest.raises(NoRoute) as refused:
            recover(route, lost, view(*records), asker=asker)
        assert list(refused.value.missing) == missing
    else:
        assert_possible(recover(route, lost, view(*records), asker=asker), left, blocks)


# --- against exhaustive search


@given(st.integers(0, 1_000_000))
@settings(max_examples=80, deadline=None)
def test_the_route_is_the_cheapest_of_all_chains(seed: int) -> None:
    blocks, records, asker = random_swarm(Random(seed), most=5)
    offers = Offers.of(view(*records), MODEL, blocks, asker, 0)
    chains = [cost for cost, _ in every_chain(offers, blocks)]
    if missing := gaps(records, blocks):
        assert not chains
        with pytest.raises(NoRoute) as refused:
            find(*records, asker=asker, blocks=blocks)
        assert list(refused.value.missing) == missing
        return
    route = find(*records, asker=asker, blocks=blocks)
    assert_possible(route, records, blocks)
    cheapest = min(chains)
    passed = borders(offers.stops.values(), BlockSpan(0, blocks), offers.first_ms)
    with_returns = min(arrival.cost_ms + offers.first_ms[at] for at, arrival in passed[-1].at.items())
    assert with_returns <= cheapest + 1e-9
    if with_returns >= cheapest - 1e-9:  # else coming back to a peer would pay, which no route does
        assert route.predicted_ms == pytest.approx(cheapest)
    assert route.predicted_ms >= cheapest - 1e-9


@given(st.integers(0, 1_000_000))
@settings(max_examples=80, deadline=None)
def test_spans_that_cover_the_model_can_be_chained_though_entered_only_at_their_start(seed: int) -> None:
    """The lemma of docs/placement.md#chains."""
    blocks, records, asker = random_swarm(Random(seed), most=6, free_entry=False)
    if not gaps(records, blocks):
        route = find(*records, asker=asker, blocks=blocks)
        assert_possible(route, records, blocks)


@given(st.integers(0, 1_000_000))
@settings(max_examples=30, deadline=None)
def test_equal_views_give_equal_routes_in_any_order(seed: int) -> None:
    random = Random(seed)
    blocks, records, asker = random_swarm(random, most=6)
    if not gaps(records, blocks):
        route = find(*records, asker=asker, blocks=blocks)
        assert find(*random.sample(records, len(records)), asker=asker, blocks=blocks) == route


def gaps(records: Sequence[PeerRecord], blocks: int) -> list[BlockSpan]:
    return uncovered((record.span for record in records if record.span), blocks)


def every_chain(offers: Offers, blocks: int) -> Iterator[tuple[float, list[PeerId]]]:
    """The cost of every chain that visits no peer twice, one by one."""
    chains: list[tuple[float, int, list[PeerId]]] = [(0.0, 0, [])]
    while chains:
        cost, reached, path = chains.pop()
        if reached == blocks:
            yield cost + offers.first_ms[path[-1]], path
            continue
        for name, stop in offers.stops.items():
            if name in path or reached not in stop.span or not (stop.free_entry or reached == stop.span.start):
                continue
            link = offers.stops[path[-1]].link_ms(stop) if path else offers.first_ms[name]
            for end in range(reached + 1, stop.span.end + 1):
                spent = cost + link + stop.enter_ms + stop.block_ms * (end - reached)
                chains.append((spent, end, [*path, name]))


def assert_possible(route: Route, records: Sequence[PeerRecord], blocks: int) -> None:
    by_id = {record.peer_id: record for record in records}
    assert route.blocks == blocks
    for hop in route.hops:
        record = by_id[hop.peer_id]
        assert record.span is not None
        assert record.span.covers(hop.span)
        assert record.free_entry or hop.span.start == record.span.start


@pytest.mark.parametrize(("peers", "limit_s"), [(100, 0.1), (2000, 3.0)])
def test_large_swarms_are_routed_quickly(peers: int, limit_s: float) -> None:
    """Limits are ten times what it takes, to catch a wrong exponent and not a busy machine."""
    swarm = large_swarm(peers)
    began = time.process_time()
    route = find_route(swarm, MODEL, 80, asker=ME)
    assert time.process_time() - began < limit_s
    assert route.blocks == 80


def large_swarm(peers: int, blocks: int = 80) -> SwarmView:
    """Peers with 4 to 16 blocks each and round trips to 16 others, half of them entered at their start only."""
    random = Random(peers)
    records: list[PeerRecord] = []
    for number in range(peers):
        length = random.randint(4, 16)
        start = random.randint(0, blocks - length)
        links = tuple((PeerId(f"p{random.randrange(peers)}"), random.uniform(1, 200)) for _ in range(16))
        records.append(
            peer(
                f"p{number}",
                start,
                start + length,
                blocks=blocks,
                decode_ms=random.uniform(0.2, 5),
                rtt_ms=links,
                free_entry=number % 2 == 0,
            )
        )
    return view(*records)
