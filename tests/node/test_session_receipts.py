"""Real sessions between real peers: both sides count the same, and sign for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from peerllm.engine.load import load_span
from peerllm.errors import HopLost
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.giving.accounts import Accounts
from peerllm.giving.books import Books
from peerllm.giving.serving_side import RECEIPT_TOKENS, Giving
from peerllm.giving.store import KeptReceipt, Store
from peerllm.model.store import ModelStore, StoredModel
from peerllm.wire.messages import Open, Want, WireDtype
from peerllm.wire.transport import Libp2pTransport
from peerllm_swarm.identity import Identity
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import BlockSpan, PeerId
from tests.support.gguf_models import tiny_gguf
from tests.support.peers import FINGERPRINT, ServingPeer, serving_peer, transport, until

FRONT, BACK = BlockSpan(0, 2), BlockSpan(2, 6)
PROMPT, TOKENS = 9, 12
QUICK = ChainTimings(open_s=5.0, step_s=10.0, prefill_s=10.0, stuck_s=2.0, prefill_stuck_s=2.0, report_s=0.3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


@dataclass
class Ledgers:
    """One ledger per home; each is read once its daemon would have ended."""

    folder: Path
    open: dict[str, Accounts]

    def of(self, name: str) -> Accounts:
        return self.open.setdefault(name, Accounts(self.folder / name / "ledger.sqlite"))

    def close(self) -> None:
        for accounts in self.open.values():
            accounts.close()

    def receipts(self, name: str) -> list[KeptReceipt]:
        store = Store.reading(self.folder / name / "ledger.sqlite")
        try:
            return list(store.receipts())
        finally:
            store.close()


@dataclass
class Swarm:
    model: StoredModel
    ledgers: Ledgers
    asker: Libp2pTransport
    books: Books | None
    peers: dict[str, ServingPeer]

    @asynccontextmanager
    async def chain(self, *names: str) -> AsyncIterator[Chain]:
        async with open_chain(
            self.route(*names),
            self.addresses,
            self.asker,
            tokens=1024,
            wire_dtype=WireDtype.FLOAT32,
            timings=QUICK,
            books=self.books,
        ) as chain:
            yield chain

    def route(self, *names: str) -> Route:
        return Route(FINGERPRINT, tuple(Hop(self.peers[name].peer_id, span_of(name)) for name in names))

    @property
    def addresses(self) -> dict[PeerId, tuple[str, ...]]:
        return {peer.peer_id: peer.addresses for peer in self.peers.values()}

    def rows(self, count: int) -> np.ndarray:
        return np.random.default_rng(count).standard_normal((count, self.model.spec.hidden), dtype=np.float32)

    async def answer(self, chain: Chain, prompt: int = PROMPT, tokens: int = TOKENS, *, at: int = 0) -> None:
        await chain.step(self.rows(prompt), at)
        for position in range(at + prompt, at + prompt + tokens):
            await chain.step(self.rows(1), position)

    async def all_over(self) -> None:
        """Every session has ended and is signed for, or will never be."""
        handlers = [peer.handler for peer in self.peers.values()]
        await until(lambda: not any(handler.sessions or handler.settling for handler in handlers))


def span_of(name: str) -> BlockSpan:
    return FRONT if name.startswith("front") else BACK


@asynccontextmanager
async def swarm(
    model: StoredModel,
    home: Path,
    names: Sequence[str] = ("front", "back"),
    *,
    counting: bool = True,
    cheats: Sequence[str] = (),
) -> AsyncIterator[Swarm]:
    """Peers named for what they serve; all of them count, and the asker if it is `counting`."""
    ledgers = Ledgers(home, {})
    async with AsyncExitStack() as stack:
        stack.callback(ledgers.close)
        asker, _ = await stack.enter_async_context(transport(home / "asker"))
        books = Books(Identity.load_or_create(home / "asker"), ledgers.of("asker")) if counting else None
        here = Swarm(model, ledgers, asker, books, {})
        for name in names:
            engine = load_span(model, span_of(name), engine="llama", slots=2, context_tokens=1024, threads=1)
            here.peers[name] = await stack.enter_async_context(
                serving_peer(
                    home / name,
                    engine,
                    accounts=ledgers.of(name),
                    make_books=GreedyBooks if name in cheats else Books,
                )
            )
        yield here


class GreedyBooks(Books):
    """Of a server that claims a thousand tokens more than it was sent."""

    def giving(self, asker: PeerId, opened: Open) -> Giving | None:
        giving = super().giving(asker, opened)
        if giving is not None:
            giving.computed(1000, decode=True, busy_us=0, bytes_in=0)
        return giving


def run(main: object) -> None:
    asyncio.run(asyncio.wait_for(main, 60))  # pyright: ignore[reportArgumentType]


def the_one(receipts: list[KeptReceipt]) -> KeptReceipt:
    [kept] = receipts
    kept.signed.check()
    return kept


def test_both_sides_count_the_same_and_sign_for_it(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            async with here.chain("front", "back") as chain:
                await here.answer(chain)
            await here.all_over()
            gave = {name: here.ledgers.of(name).rows(1) for name in here.peers}
            used = {row.peer_id: row for row in here.ledgers.of("asker").rows(1)}
        for name, peer in here.peers.items():
            [row] = gave[name]
            blocks = len(span_of(name))
            assert row.peer_id == here.asker.peer_id
            assert row.gave_tokens == used[peer.peer_id].used_tokens == (PROMPT + TOKENS) * blocks
            assert row.gave_bytes == used[peer.peer_id].used_bytes > 0
            assert row.receipts == used[peer.peer_id].receipts == 1
            assert row.gave_wh is None
            assert used[peer.peer_id].used_s > 0
            receipt = the_one(here.ledgers.receipts(name)).signed
            assert receipt.is_mutual
            assert (receipt.receipt.tally.prefill_tokens, receipt.receipt.tally.decode_tokens) == (PROMPT, TOKENS)
        mine = {kept.peer: kept.signed for kept in here.ledgers.receipts("asker")}
        theirs = {peer.peer_id: the_one(here.ledgers.receipts(name)).signed for name, peer in here.peers.items()}
        assert mine == theirs
        assert here.ledgers.of("asker").today() == (0, (PROMPT + TOKENS) * 6)

    run(main())


def test_guesses_are_counted_alike_also_those_that_were_wrong(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            async with here.chain("front", "back") as chain:
                await chain.step(here.rows(PROMPT), 0)
                right = await chain.send(here.rows(4), PROMPT, Want.EACH)
                await chain.send(here.rows(3), PROMPT + 4, Want.EACH)
                after = await chain.send(here.rows(1), PROMPT + 2, Want.LAST)
                await chain.take(right)
                await chain.take(after)
            await here.all_over()
        for name in here.peers:
            receipt = the_one(here.ledgers.receipts(name)).signed
            assert receipt.is_mutual
            assert (receipt.receipt.tally.prefill_tokens, receipt.receipt.tally.decode_tokens) == (PROMPT + 7, 1)

    run(main())


def test_a_hop_that_leaves_is_paid_for_its_part_and_its_successor_for_the_rest(
    model: StoredModel, tmp_path: Path
) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, ("front", "back", "back again")) as here:
            async with here.chain("front", "back") as chain:
                await here.answer(chain)
                history = np.concatenate([here.rows(PROMPT), *[here.rows(1)] * TOKENS])
                gone = {here.peers["back"].peer_id}
                await chain.mend(here.route("front", "back again"), here.addresses, gone, history)
                for position in range(PROMPT + TOKENS, PROMPT + 2 * TOKENS):
                    await chain.step(here.rows(1), position)
            await here.all_over()
        tokens = {name: the_one(here.ledgers.receipts(name)).signed for name in here.peers}
        assert all(signed.is_mutual for signed in tokens.values())
        counts = {name: signed.receipt.tally for name, signed in tokens.items()}
        assert (counts["front"].prefill_tokens, counts["front"].decode_tokens) == (PROMPT, 2 * TOKENS)
        assert (counts["back"].prefill_tokens, counts["back"].decode_tokens) == (PROMPT, TOKENS)
        replayed = PROMPT + TOKENS  # the successor reads all of it, in one go
        assert (counts["back again"].prefill_tokens, counts["back again"].decode_tokens) == (replayed, TOKENS)
        asked = {kept.peer: kept.signed for kept in here.ledgers.receipts("asker")}
        assert asked == {here.peers[name].peer_id: signed for name, signed in tokens.items()}

    run(main())


def test_a_session_that_is_cut_off_has_been_signed_for(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            async with here.chain("front", "back") as chain:
                await here.answer(chain)
                await here.peers["back"].handler.drain(0.05)
            await here.all_over()
        assert the_one(here.ledgers.receipts("back")).signed.is_mutual
        assert all(kept.signed.is_mutual for kept in here.ledgers.receipts("asker"))

    run(main())


def test_a_hop_that_vanishes_leaves_one_signature_on_each_side(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            async with here.chain("front", "back") as chain:
                await here.answer(chain)
                await here.peers["back"].transport.close()
                with pytest.raises(HopLost):
                    await chain.step(here.rows(1), PROMPT + TOKENS)
            await here.all_over()
        theirs = the_one(here.ledgers.receipts("back"))
        mine = {kept.peer: kept for kept in here.ledgers.receipts("asker")}[here.peers["back"].peer_id]
        assert theirs.note == "not signed by the asker"
        assert mine.note == "the server has sent no receipt"
        assert (theirs.signed.asker_signature, mine.signed.server_signature) == (None, None)
        assert theirs.signed.receipt.tally.tokens == mine.signed.receipt.tally.tokens == PROMPT + TOKENS
        front = the_one(here.ledgers.receipts("front")).signed  # has computed what never came out
        assert front.is_mutual
        assert PROMPT + TOKENS <= front.receipt.tally.tokens <= PROMPT + TOKENS + 1

    run(main())


def test_a_long_answer_is_signed_for_while_it_goes_on(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            async with here.chain("front", "back") as chain:
                await here.answer(chain, RECEIPT_TOKENS + 1, 0)
                asker = here.ledgers.of("asker")
                await until(lambda: sum(row.receipts for row in asker.rows(1)) == 2)
                await here.answer(chain, 5, 3, at=RECEIPT_TOKENS + 1)
            await here.all_over()
        for name in here.peers:
            signed = the_one(here.ledgers.receipts(name)).signed  # one running total, not two receipts
            assert signed.is_mutual
            assert signed.receipt.tally.tokens == RECEIPT_TOKENS + 9

    run(main())


def test_a_session_that_rests_is_signed_for_at_once_and_goes_on_counting(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            asker = here.ledgers.of("asker")
            async with here.chain("front", "back") as chain:
                await here.answer(chain)
                resting = asyncio.create_task(chain.rest(asyncio.get_running_loop().time() + 60.0))
                await until(lambda: sum(row.receipts for row in asker.rows(1)) == 2)
                resting.cancel()
                await asyncio.wait((resting,))
                await chain.extend(PROMPT, 1024)
                await here.answer(chain, 4, 6, at=PROMPT)
            await here.all_over()
        for name in here.peers:
            signed = the_one(here.ledgers.receipts(name)).signed
            assert signed.is_mutual
            assert signed.receipt.tally.tokens == PROMPT + TOKENS + 10

    run(main())


def test_a_server_that_claims_too_much_is_refused_and_both_remember(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, cheats=("back",)) as here:
            async with here.chain("front", "back") as chain:
                await here.answer(chain)
            await here.all_over()
            used = {row.peer_id: row for row in here.ledgers.of("asker").rows(1)}
        back = here.peers["back"].peer_id
        assert used[back].used_tokens == (PROMPT + TOKENS) * len(BACK)
        assert used[back].receipts == 0
        theirs = the_one(here.ledgers.receipts("back"))
        assert theirs.note.startswith("refused by the asker: over_claim")
        assert theirs.signed.asker_signature is None
        mine = [kept for kept in here.ledgers.receipts("asker") if kept.peer == back]
        assert {kept.signed.server_signature is None for kept in mine} == {True, False}
        [evidence] = [kept for kept in mine if kept.signed.server_signature is not None]
        assert "decode tokens claimed, at most" in evidence.note
        assert the_one(here.ledgers.receipts("front")).signed.is_mutual

    run(main())


def test_an_asker_that_keeps_no_ledger_is_served_all_the_same(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path, counting=False) as here:
            async with here.chain("front", "back") as chain:
                await here.answer(chain)
            await here.all_over()
        kept = the_one(here.ledgers.receipts("front"))
        assert not kept.signed.is_mutual
        assert kept.signed.receipt.tally.tokens == PROMPT + TOKENS

    run(main())


def test_nobody_signs_for_what_a_machine_does_for_itself(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with swarm(model, tmp_path) as here:
            front = here.peers["front"]
            books = Books(Identity.load_or_create(tmp_path / "front"), here.ledgers.of("front"))
            async with open_chain(
                here.route("front"),
                here.addresses,
                front.transport,
                tokens=64,
                wire_dtype=WireDtype.FLOAT32,
                timings=QUICK,
                books=books,
            ) as chain:
                await here.answer(chain)
            await here.all_over()
            assert here.ledgers.of("front").rows(1) == []
        assert here.ledgers.receipts("front") == []

    run(main())
