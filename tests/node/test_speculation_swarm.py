"""Guesses through real peers: what proves wrong is forgotten at every hop, also when hops are lost meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from peerllm.engine.load import load_ends
from peerllm.engine.span_engine import Hidden
from peerllm.errors import HopLost
from peerllm.generation.chain import Chain
from peerllm.generation.claim import Claim, ClaimTaker
from peerllm.generation.drafting.drafter import Drafting, Plan
from peerllm.generation.ends_thread import Choosing, EndsThread
from peerllm.generation.sampler import Sampler, SamplingParams
from peerllm.generation.session import Chains, open_session
from peerllm.generation.speculation import RoundCounts, decoded
from peerllm.model.store import ModelStore, StoredModel
from peerllm.wire.messages import Want
from tests.node.test_recovery import Disturb, all_slots_free, swarm
from tests.support.drafters import Always, Oracle
from tests.support.gguf_models import TINY, tiny_gguf

PROMPT = [5, 17, 250, 9, 33]
TOKENS = 24
PLANS = (Plan(4), Plan(3, ahead=2))


def run(main: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 100))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    shape = replace(TINY, quantisation="q4_0")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder, shape)))


@asynccontextmanager
async def asking(model: StoredModel) -> AsyncIterator[EndsThread]:
    ends = EndsThread(load_ends(model, engine="llama", threads=1))
    try:
        yield ends
    finally:
        await ends.shutdown()


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list[int])
    recoveries: int = 0
    counts: RoundCounts = field(default_factory=RoundCounts)


async def answer(
    ends: EndsThread,
    chains: Chains,
    drafting: Drafting | None = None,
    disturb: Disturb = lambda _: None,
    count: int = TOKENS,
) -> Answer:
    """`disturb` is called behind each token with its number."""
    made, choosing = Answer(), Choosing(Sampler(SamplingParams(temperature=0)), list(PROMPT))
    async with open_session(chains) as session:
        rows = await session.advance(await ends.embed(PROMPT))
        async with aclosing(decoded(rows, session, ends, choosing, drafting, count, made.counts)) as tokens:
            async for token in tokens:
                made.tokens.append(token.token)
                disturbing = disturb(len(made.tokens))
                if disturbing is not None:
                    await disturbing
        made.recoveries = session.recoveries
    return made


def drafting(answer: Answer, plan: Plan, right: float = 0.75) -> Drafting:
    return Drafting(Oracle([*PROMPT, *answer.tokens], right), Always(plan))


def test_tokens_are_those_of_one_round_each_in_fewer_rounds(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, turns=1) as here, asking(model) as ends:
            expected = await answer(ends, here.chains())
            for plan in PLANS:
                for right in (0.0, 0.75, 1.0):
                    found = await answer(ends, here.chains(), drafting(expected, plan, right))
                    assert found.tokens == expected.tokens
                    assert found.recoveries == 0
                    assert right < 1 or found.counts.accepted == found.counts.drafted > TOKENS // 2
            await all_slots_free(here)

    run(main)


@pytest.mark.parametrize(("third", "plan"), [(0, PLANS[1]), (1, PLANS[0]), (1, PLANS[1]), (2, PLANS[1])], ids=str)
def test_a_hop_that_vanishes_amid_guesses_is_replaced_alone(
    third: int, plan: Plan, model: StoredModel, tmp_path: Path
) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here, asking(model) as ends:
            expected = await answer(ends, here.chains())

            async def vanish(number: int) -> None:
                if number == 9:
                    await here.peer(third).transport.close()

            found = await answer(ends, here.chains(), drafting(expected, plan), vanish)
            assert found.tokens == expected.tokens
            assert found.recoveries == 1
            assert [lost.peer_id for lost in here.told] == [here.peer(third).peer_id]
            assert [engine.sessions for engine in here.engines[1]] == [int(at == third) for at in range(3)]
            await all_slots_free(here)

    run(main)


def test_rubbish_amid_guesses_is_found_and_its_maker_replaced(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here, asking(model) as ends:
            expected = await answer(ends, here.chains())

            def damage(number: int) -> None:
                if number == 7:
                    here.engines[0][1].damage = lambda rows: [np.full_like(each, np.nan) for each in rows]

            found = await answer(ends, here.chains(), drafting(expected, PLANS[1]), damage)
            assert found.tokens == expected.tokens
            assert [lost.peer_id for lost in here.told] == [here.peer(1).peer_id]
            await all_slots_free(here)

    run(main)


def test_a_hop_that_leaves_amid_guesses_is_left(model: StoredModel, tmp_path: Path) -> None:
    """What is under way then is sent once more."""

    async def main() -> None:
        async with swarm(model, tmp_path) as here, asking(model) as ends:
            expected = await answer(ends, here.chains())
            leaving: list[asyncio.Task[None]] = []

            async def leave(number: int) -> None:
                if number == 5:
                    leaving.append(asyncio.create_task(here.peer(1).handler.drain(30.0)))
                    await asyncio.sleep(0.05)

            found = await answer(ends, here.chains(), drafting(expected, PLANS[1]), leave)
            assert found.tokens == expected.tokens
            assert found.recoveries == 1
            await asyncio.gather(*leaving)
            await all_slots_free(here)

    run(main)


def test_a_route_is_begun_anew_amid_guesses(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, history_bytes=1000) as here, asking(model) as ends:
            expected = await answer(ends, here.chains())

            async def vanish(number: int) -> None:
                if number == 9:
                    await here.peer(1).transport.close()

            found = await answer(ends, here.chains(), drafting(expected, PLANS[1]), vanish)
            assert found.tokens == expected.tokens
            assert [engine.sessions for engine in here.engines[0]] == [3, 2, 3]
            await all_slots_free(here)

    run(main)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_what_is_kept_of_an_answer_is_free_of_wrong_guesses(plan: Plan, model: StoredModel, tmp_path: Path) -> None:
    """Inputs, what each hop has sent on and been sent, and what came out: as spot checks and the next turn need it."""

    async def main() -> None:
        kept: list[tuple[Chain, list[Hidden], AsyncExitStack]] = []

        def keep(chain: Chain, inputs: Sequence[Hidden], stack: AsyncExitStack) -> None:
            kept.append((chain, list(inputs), stack.pop_all()))

        async with swarm(model, tmp_path, turns=1) as here, asking(model) as ends:
            chains = replace(here.chains(), ending=keep)
            expected = await answer(ends, chains)
            found = await answer(ends, chains, drafting(expected, plan))
            assert found.tokens == expected.tokens
            claims = [[await claim(chain, inputs, at) for at in range(3)] for chain, inputs, _ in kept]
            for alone, guessed in zip(*claims, strict=True):
                shared = min(len(alone.inputs), len(guessed.inputs))
                np.testing.assert_array_equal(guessed.inputs[:shared], alone.inputs[:shared])
                rows = dict(zip(alone.positions, alone.outputs, strict=True))
                for position, row in zip(guessed.positions, guessed.outputs, strict=True):
                    assert position not in rows or np.array_equal(row, rows[position])
            again = await ends.embed([7, 8, 9])
            outcomes: list[Hidden] = []
            for chain, _, stack in kept:
                await chain.extend(len(PROMPT) + 4, 64)
                outcomes.append(await chain.step(again, len(PROMPT) + 4))
                await stack.aclose()
            np.testing.assert_array_equal(*outcomes)
            await all_slots_free(here)

    run(main)


async def claim(chain: Chain, inputs: Sequence[Hidden], at: int) -> Claim:
    deadline = asyncio.get_running_loop().time() + 5
    taken = await ClaimTaker(chain, inputs, deadline).take(at)
    assert isinstance(taken, Claim)
    return taken


def test_a_step_may_begin_earlier_but_leave_no_gap(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, turns=1) as here, asking(model) as ends:
            async with here.chains().open() as chain:
                rows = await ends.embed([*PROMPT, 1, 2, 3])
                expected = await chain.step(rows, 0, Want.EACH)
                first = await chain.send(rows[:4], 0, Want.EACH)
                await chain.send(rows[[4, 0, 0]], 4, Want.EACH)
                await chain.send(rows[[1, 1]], 7, Want.EACH)
                last = await chain.send(rows[5:], 5, Want.EACH)
                np.testing.assert_array_equal((await chain.take(first)).rows, expected[:4])
                np.testing.assert_array_equal((await chain.take(last)).rows, expected[5:])
            async with here.chains().open() as chain:
                await chain.step(rows, 0)
                with pytest.raises(HopLost, match="after 8 positions"):
                    await chain.step(rows[:1], 9)
            await all_slots_free(here)

    run(main)
