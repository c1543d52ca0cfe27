"""A lost hop is replaced alone, whatever it was that went wrong, and the tokens stay the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from peerllm.engine.load import load_ends, load_span
from peerllm.engine.span_engine import Ends, Hidden
from peerllm.errors import HopLeaves, HopLost, NoPeers
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.session import Chains, Session, open_session
from peerllm.model.store import ModelStore, StoredModel
from peerllm.wire.messages import WireDtype
from peerllm.wire.transport import Transport
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import BlockSpan, PeerId
from tests.support.gguf_models import tiny_gguf
from tests.support.peers import FINGERPRINT, ServingPeer, serving_peer, transport, until
from tests.support.recovery import (
    Damage,
    FaultyEngine,
    with_a_row_too_many,
    with_absurd_values,
    with_another_width,
    with_nan,
)

SPANS = (BlockSpan(0, 2), BlockSpan(2, 4), BlockSpan(4, 6))
PROMPT = [5, 17, 250, 9, 33]
QUICK = ChainTimings(open_s=5.0, step_s=10.0, prefill_s=10.0, stuck_s=0.5, prefill_stuck_s=0.5, report_s=0.3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


@pytest.fixture(scope="module")
def ends(model: StoredModel) -> Ends:
    return load_ends(model, engine="llama", threads=1)


@dataclass
class Swarm:
    """For each third of the model a peer and its spares, `rows[turn][third]`; sessions take the first that is left."""

    asker: Transport
    rows: list[list[ServingPeer]]
    engines: list[list[FaultyEngine]]
    gone: set[PeerId] = field(default_factory=set[PeerId])
    told: list[HopLost] = field(default_factory=list[HopLost])

    def peer(self, third: int, turn: int = 0) -> ServingPeer:
        return self.rows[turn][third]

    def chains(self, timings: ChainTimings = QUICK) -> Chains:
        return Chains(lambda: self._open(timings), self._mend, self._lost)

    def _route(self) -> Route:
        hops: list[Hop] = []
        for third, span in enumerate(SPANS):
            left = [row[third] for row in self.rows if row[third].peer_id not in self.gone]
            if not left:
                raise NoPeers(f"no peer serves blocks {span}")
            hops.append(Hop(left[0].peer_id, span, compute_ms=1.0))
        return Route(FINGERPRINT, tuple(hops))

    def _addresses(self) -> dict[PeerId, tuple[str, ...]]:
        return {peer.peer_id: peer.addresses for row in self.rows for peer in row}

    @asynccontextmanager
    async def _open(self, timings: ChainTimings) -> AsyncIterator[Chain]:
        async with open_chain(
            self._route(),
            self._addresses(),
            self.asker,
            tokens=64,
            wire_dtype=WireDtype.FLOAT32,
            timings=timings,
            spare=lambda _: True,
        ) as chain:
            yield chain

    async def _mend(self, chain: Chain, gone: AbstractSet[PeerId], history: Hidden, wait: bool) -> None:
        self.gone |= set(gone)
        await chain.mend(self._route(), self._addresses(), gone, history)

    def _lost(self, lost: HopLost) -> None:
        self.told.append(lost)
        self.gone.add(PeerId(lost.peer_id))


@asynccontextmanager
async def swarm(
    model: StoredModel, home: Path, *, turns: int = 2, history_bytes: int = 1 << 20, direct: bool = False
) -> AsyncIterator[Swarm]:
    async with transport(home / "asker", direct=direct) as (asker, _), AsyncExitStack() as stack:
        here = Swarm(asker, [], [])
        for turn in range(turns):
            engines = [
                FaultyEngine(load_span(model, span, engine="llama", slots=4, context_tokens=64, threads=1))
                for span in SPANS
            ]
            for engine in engines:
                stack.callback(engine.let_go.set)
            here.engines.append(engines)
            here.rows.append(
                [
                    await stack.enter_async_context(
                        serving_peer(home / f"{turn}-{third}", engine, history_bytes=history_bytes, direct=direct)
                    )
                    for third, engine in enumerate(engines)
                ]
            )
        yield here


async def decode(session: Session, ends: Ends, count: int, *, after: Sequence[int] = ()) -> list[int]:
    tokens: list[int] = []
    new = after[-1:] or PROMPT
    while len(tokens) < count:
        hidden = await session.advance(ends.embed([int(token) for token in new]))
        tokens.append(int(ends.logits(hidden)[0].argmax()))
        new = tokens[-1:]
    return tokens


Disturb = Callable[[int], Awaitable[None] | None]


async def answer(here: Swarm, ends: Ends, disturb: Disturb = lambda _: None) -> tuple[list[int], int]:
    """Twelve tokens; `disturb` is called before each with its number. And how often the session recovered."""
    tokens: list[int] = []
    async with open_session(here.chains()) as session:
        for number in range(12):
            disturbing = disturb(number)
            if disturbing is not None:
                await disturbing
            tokens += await decode(session, ends, 1, after=tokens)
        return tokens, session.recoveries


def run(main: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 100))


async def all_slots_free(here: Swarm) -> None:
    await until(lambda: all(not peer.handler.sessions for row in here.rows for peer in row))


@pytest.mark.parametrize(("third", "direct"), [(0, False), (1, False), (2, False), (1, True)])
def test_a_hop_that_vanishes_is_replaced_alone(
    third: int, direct: bool, model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, direct=direct) as here:
            expected, _ = await answer(here, ends)

            async def vanish(number: int) -> None:
                if number == 5:
                    await here.peer(third).transport.close()

            tokens, recoveries = await answer(here, ends, vanish)
            assert tokens == expected
            assert recoveries == 1
            assert [lost.peer_id for lost in here.told] == [here.peer(third).peer_id]
            assert [engine.sessions for engine in here.engines[0]] == [2, 2, 2]
            assert [engine.sessions for engine in here.engines[1]] == [int(at == third) for at in range(3)]
            await all_slots_free(here)

    run(main)


@pytest.mark.parametrize("thirds", [(0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_several_hops_that_vanish_at_once_are_replaced(
    thirds: tuple[int, ...], model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            expected, _ = await answer(here, ends)

            async def vanish(number: int) -> None:
                if number == 5:
                    await asyncio.gather(*(here.peer(third).transport.close() for third in thirds))

            tokens, _ = await answer(here, ends, vanish)
            assert tokens == expected
            assert {lost.peer_id for lost in here.told} == {here.peer(third).peer_id for third in thirds}
            await all_slots_free(here)

    run(main)


def test_hops_that_vanish_one_after_the_other_are_replaced(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    """The second replacement reads what the first one has sent, and that hop what it was sent by replay."""

    async def main() -> None:
        async with swarm(model, tmp_path, turns=3) as here:
            expected, _ = await answer(here, ends)
            victims = {1: (1, 0), 3: (2, 0), 5: (1, 1), 7: (0, 0), 9: (2, 1)}  # (third, turn) by token

            async def vanish(number: int) -> None:
                if number in victims:
                    await here.peer(*victims[number]).transport.close()

            tokens, recoveries = await answer(here, ends, vanish)
            assert tokens == expected
            assert recoveries == len(victims)
            await all_slots_free(here)

    run(main)


@pytest.mark.parametrize(("third", "number"), [(0, 4), (1, 0), (2, 4)])
@pytest.mark.parametrize("damage", [with_nan, with_absurd_values, with_another_width, with_a_row_too_many])
def test_who_puts_out_rubbish_is_found_and_replaced(
    damage: Damage, third: int, number: int, model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            expected, _ = await answer(here, ends)

            def spoil(at: int) -> None:
                if at == number:
                    here.engines[0][third].damage = damage

            tokens, _ = await answer(here, ends, spoil)
            assert tokens == expected
            assert [lost.peer_id for lost in here.told] == [here.peer(third).peer_id]
            await all_slots_free(here)

    run(main)


@pytest.mark.parametrize(("third", "number"), [(0, 4), (1, 0), (2, 4)])
def test_who_hangs_though_alive_is_found_and_replaced(
    third: int, number: int, model: StoredModel, ends: Ends, tmp_path: Path
) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            expected, _ = await answer(here, ends)

            def hang(at: int) -> None:
                here.engines[0][third].hangs = at >= number

            tokens, recoveries = await answer(here, ends, hang)
            assert tokens == expected
            assert recoveries == 1
            assert [lost.peer_id for lost in here.told] == [here.peer(third).peer_id]
            here.engines[0][third].let_go.set()
            await all_slots_free(here)

    run(main)


def test_who_has_become_slow_is_replaced_between_two_tokens(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            async with open_session(here.chains()) as session:
                expected = await decode(session, ends, 40)

            async with open_session(here.chains()) as session:
                here.engines[0][1].delay_s = 0.05
                assert await decode(session, ends, 40) == expected
                assert session.recoveries == 1
            assert [lost.peer_id for lost in here.told] == [here.peer(1).peer_id]
            await all_slots_free(here)

    run(main)


@pytest.mark.parametrize("third", [0, 1, 2])
def test_sessions_move_away_from_a_hop_that_leaves(third: int, model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            expected, _ = await answer(here, ends)
            leaving: list[asyncio.Task[None]] = []

            async def leave(number: int) -> None:
                if number == 5:
                    leaving.append(asyncio.create_task(here.peer(third).handler.drain(30.0)))
                    await asyncio.sleep(0.05)

            tokens, recoveries = await answer(here, ends, leave)
            assert tokens == expected
            assert recoveries == 1
            assert [type(lost) for lost in here.told] == [HopLeaves]
            await asyncio.gather(*leaving)  # long before its 30 s: the session has gone
            await all_slots_free(here)

    run(main)


def test_a_route_is_begun_anew_where_the_past_is_forgotten(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, history_bytes=1000) as here:
            expected, _ = await answer(here, ends)

            async def vanish(number: int) -> None:
                if number == 5:
                    await here.peer(1).transport.close()

            tokens, _ = await answer(here, ends, vanish)
            assert tokens == expected
            assert [engine.sessions for engine in here.engines[0]] == [3, 2, 3]
            await all_slots_free(here)

    run(main)


def test_an_answer_that_cannot_go_on_says_so(model: StoredModel, ends: Ends, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, turns=1) as here:

            async def vanish(number: int) -> None:
                if number == 5:
                    await here.peer(1).transport.close()

            with pytest.raises(NoPeers, match="2:4"):
                await answer(here, ends, vanish)
            await all_slots_free(here)

    run(main)
