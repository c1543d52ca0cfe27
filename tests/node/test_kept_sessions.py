"""The next turn of a chat goes on with the session of the last one: the same tokens, and only new rows computed."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from peerllm.engine.load import load_ends
from peerllm.engine.span_engine import Ends
from peerllm.generation.chain import ChainTimings, open_chain
from peerllm.generation.kept_sessions import choose
from peerllm.generation.route_terms import RouteTerms
from peerllm.model.store import ModelStore, StoredModel
from peerllm.wire.messages import WireDtype
from peerllm_swarm.records import PeerState
from peerllm_swarm.routing import Hop, Route
from tests.support.gguf_models import tiny_gguf
from tests.support.kept_chats import LIMIT, THIRDS, Chats, chats, run, words
from tests.support.peers import FINGERPRINT, transport, until
from tests.support.spot_checked import with_noise

PROMPT, QUESTION = words(1, 40), words(2, 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


@pytest.fixture(scope="module")
def ends(model: StoredModel) -> Ends:
    return load_ends(model, engine="llama", threads=1)


def test_the_next_turn_computes_only_what_is_new(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path) as here:
            first, _ = await here.answer(PROMPT)
            await here.until_resting(1)
            assert [peer.handler.sessions for peer in here.swarm.peers] == [0, 0, 0]
            before = here.rows
            prompt = [*PROMPT, *first, *QUESTION]
            second, session = await here.answer(prompt)
            # The last token of an answer never went in.
            assert session.cached_tokens == len(PROMPT) + len(first) - 1
            new = len(QUESTION) + 1 + len(second) - 1
            assert [now - then for now, then in zip(here.rows, before, strict=True)] == [new] * 3
            assert [engine.sessions for engine in here.swarm.engines] == [1] * 3
            third, session = await here.answer([*prompt, *second, *QUESTION])
            assert session.cached_tokens == len(prompt) + len(second) - 1
            assert second == await here.fresh(prompt)
            assert third == await here.fresh([*prompt, *second, *QUESTION])
            await here.kept.aclose()
            await here.until_slots_are_free()

    run(main)


def test_an_answer_is_made_again_from_its_prompt(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path) as here:
            first, _ = await here.answer(PROMPT)
            again, session = await here.answer(PROMPT)
            assert again == first
            assert session.cached_tokens == len(PROMPT) - 1

    run(main)


def test_a_turn_whose_reader_hangs_up_is_kept_as_far_as_it_came(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path) as here:

            def hang_up(number: int) -> None:
                if number == 4:
                    raise ConnectionError

            with pytest.raises(ConnectionError):
                await here.answer(PROMPT, disturb=hang_up)
            answer, session = await here.answer(PROMPT)
            assert session.cached_tokens == len(PROMPT) - 1
            assert answer == await here.fresh(PROMPT)

    run(main)


def test_another_prompt_begins_afresh(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path) as here:
            await here.answer(PROMPT)
            other = [*PROMPT[:4], *words(3, 30)]
            answer, session = await here.answer(other)
            assert session.cached_tokens == 0
            assert answer == await here.fresh(other)
            _, session = await here.answer(PROMPT, terms=RouteTerms(excluded=("somebody",)))
            assert session.cached_tokens == 0, "kept under other terms"

    run(main)


def test_two_chats_with_the_same_beginning_keep_a_session_each(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path) as here:
            talks, cached = [[*PROMPT[:10], *words(seed, 25)] for seed in (4, 5)], list[int]()
            for _ in range(2):
                answers = await asyncio.gather(*(here.answer(talk, count=5) for talk in talks))
                talks = [[*talk, *answer, *QUESTION] for talk, (answer, _) in zip(talks, answers, strict=True)]
                cached = [session.cached_tokens for _, session in answers]
            assert min(cached) > 35
            for talk in talks:
                answer, _ = await here.answer(talk, count=5)
                assert answer == await here.fresh(talk, count=5)

    run(main)


@pytest.mark.parametrize("third", [0, 1, 2])
def test_a_hop_lost_in_the_second_turn_is_replaced(third: int, model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, turns=2) as here:
            first, _ = await here.answer(PROMPT)
            prompt = [*PROMPT, *first, *QUESTION]
            expected = await here.fresh(prompt)

            async def vanish(number: int) -> None:
                if number == 3:
                    await here.swarm.peers[third].transport.close()

            second, session = await here.answer(prompt, disturb=vanish)
            assert second == expected
            assert session.recoveries == 1
            assert session.cached_tokens == len(PROMPT) + len(first) - 1
            # And back behind where the new hop joined, which has kept silent there until now.
            again, session = await here.answer([*PROMPT, *first[:4], *QUESTION])
            assert session.cached_tokens == len(PROMPT) + 4
            assert again == await here.fresh([*PROMPT, *first[:4], *QUESTION])

    run(main)


@pytest.mark.parametrize("third", [0, 1, 2])
def test_a_hop_lost_while_it_rests_costs_nothing_but_the_cache(
    third: int, model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, turns=2) as here:
            first, _ = await here.answer(PROMPT)
            await here.until_resting(1)
            await here.swarm.peers[third].transport.close()
            await until(lambda: not len(here.kept))
            await until(lambda: sum(here.resting) == here.resting[third])
            await here.swarm.presences[third].publish(state=PeerState.IDLE)
            second, session = await here.answer([*PROMPT, *first, *QUESTION])
            assert session.cached_tokens == 0
            assert session.recoveries == 0
            assert second == await here.fresh([*PROMPT, *first, *QUESTION])

    run(main)


def test_a_session_is_kept_for_its_time_only(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, keep_s=0.5) as here:
            await here.answer(PROMPT)
            await until(lambda: not len(here.kept))
            await here.until_slots_are_free()

    run(main)


def test_no_more_are_kept_than_are_allowed(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, at_most=2) as here:
            for seed in range(3):
                await here.answer(words(10 + seed, 30), count=3)
            await here.until_resting(2)
            _, session = await here.answer(words(10, 30), count=3)
            assert session.cached_tokens == 0, "the oldest went first"
            _, session = await here.answer(words(12, 30), count=3)
            assert session.cached_tokens

    run(main)


def test_whoever_needs_a_slot_gets_that_of_a_session_at_rest(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            chats(model, ends, tmp_path, slots=1) as here,
            transport(tmp_path / "other") as (other, _),
        ):
            await here.answer(PROMPT)
            await here.until_resting(1)
            peer = here.swarm.peers[1]
            async with open_chain(
                Route(FINGERPRINT, (*_before(here, 1), Hop(peer.peer_id, THIRDS[1]), *_behind(here, 1))),
                {one.peer_id: one.addresses for one in here.swarm.peers},
                other,
                tokens=64,
                wire_dtype=WireDtype.FLOAT32,
                timings=ChainTimings(open_s=5.0, step_s=5.0),
            ) as chain:
                assert (await chain.step(ends.embed(PROMPT), 0)).shape == (1, model.spec.hidden)
                await until(lambda: not len(here.kept))
            await here.until_slots_are_free()

    run(main)


def test_an_asker_that_needs_more_room_than_there_is_begins_afresh(
    model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path) as here:
            first, _ = await here.answer(PROMPT)
            await here.until_resting(1)
            found = await here.kept.take(
                here.swarm.router._key(FINGERPRINT), here.ends.embed([*PROMPT, *first]), 129, lambda _: True
            )
            assert found is None
            await here.until_slots_are_free()

    run(main)


def test_a_peer_that_leaves_does_not_wait_for_sessions_at_rest(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, turns=2) as here:
            first, _ = await here.answer(PROMPT)
            await here.until_resting(1)
            await asyncio.wait_for(here.swarm.peers[1].handler.drain(60.0), 10)
            await until(lambda: not len(here.kept))
            await here.swarm.presences[1].publish(state=PeerState.DRAINING)
            second, session = await here.answer([*PROMPT, *first, *QUESTION])
            assert session.cached_tokens == 0
            assert second == await here.fresh([*PROMPT, *first, *QUESTION])

    run(main)


def test_an_asker_that_stops_gives_every_slot_back(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path) as here:
            await asyncio.gather(*(here.answer(words(20 + seed, 30), count=3) for seed in range(3)))
            await asyncio.wait_for(here.kept.aclose(), 10)
            await here.until_slots_are_free()
            await here.answer(PROMPT)
            assert not len(here.kept), "none is kept any more"

    run(main)


def test_a_peer_that_is_not_trusted_any_more_is_not_gone_on_with(
    model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, turns=2) as here:
            await here.answer(PROMPT)
            here.swarm.measured.note_quarantine({here.swarm.peers[1].peer_id: 4e9})
            _, session = await here.answer(PROMPT)
            assert session.cached_tokens == 0

    run(main)


@pytest.mark.parametrize("lies", [False, True])
def test_spot_checks_see_all_turns_of_a_chat(lies: bool, model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with chats(model, ends, tmp_path, turns=3, probability=1.0) as here:
            ending = partial(
                here.swarm.checks.at_end, limit=LIMIT, then=partial(here.swarm.router.keep, here.kept, FINGERPRINT)
            )
            prompt, cached = PROMPT, 0
            for turn in range(4):
                if lies and turn == 1:
                    here.swarm.engines[1].damage = with_noise(0.5, every=1)
                answer, session = await here.answer(prompt, count=4, ending=ending)
                await until(lambda: not here.swarm.checks.running, 60.0)
                cached += session.cached_tokens
                prompt = [*prompt, *answer, *QUESTION]
            assert cached
            accused = {finding.peers for finding in here.swarm.findings.all if finding.confirmed}
            assert accused <= ({(here.swarm.peers[1].peer_id,)} if lies else set())

    run(main)


def test_the_session_with_the_longest_beginning_is_chosen() -> None:
    assert choose([], [], 10) is None
    assert choose([30, 40], [50, 60], 100) == (1, 40)
    assert choose([50], [50], 50) == (0, 49)  # a row is left to be computed
    assert choose([7], [7], 100) is None  # too little
    assert choose([20], [50], 100) is None  # more would be forgotten than gained


def _before(here: Chats, at: int) -> list[Hop]:
    return [Hop(here.swarm.peers[index].peer_id, THIRDS[index]) for index in range(at)]


def _behind(here: Chats, at: int) -> list[Hop]:
    return [Hop(here.swarm.peers[index].peer_id, THIRDS[index]) for index in range(at + 1, len(THIRDS))]
