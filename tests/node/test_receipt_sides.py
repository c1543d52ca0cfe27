"""The two sides of a receipt without a stream between them, and what a hostile one can do to the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from peerllm.errors import BadFrame
from peerllm.generation.usage import shares
from peerllm.giving.accounts import Accounts
from peerllm.giving.asking_side import Using
from peerllm.giving.receipts import Receipt, sign_as_server
from peerllm.giving.serving_side import RECEIPT_TOKENS, Giving
from peerllm.giving.store import KeptReceipt, Store
from peerllm.wire.messages import Contested, Countersigned
from peerllm.wire.messages import Receipt as ReceiptMessage
from tests.support.receipts import Clock, identity, service

ROW_BYTES = 1000


class Home:
    """One side's ledger, read when it is asked for."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.file = folder / "ledger.sqlite"
        self.accounts = Accounts(self.file, clock=clock)

    def kept(self) -> list[KeptReceipt]:
        self.accounts.rows(1)  # writes what is left
        store = Store.reading(self.file)
        try:
            return list(store.receipts())
        finally:
            store.close()


class Pair:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.at_server, self.at_asker = Home(folder / "server", self.clock), Home(folder / "asker", self.clock)
        sign = identity("server").sign
        self.giving = Giving(service(), sign, self.at_server.accounts, self.clock, lambda: 20.0)
        self.using = Using(service(), identity("asker").sign, self.at_asker.accounts, self.clock)

    def step(self, rows: int = 1, *, computed: int | None = None) -> None:
        """The asker has so many rows computed, and the server counts them, or others."""
        self.clock.now += 1.0
        self.using.sent(rows, decode=rows == 1, row_bytes=ROW_BYTES)
        count = rows if computed is None else computed
        self.giving.computed(count, decode=rows == 1, busy_us=500_000, bytes_in=10 * rows)
        self.giving.passes_on(10 * rows)
        self.using.answered(0.25)

    def claim(self, *, last: bool = False) -> ReceiptMessage:
        claim = self.giving.receipt(last=last)
        assert claim is not None
        return claim


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.at_server.accounts.close()
    pair.at_asker.accounts.close()


def resigned(claim: ReceiptMessage, **changes: object) -> ReceiptMessage:
    """What the server could have claimed instead."""
    receipt = replace(Receipt.unpack(claim.body), **changes)  # pyright: ignore[reportArgumentType]
    return ReceiptMessage(receipt.pack(), sign_as_server(receipt, identity("server").sign))


def test_both_keep_the_same_receipt(pair: Pair) -> None:
    pair.step(9)
    pair.step()
    assert not pair.using.settled.is_set()
    answer = pair.using.take(pair.claim())
    assert isinstance(answer, Countersigned)
    assert pair.using.settled.is_set()
    assert not pair.giving.settled.is_set()
    pair.giving.take(answer)
    assert pair.giving.settled.is_set()
    pair.giving.close()
    pair.using.close()
    [theirs], [mine] = pair.at_server.kept(), pair.at_asker.kept()
    assert theirs.signed == mine.signed
    assert mine.signed.is_mutual
    [gave], [used] = pair.at_server.accounts.rows(1), pair.at_asker.accounts.rows(1)
    assert gave.gave_tokens == used.used_tokens == 10 * 8
    assert gave.gave_bytes == used.used_bytes == 200
    assert (gave.gave_s, used.used_s) == (1.0, 0.5)
    assert gave.gave_wh == pytest.approx(20.0 * 1.0 / 3600)


def test_a_receipt_is_due_after_so_many_tokens_and_one_at_a_time(pair: Pair) -> None:
    pair.step(RECEIPT_TOKENS - 1)
    assert pair.giving.due() is None
    pair.step()
    first = pair.giving.due()
    assert first is not None
    pair.step(RECEIPT_TOKENS)
    assert pair.giving.due() is None  # the first has no answer yet
    last = pair.giving.receipt(last=True)
    assert last is not None
    pair.step()
    assert pair.giving.receipt(last=True) is None  # two are enough
    for claim in (first, last):
        answer = pair.using.take(claim)
        assert isinstance(answer, Countersigned)
        pair.giving.take(answer)
    assert len(pair.at_server.kept()) == 1


