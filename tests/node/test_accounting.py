"""What is kept of an answer: parts that add up, the hop that was slow by name, and no more than so many of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerllm.engine.load import load_ends, load_span
from peerllm.errors import HopLost, UnknownRequest
from peerllm.generation.accounting import Accounting, predicted_times, split_links
from peerllm.generation.answer import Delta, Finished
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.ledger import LAST, RUNNING, Ledger
from peerllm.generation.rounds import KEPT_ROUNDS, Rounds, RoundTimes
from peerllm.generation.session import Chains, open_session
from peerllm.local.accounts import HopAccount, HopTimes, RequestAccount
from peerllm.model.store import ModelStore
from peerllm.wire.codec import encode, frame_bytes
from peerllm.wire.messages import Step, Want, WireDtype
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.score import HOP_OVERHEAD_MS
from peerllm_swarm.span import BlockSpan, PeerId
from tests.support.gguf_models import tiny_gguf
from tests.support.peers import FINGERPRINT, ServingPeer, serving_peers, transport
from tests.support.recovery import begin_anew

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


def route(*link_ms: float, return_ms: float = 1.0) -> Route:
    hops = tuple(Hop(PeerId(name), BlockSpan(at, at + 1), ms, 0.5, 1.0) for at, (name, ms) in _numbered(link_ms))
    return Route("f", hops, return_ms)


def _numbered(link_ms: tuple[float, ...]) -> list[tuple[int, tuple[str, float]]]:
    return list(enumerate(zip("abc", link_ms, strict=False)))


def round_times(links_ms: float, hops: int) -> RoundTimes:
    return RoundTimes(links_ms + 3.0 * hops, (1.0,) * hops, (2.0,) * hops, 0.0)


# --- rounds


def test_rounds_give_medians_by_hop_and_what_is_left_is_links() -> None:
    rounds = Rounds(2)
    for at, queue_us in enumerate((0, 1000, 90_000)):
        started = at * 1.0
        rounds.add(started, started + 0.020, ((queue_us, 2000), (0, 4000)))
    times = rounds.medians()
    assert times is not None
    assert times.queue_ms == (1.0, 0.0)
    assert times.compute_ms == (2.0, 4.0)
    assert times.round_ms == pytest.approx(20.0)
    assert times.links_ms == pytest.approx(13.0)
    assert times.ends_ms == pytest.approx(980.0)


def test_rounds_without_timings_of_every_hop_are_not_split() -> None:
    rounds = Rounds(2)
    rounds.add(0.0, 1.0, ((1, 1),))
    assert rounds.medians() is None


def test_only_the_last_rounds_count_and_claims_beyond_the_round_leave_no_negative_link() -> None:
    rounds = Rounds(1)
    for at in range(2 * KEPT_ROUNDS):
        rounds.add(at, at + (1.0 if at < KEPT_ROUNDS else 0.001), ((0, 4_000_000_000),))
    times = rounds.medians()
    assert times is not None
    assert times.round_ms == pytest.approx(1.0)
    assert times.links_ms == 0.0


# --- splitting


def test_measured_ends_keep_their_half_round_trips_and_the_link_between_gets_the_rest() -> None:
    links = split_links(route(1.0, 1.0), round_times(53.0, 2), {A: 2.0, B: 4.0})
    assert links == pytest.approx((1.0 + HOP_OVERHEAD_MS, 53.0 - 3.0 - HOP_OVERHEAD_MS, 2.0))


def test_links_between_hops_share_as_predicted() -> None:
    links = split_links(route(1.0, 9.5, 4.5), round_times(34.5, 3), {A: 2.0, C: 4.0})
    assert links == pytest.approx((1.5, 0.5 + 20.0, 0.5 + 10.0, 2.0))


def test_with_one_hop_both_ways_share_what_is_left() -> None:
    assert split_links(route(1.0), round_times(10.5, 1), {A: 4.0}) == pytest.approx((2.0 + 0.5 + 3.0, 2.0 + 3.0))


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=3),
    st.floats(0, 500),
    st.dictionaries(st.sampled_from([A, B, C]), st.floats(0, 300)),
)
def test_the_parts_add_up(link_ms: list[float], links_ms: float, rtt_ms: dict[PeerId, float]) -> None:
    times = round_times(links_ms, len(link_ms))
    parts = split_links(route(*link_ms), times, rtt_ms)
    assert len(parts) == len(link_ms) + 1
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(times.links_ms, abs=1e-6)


def test_predicted_framing_counts_as_link() -> None:
    hop = Hop(A, BlockSpan(0, 3), 2.0, HOP_OVERHEAD_MS + 7.0, 3.0)
    assert predicted_times(hop) == HopTimes(2.0 + HOP_OVERHEAD_MS, 7.0, 3.0)


def test_a_step_s_bytes_are_those_of_its_frame() -> None:
    hidden = np.zeros((2, 8), np.float16)
    for hops in (0, 3):
        head, payload = encode(Step(1, 0, Want.LAST, hidden, ((1, 2),) * hops))
        assert len(head) + len(payload) == frame_bytes(timings=hops) + hidden.nbytes


# --- the account of a request


def account(request_id: str, **changes: object) -> RequestAccount:
    fields = {"model": "m", "at": 1.0, "outcome": "stop", "prompt_tokens": 3, "answer_tokens": 4, **changes}
    return RequestAccount(id=request_id, **fields)  # pyright: ignore[reportArgumentType]  # fields by name


def test_the_slowest_hop_is_named_with_its_part() -> None:
    hops = (
        HopAccount(A, "attic", "0:3", HopTimes(1, 0, 2), HopTimes(1, 0.5, 2)),
        HopAccount(B, "den", "3:6", HopTimes(1, 0, 2), HopTimes(1, 9, 2)),
    )
    told = account("r", hops=hops, predicted_ms=10.0, measured_ms=15.0)
    assert told.slowest is hops[1]
    assert told.slowest.measured is not None
    assert told.slowest.measured.slowest == "queue"
    assert told.off_by == pytest.approx(0.5)
    assert account("r").slowest is None
    assert account("r").off_by is None
    assert RequestAccount.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_the_ledger_keeps_the_last_and_finds_them_by_beginning() -> None:
    ledger = Ledger(kept=3)
    with pytest.raises(UnknownRequest, match="nothing was answered"):
        ledger.find(LAST)
    for name in ("chatcmpl-a1", "chatcmpl-b1", "chatcmpl-b2", "chatcmpl-c1"):
        ledger.keep(account(name))
    assert [kept.id for kept in ledger.all()] == ["chatcmpl-c1", "chatcmpl-b2", "chatcmpl-b1"]
    assert ledger.find(LAST).id == "chatcmpl-c1"
    assert ledger.find("c").id == "chatcmpl-c1"
    assert ledger.find("chatcmpl-b2").id == ledger.find("b2").id == "chatcmpl-b2"
    with pytest.raises(UnknownRequest, match="2 requests begin with 'b': chatcmpl-b1, chatcmpl-b2"):
        ledger.find("b")
    with pytest.raises(UnknownRequest, match=r"there are the last 3 \(of at most 3\): chatcmpl-c1"):
        ledger.find("a1")
    with pytest.raises(UnknownRequest):
        ledger.find("")


def test_the_ledger_tells_of_what_is_under_way_until_it_is_over() -> None:
    ledger = Ledger()
    with ledger.following(lambda: account("first")), ledger.following(lambda: account("second")):
        assert ledger.find(RUNNING).id == "second"
        assert ledger.all() == []
    with pytest.raises(UnknownRequest, match="no request is under way"):
        ledger.find(RUNNING)


def test_an_account_tells_hops_losses_and_the_route_that_answered(tmp_path: Path) -> None:
    async def main() -> None:
        model = ModelStore(tmp_path / "store").open(str(tiny_gguf(tmp_path)))
        ends = load_ends(model, engine="llama", threads=1)
        spans = [BlockSpan(0, 3), BlockSpan(3, 6), BlockSpan(3, 6)]
        engines = [load_span(model, span, engine="llama", slots=2, context_tokens=64, threads=1) for span in spans]
        names = {}
        async with serving_peers(tmp_path, engines) as peers, transport(tmp_path / "asker") as (asker, _):
            names = {peer.peer_id: f"machine {at}" for at, peer in enumerate(peers)}
            routes = iter([(peers[0], peers[1]), (peers[0], peers[2])])

            @asynccontextmanager
            async def next_chain() -> AsyncIterator[Chain]:
                front, back = next(routes)
                way = Route(FINGERPRINT, (_hop(front, spans[0]), _hop(back, spans[1])), return_ms=0.25)
                addresses = {peer.peer_id: peer.addresses for peer in (front, back)}
                async with open_chain(
                    way, addresses, asker, tokens=64, wire_dtype=WireDtype.FLOAT32, timings=ChainTimings(5.0, 5.0)
                ) as chain:
                    yield chain

            accounting = Accounting("chatcmpl-1", "tiny", 5, lambda peer: names[peer])
            async with open_session(accounting.watched(Chains(next_chain, begin_anew, lambda _: None))) as session:
                hidden = await session.advance(ends.embed([5, 17, 250, 9, 33]))
                for token in range(4):
                    accounting.note(Delta("x", token))
                    if token == 2:
                        await peers[1].transport.close()
                    hidden = await session.advance(ends.embed([int(ends.logits(hidden)[0].argmax())]))
                part_way = accounting.account("cancelled", "the reader left")
                accounting.note(Finished("length", 5, 4, 0.1, 20.0, recoveries=session.recoveries))
                whole = accounting.account()
        ends.shutdown()

        assert (part_way.outcome, part_way.answer_tokens, part_way.error) == ("cancelled", 4, "the reader left")
        assert part_way.ttft_s > 0
        assert part_way.tokens_per_s > 0
        assert (whole.outcome, whole.answer_tokens, whole.tokens_per_s) == ("length", 4, 20.0)
        assert whole.recoveries == 1
        assert [(change.at_token, change.name) for change in whole.changes] == [(3, "machine 1")]
        assert [(hop.name, hop.span) for hop in whole.hops] == [("machine 0", "0:3"), ("machine 2", "3:6")]
        parts = [hop.measured for hop in whole.hops]
        assert all(part is not None and part.compute_ms > 0 for part in parts)
        assert sum(part.total_ms for part in parts if part) + whole.return_measured_ms <= whole.measured_ms + 1e-6
        assert whole.hops[0].predicted == HopTimes(1.0 + HOP_OVERHEAD_MS, 0.0, 3.0)
        assert whole.predicted_ms == pytest.approx(2 * (1.0 + HOP_OVERHEAD_MS + 3.0) + 0.25)
        assert whole.hops[1].input_bytes > whole.hops[0].input_bytes > 8 * model.spec.hidden * 4

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_route_that_never_opened_leaves_its_reason() -> None:
    async def main() -> RequestAccount:
        @asynccontextmanager
        async def no_chain() -> AsyncIterator[Chain]:
            raise HopLost(A, "refused the session")
            yield  # pyright: ignore[reportUnreachable]  # makes it a generator

        accounting = Accounting("r", "tiny", 5, lambda _: "attic")
        with pytest.raises(HopLost):
            async with accounting.watched(Chains(no_chain, begin_anew, lambda _: None)).open():
                pass
        return accounting.account("failed", "hop a: refused the session")

    told = asyncio.run(main())
    assert told.hops == ()
    assert [(change.name, change.reason) for change in told.changes] == [("attic", "refused the session")]


def _hop(peer: ServingPeer, span: BlockSpan) -> Hop:
    return Hop(peer.peer_id, span, 1.0, HOP_OVERHEAD_MS, 3.0)
