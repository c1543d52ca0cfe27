"""A contribution over its life: it takes up a span, and moves when the others make that worth it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from peerllm.engine.known_activations import learn
from peerllm.engine.self_test import PROJECTIONS
from peerllm.errors import HopLost
from peerllm.model.store import ModelStore
from peerllm.serving.contribution import Phase
from peerllm.serving.contributor import HAND_OVER_S
from peerllm_swarm.records import PeerState
from peerllm_swarm.span import BlockSpan
from tests.support.contributor_world import LOWER, UPPER, rows, world
from tests.support.peers import until


def test_it_moves_to_the_weak_blocks_once_the_others_hold_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=3) as it:
            it.other("upper", UPPER)
            it.contributor.switch(True)
            await until(it.serves(LOWER), 20.0)
            for name in ("one", "two", "three"):
                it.other(name, LOWER)
            await until(it.serves(UPPER), 20.0)
            assert it.contributor.contribution.phase is Phase.SERVING
            assert it.contributor.contribution.span == UPPER
            assert it.presence.record.moving_until == 0.0
            leased = [record for record in it.published if record.moving_until > 0]
            assert leased, "the lease was taken"
            assert leased[0].span == LOWER

    asyncio.run(asyncio.wait_for(main(), 60))


def test_with_room_for_both_spans_it_serves_all_the_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            busy = it.offers[0].spec.name  # asked so often that throughput counts
            it.other("upper", UPPER, block_ms=0.05, wants=busy)
            it.contributor.switch(True)
            await until(lambda: it.presence.record.state is PeerState.ONLINE, 20.0)
            first = it.presence.record.span
            assert first is not None
            assert first.covers(LOWER)
            it.other("upper", UPPER, block_ms=50.0, wants=busy)
            for name in ("one", "two", "three"):
                it.other(name, LOWER, block_ms=0.05)
            begun = len(it.published)
            await until(lambda: it.presence.record.span not in (None, first), 20.0)
            assert {record.state for record in it.published[begun:]} == {PeerState.ONLINE}

    asyncio.run(asyncio.wait_for(main(), 60))


def test_it_stays_where_it_alone_serves_a_block_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=3) as it:
            it.other("upper", UPPER)
            it.contributor.switch(True)
            await until(it.serves(LOWER), 20.0)
            it.other("upper", UPPER, block_ms=500.0)
            await asyncio.sleep(1.5)
            assert it.presence.record.span == LOWER
            explanation = it.contributor.explain()
            assert explanation is not None
            assert explanation.alone == (LOWER,)
            assert explanation.present is not None
            assert explanation.present.span == LOWER

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_hole_is_filled_by_whoever_can_be_spared(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=3) as it:
            it.other("lower", LOWER)
            it.other("upper", UPPER)
            it.contributor.switch(True)
            await until(lambda: it.presence.record.state is PeerState.ONLINE, 20.0)
            assert it.presence.record.span is not None
            lost = "upper" if it.presence.record.span.start < 3 else "lower"
            await until(it.serves(it.gone(lost)), 20.0)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_model_that_is_asked_for_gets_a_peer_that_the_favourite_can_spare(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            favourite, wanted = it.offers
            it.other("one", BlockSpan(0, 6))
            it.contributor.switch(True)
            await until(lambda: it.presence.record.state is PeerState.ONLINE, 20.0)
            assert it.presence.record.fingerprint == favourite.fingerprint
            it.other("one", BlockSpan(0, 6), wants=wanted.spec.name)
            await until(
                lambda: it.presence.record.serves(wanted.fingerprint) and it.presence.record.span == BlockSpan(0, 6),
                20.0,
            )
            assert it.contributor.offer is not None
            assert it.contributor.offer.spec == wanted.spec

    asyncio.run(asyncio.wait_for(main(), 60))


def test_alone_it_serves_what_its_owner_asks_for_and_then_the_favourite_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            favourite, wanted = it.offers
            it.contributor.switch(True)
            await until(lambda: it.presence.record.serves(favourite.fingerprint), 20.0)
            assert it.presence.record.lends == (favourite.fingerprint, wanted.fingerprint)
            await it.presence.publish(demand=((wanted.spec.name, 0.1),))
            await until(lambda: it.presence.record.serves(wanted.fingerprint), 20.0)
            moving = [record for record in it.published if record.state in (PeerState.DRAINING, PeerState.IDLE)]
            assert all(record.lends for record in moving[1:]), "others know all the time that it may serve both"
            await it.presence.publish(demand=())
            await until(lambda: it.presence.record.serves(favourite.fingerprint), 20.0)
            it.contributor.switch(False)
            await until(lambda: it.presence.record.span is None and not it.presence.record.lends, 20.0)

    asyncio.run(asyncio.wait_for(main(), 90))


def test_wrong_results_end_the_contribution_and_say_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as here:
            offer = here.offers[0]
            note = ModelStore(tmp_path / "models").open(offer.spec.name).span_cache / (
                f"activations-{offer.fingerprint}.json"
            )
            learn(note, {BlockSpan(0, 6): (9.0,) * PROJECTIONS})
            here.contributor.switch(True)
            await until(lambda: "give wrong results here" in here.contributor.contribution.reason, 30.0)
            assert here.contributor.contribution.phase is Phase.OFF
            assert not here.contributor.contribution.wanted
            await until(lambda: here.presence.record.span is None)
            assert not [record for record in here.published if record.state is PeerState.ONLINE]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_pause_cuts_sessions_off_at_once_and_keeps_the_weights(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            span = await it.serving()
            async with it.session(span) as chain:
                await chain.step(rows(4), 0)
                assert len(it.contributor.askers) == it.contributor.sessions == 1
                asked = time.monotonic()
                it.contributor.hold("you are using this computer")
                await until(lambda: not it.contributor.sessions, HAND_OVER_S + 5.0)
                assert time.monotonic() - asked >= HAND_OVER_S, "the asker had time to move"
                with pytest.raises(HopLost):
                    await chain.step(rows(1), 4)
            await until(lambda: it.presence.record.state is PeerState.IDLE)
            assert it.contributor.contribution.phase is Phase.PAUSED
            assert it.contributor.contribution.reason == "you are using this computer"
            record = it.presence.record
            assert (record.span, record.fingerprint, record.lends, record.slots_free) == (None, "", (), 0)
            assert not it.contributor.measured(), "nothing of it is told while it is paused"
            with pytest.raises(HopLost, match="this peer is paused") as refused:
                async with it.session(span):
                    pass
            assert "computer" not in str(refused.value), "why is its owner's business"

            it.contributor.go_on()
            await until(it.serves(span))
            async with it.session(span) as chain:
                await chain.step(rows(4), 0)
            assert it.loads == [span], "the weights were kept"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_blocks_of_a_paused_peer_are_taken_up_by_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=3) as it:
            it.other("lower", LOWER)
            it.other("upper", UPPER)
            span = await it.serving()
            missing, paused = (UPPER, "upper") if span.start < 3 else (LOWER, "lower")
            it.paused(paused)
            await until(it.serves(missing), 20.0)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_is_released_is_chosen_and_loaded_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            span = await it.serving()
            it.contributor.hold("busy")
            it.contributor.release("busy for long")
            await until(lambda: it.contributor.info is None)
            await until(lambda: it.presence.record.state is PeerState.IDLE)
            assert it.contributor.contribution.phase is Phase.PAUSED
            it.contributor.go_on()
            await until(it.serves(span), 20.0)
            assert it.loads == [span, span]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_pause_stops_choosing_and_loading(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            it.contributor.switch(True)
            it.contributor.hold("on battery")
            await until(lambda: it.contributor.contribution.phase is Phase.PAUSED)
            it.contributor.go_on()
            await until(lambda: bool(it.loads), 20.0)
            it.contributor.hold("on battery")
            await until(lambda: it.contributor.contribution.phase is Phase.PAUSED)
            await until(lambda: it.presence.record.state is PeerState.IDLE, 20.0)
            assert it.contributor.info is None
            assert PeerState.ONLINE not in {record.state for record in it.published}

    asyncio.run(asyncio.wait_for(main(), 60))


def test_finishing_lets_sessions_end_by_themselves_and_admits_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            span = await it.serving()
            async with it.session(span) as chain:
                await chain.step(rows(4), 0)
                it.contributor.switch(False, finish=True)
                await until(lambda: it.presence.record.state is PeerState.DRAINING)
                await chain.step(rows(1), 4)
                with pytest.raises(HopLost, match="about to leave"):
                    async with it.session(span):
                        pass
                assert it.contributor.contribution.finishing
            await until(lambda: it.contributor.contribution.phase is Phase.OFF)
            await until(lambda: it.presence.record.state is PeerState.IDLE)
            assert it.contributor.info is None

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_is_lent_anew_is_worked_out_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, capacity=6) as it:
            await it.serving()
            it.lend(max_blocks=2)
            it.contributor.lend_anew()
            await until(lambda: it.presence.record.span is not None and len(it.presence.record.span) == 2, 20.0)
            await until(lambda: it.presence.record.state is PeerState.ONLINE, 20.0)

    asyncio.run(asyncio.wait_for(main(), 60))