def test_a_countersignature_that_is_none_ends_the_receipts_and_nothing_else(pair: Pair) -> None:
    pair.step(5)
    pair.claim()
    pair.giving.take(Countersigned(bytes(64)))
    pair.step(RECEIPT_TOKENS)
    assert pair.giving.due() is None
    pair.giving.close()
    [kept] = pair.at_server.kept()
    assert (kept.signed.is_mutual, kept.note) == (False, "not signed by its asker")
    assert pair.at_server.accounts.today() == ((5 + RECEIPT_TOKENS) * 8, 0)


@pytest.mark.parametrize("answer", [Countersigned(bytes(64)), Contested("no")])
def test_an_answer_to_no_receipt_is_a_bad_frame(answer: Countersigned | Contested, pair: Pair) -> None:
    with pytest.raises(BadFrame):
        pair.giving.take(answer)
    pair.step()
    pair.claim()
    pair.giving.take(Contested("no"))
    with pytest.raises(BadFrame):
        pair.giving.take(answer)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"service": service(bytes(16))}, "foreign"),
        ({"service": service(asker="third")}, "foreign"),
        ({"began_ms": 0}, "clock"),
        ({"ended_ms": 2**53 - 1}, "clock"),
    ],
)
def test_a_claim_that_is_not_this_sessions_is_contested_once(change: dict[str, object], fault: str, pair: Pair) -> None:
    pair.step(5)
    claim = pair.claim()
    answer = pair.using.take(resigned(claim, **change))
    assert isinstance(answer, Contested)
    assert answer.reason.startswith(fault)
    assert pair.using.settled.is_set()  # nothing is waited for
    assert all(pair.using.take(claim) is None for _ in range(1000))  # nor looked at


def test_a_claim_that_the_server_has_not_signed_is_contested(pair: Pair) -> None:
    pair.step(5)
    claim = pair.claim()
    answer = pair.using.take(replace(claim, signature=bytes(64)))
    assert isinstance(answer, Contested)
    assert answer.reason.startswith("signature")


def test_a_replay_is_signed_once_and_never_adds_up(pair: Pair) -> None:
    pair.step(5)
    claim = pair.claim()
    assert pair.using.take(claim) == pair.using.take(claim)
    assert len(pair.at_asker.kept()) == 1
    assert pair.at_asker.accounts.today() == (0, 40)
    pair.step(5)
    pair.giving.take(Countersigned(bytes(64)))
    assert isinstance(pair.using.take(resigned(claim, ended_ms=0, began_ms=0)), Contested)


def test_of_a_step_that_broke_off_either_count_is_right(pair: Pair) -> None:
    pair.step(5)
    pair.using.sent(1, decode=True, row_bytes=ROW_BYTES)
    pair.using.broken_off()
    pair.giving.computed(1, decode=True, busy_us=0, bytes_in=0)  # it has computed it all the same
    assert isinstance(pair.using.take(pair.claim()), Countersigned)
    pair.using.close()
    assert pair.at_asker.accounts.today() == (0, 6 * 8)


def test_less_than_was_done_is_signed_and_what_came_out_is_counted(pair: Pair) -> None:
    pair.step(5, computed=3)
    assert isinstance(pair.using.take(pair.claim()), Countersigned)
    assert not pair.using.settled.is_set()
    pair.using.close()
    assert pair.at_asker.accounts.today() == (0, 5 * 8)
    mutual = [kept.signed.is_mutual for kept in pair.at_asker.kept()]
    assert sorted(mutual) == [False, True]


def test_nothing_is_said_of_a_session_in_which_nothing_was_computed(pair: Pair) -> None:
    assert pair.giving.receipt(last=True) is None
    pair.giving.close()
    pair.using.close()
    assert (pair.at_server.kept(), pair.at_asker.kept()) == ([], [])


def test_waiting_is_shared_out_as_the_hops_say_that_they_had_it() -> None:
    timings = ((100, 200), (0, 300), (0, 0))
    assert shares(2.0, [timings, timings], 3) == [1.0, 1.0, 0.0]
    assert shares(3.0, [], 3) == [1.0, 1.0, 1.0]
    assert sum(shares(1.0, [timings], 2)) == pytest.approx(1.0)
