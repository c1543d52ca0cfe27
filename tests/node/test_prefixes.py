"""A prompt that begins as an earlier one did is not read again: hops copy what they hold, with the same tokens."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from peerllm.engine.load import load_ends
from peerllm.engine.span_engine import Ends
from peerllm.generation.read_prompts import ReadPrompts, offered
from peerllm.model.store import ModelStore, StoredModel
from peerllm.wire.messages import MAX_PREFIXES, Sharing, WireDtype
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import BlockSpan, PeerId
from tests.support.gguf_models import tiny_gguf
from tests.support.kept_chats import Chats, chats, run, words
from tests.support.peers import until

SYSTEM = words(1, 60)
ROUTE = Route("ab" * 8, (Hop(PeerId("peer"), BlockSpan(0, 6)),))
ONE, OTHER = [*SYSTEM, *words(2, 9)], [*SYSTEM, *words(3, 9)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


@pytest.fixture(scope="module")
def ends(model: StoredModel) -> Ends:
    return load_ends(model, engine="llama", threads=1)


def prefixes(here: Chats) -> list[int]:
    """Sessions that have ended and whose slots are kept, at each hop of the first turn."""
    return [len(peer.handler._kept) for peer in here.swarm.peers[:3]]


def test_another_chat_with_the_same_beginning_computes_only_its_own_end(
    model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, keep_s=0, sharing=Sharing.ASKER) as here:
            expected = await here.fresh(OTHER)
            await here.answer(ONE)
            await until(lambda: prefixes(here) == [1, 1, 1])
            assert [peer.handler.sessions for peer in here.swarm.peers] == [0, 0, 0]
            before = here.rows
            answer, session = await here.answer(OTHER)
            assert answer == expected
            assert session.cached_tokens == len(SYSTEM)
            new = len(OTHER) - len(SYSTEM) + len(answer) - 1
            assert [now - then for now, then in zip(here.rows, before, strict=True)] == [new] * 3

    run(main)


def test_several_answers_to_one_prompt_read_it_once(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, sharing=Sharing.ASKER) as here:
            expected = await here.fresh(ONE)
            before = here.rows
            answers = await asyncio.gather(*(here.answer(ONE) for _ in range(3)))
            assert [answer for answer, _ in answers] == [expected] * 3
            cached = sorted(session.cached_tokens for _, session in answers)
            assert cached == [0, len(ONE) - 1, len(ONE) - 1]
            rows = len(ONE) + 2 + 3 * (len(expected) - 1)
            assert [now - then for now, then in zip(here.rows, before, strict=True)] == [rows] * 3

    run(main)


def test_a_kept_chat_is_forked_by_another_one(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    """Its own session stays for its own next turn, from which less is taken than would be lost."""

    async def main() -> None:
        async with chats(model, ends, tmp_path, sharing=Sharing.ASKER) as here:
            long = [*SYSTEM[:40], *words(5, 60)]
            branch = [*SYSTEM[:40], *words(6, 9)]
            expected = await here.fresh(branch)
            await here.answer(long)
            answer, session = await here.answer(branch)
            assert answer == expected
            assert session.cached_tokens == 40
            _, session = await here.answer([*long, 7])
            assert session.cached_tokens == len(long)

    run(main)


@pytest.mark.parametrize("third", [1])
def test_a_hop_lost_behind_a_prefix_is_replaced(third: int, model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, turns=2, keep_s=0, sharing=Sharing.ASKER) as here:
            expected = await here.fresh(OTHER)
            await here.answer(ONE)
            await until(lambda: prefixes(here) == [1, 1, 1])

            async def vanish(number: int) -> None:
                if number == 3:
                    await here.swarm.peers[third].transport.close()

            answer, session = await here.answer(OTHER, disturb=vanish)
            assert answer == expected
            assert session.recoveries == 1
            assert session.cached_tokens == len(SYSTEM)

    run(main)


def test_a_prefix_whose_history_is_forgotten_is_computed_anew_when_a_hop_is_lost(
    model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, turns=2, keep_s=0, sharing=Sharing.ASKER) as here:
            expected = await here.fresh(OTHER)
            await here.answer(ONE)
            await until(lambda: prefixes(here) == [1, 1, 1])
            for peer in here.swarm.peers[:3]:
                for holding in peer.handler._kept.holdings:
                    holding.history.forget()

            async def vanish(number: int) -> None:
                if number == 3:
                    await here.swarm.peers[1].transport.close()

            answer, session = await here.answer(OTHER, disturb=vanish)
            assert answer == expected
            assert session.recoveries == 1

    run(main)


def test_others_take_over_only_what_both_share(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    """The hops are offered the same rows in every case."""

    async def main() -> None:
        async with chats(model, ends, tmp_path, keep_s=0) as here:
            expected, cached = await here.fresh(OTHER), dict[tuple[Sharing, Sharing], int]()
            for theirs, ours in itertools.product((Sharing.ASKER, Sharing.MEMBERS), repeat=2):
                here.read = ReadPrompts(ours)
                await here.answer(ONE)
                await until(lambda: prefixes(here) == [1, 1, 1])
                for peer in here.swarm.peers:
                    for holding in peer.handler._kept.holdings:
                        holding.asker, holding.sharing = here.swarm.peers[0].peer_id, theirs
                answer, session = await here.answer(OTHER)
                assert answer == expected
                cached[theirs, ours] = session.cached_tokens
                for peer in here.swarm.peers:
                    await peer.handler.drain(5.0)
                    peer.handler.reopen()
            shared = cached.pop((Sharing.MEMBERS, Sharing.MEMBERS))
            assert shared == len(SYSTEM)
            assert set(cached.values()) == {0}

    run(main)


def test_a_prefix_gives_its_slot_to_whoever_needs_one(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, slots=2, keep_s=0, sharing=Sharing.ASKER) as here:
            await here.answer(ONE)
            await until(lambda: prefixes(here) == [1, 1, 1])
            answers = await asyncio.gather(*(here.answer(words(seed, 40)) for seed in (7, 8)))
            assert all(session.cached_tokens == 0 for _, session in answers)
            for peer in here.swarm.peers:
                await peer.handler.drain(5.0)
            assert prefixes(here) == [0, 0, 0]
            await here.until_slots_are_free()

    run(main)


def test_prompts_wait_for_one_that_is_being_read(ends: Ends) -> None:
    """And for nobody any more once that is given up."""

    async def main() -> None:
        reads, rows = ReadPrompts(Sharing.ASKER), ends.embed(ONE)
        first, second, third, short = (reads.prompt("key", WireDtype.FLOAT32, restricted=False) for _ in range(4))
        await first.look(rows)
        waiting = asyncio.create_task(second.look(rows))
        await short.look(ends.embed([*SYSTEM[:20], *words(4, 40)]))
        assert not waiting.done()
        first.close()
        await waiting
        assert not second.beginning.positions
        waiting = asyncio.create_task(third.look(rows))
        await asyncio.sleep(0)
        second.route = ROUTE
        second.been_read()
        await waiting
        assert third.beginning.along == ROUTE
        assert third.beginning.positions[-1] == len(ONE) - 1

    run(main)


@pytest.mark.parametrize("last", [33, 64, 1000, 4096, 32768])
def test_positions_are_offered_up_to_the_last(last: int) -> None:
    positions = offered(last, 21)
    assert positions[-1] == last
    assert 21 in positions
    assert len(positions) <= MAX_PREFIXES


def test_nobody_is_asked_where_nothing_is_shared() -> None:
    reads = ReadPrompts(Sharing.MEMBERS)
    assert reads.prompt("key", WireDtype.FLOAT32, restricted=True).beginning.sharing is Sharing.ASKER
    assert ReadPrompts(Sharing.NOBODY).prompt("key", WireDtype.FLOAT32, restricted=False).beginning.positions == ()
