"""Receipts: one encoding of each, both signatures over all of it, and claims that the asker can sign."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerllm.errors import BadReceipt
from peerllm.giving.claims import MAX_SKEW_MS, check_claim
from peerllm.giving.receipts import BODY_BYTES, MAX_COUNT, Receipt, Service, SignedReceipt, Tally
from peerllm.wire.receipt_messages import RECEIPT_BYTES
from tests.support.receipts import NOW_MS, identity, receipt, service, signed

counts = st.integers(0, MAX_COUNT)
tallies = st.builds(Tally, counts, counts, counts, counts, counts)
services = st.builds(
    Service,
    st.sampled_from([identity("server").peer_id, identity("third").peer_id]),
    st.sampled_from([identity("asker").peer_id, identity("third").peer_id]),
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.integers(0, 2000),
    st.integers(2001, 4096),
    st.integers(0, 255),
)
receipts = st.builds(
    lambda service, tally, times: Receipt(service, tally, *sorted(times)),
    services,
    tallies,
    st.tuples(counts, counts),
)


@given(receipts)
def test_every_receipt_comes_back(one: Receipt) -> None:
    assert len(one.pack()) == BODY_BYTES == RECEIPT_BYTES
    assert Receipt.unpack(one.pack()) == one


def test_a_receipt_is_laid_out_as_documented() -> None:
    """The bytes of docs/protocol.md: a change here is a new version of receipts."""
    body = receipt().pack()
    assert body[:2].hex() == "0101"
    assert body[2:10].hex() == "00112233445566aa"
    assert body[74:90] == bytes(range(16))
    assert body[90:98].hex() == "0123456789abcdef"
    assert body[98:102].hex() == "00080010"
    assert [int.from_bytes(body[at : at + 8]) for at in range(102, 158, 8)] == [
        100,
        40,
        50_000,
        60_000,
        900,
        NOW_MS - 10_000,
        NOW_MS,
    ]


@given(st.integers(0, BODY_BYTES - 1), st.integers(1, 255))
def test_any_altered_byte_is_found(at: int, change: int) -> None:
    whole = signed(receipt())
    body = bytearray(whole.receipt.pack())
    body[at] ^= change
    with pytest.raises(BadReceipt):
        replace(whole, receipt=Receipt.unpack(bytes(body))).check()


@given(st.integers(0, 63), st.integers(1, 255), st.sampled_from(["server_signature", "asker_signature"]))
def test_any_altered_byte_of_a_signature_is_found(at: int, change: int, which: str) -> None:
    whole = signed(receipt())
    signature = bytearray(getattr(whole, which))
    signature[at] ^= change
    with pytest.raises(BadReceipt, match="not signed"):
        replace(whole, **{which: bytes(signature)}).check()


@given(st.binary(max_size=2 * BODY_BYTES) | st.binary(min_size=BODY_BYTES, max_size=BODY_BYTES))
def test_any_bytes_are_a_receipt_of_one_encoding_or_refused(body: bytes) -> None:
    try:
        read = Receipt.unpack(body)
    except BadReceipt:
        return
    assert read.pack() == body


def test_one_signature_is_enough_to_show_who_said_it_and_none_is_not() -> None:
    signed(receipt(), asker=None).check()
    signed(receipt(), server=None).check()
    signed(receipt()).check()
    assert signed(receipt()).is_mutual
    with pytest.raises(BadReceipt, match="nobody"):
        SignedReceipt(receipt()).check()


def test_the_signature_of_one_side_never_stands_for_the_others() -> None:
    both = signed(receipt())
    with pytest.raises(BadReceipt):
        SignedReceipt(both.receipt, both.asker_signature, both.server_signature).check()
    with pytest.raises(BadReceipt):
        signed(receipt(), server="third").check()
    with pytest.raises(BadReceipt):
        signed(receipt(), asker="third").check()


@pytest.mark.parametrize(
    "change",
    [
        {"server": "12D3KooWNobody"},
        {"asker": ""},
        {"asker": None},
        {"session": bytes(15)},
        {"swarm": "0" * 15},
        {"swarm": "ABCDEF0123456789"},
        {"fingerprint": "zz" * 8},
        {"enter": 16},
        {"enter": -1},
        {"exit": 4097},
        {"protocol": 256},
    ],
)
def test_nonsense_is_refused_when_built(change: dict[str, object]) -> None:
    with pytest.raises(BadReceipt):
        replace(service(), **change)  # pyright: ignore[reportArgumentType] - as bytes of a stranger may say


@pytest.mark.parametrize("count", [-1, MAX_COUNT + 1, 1.0, True, "1", None])
def test_no_count_is_negative_or_beyond_what_json_holds(count: object) -> None:
    with pytest.raises(BadReceipt):
        Tally(decode_tokens=count)  # pyright: ignore[reportArgumentType]


MOST = Tally(100, 40, 90_000, 90_000, MAX_COUNT)


def claimed(one: Receipt, *, before: Receipt | None = None, most: Tally = MOST, now_ms: int = NOW_MS) -> None:
    check_claim(one, service(), most, before, NOW_MS - 10_000, now_ms)


def test_what_the_server_was_sent_can_be_claimed_and_less_as_well() -> None:
    claimed(receipt(40))
    claimed(receipt(40), before=receipt(40))
    claimed(receipt(3))


@pytest.mark.parametrize(
    ("one", "fault"),
    [
        pytest.param(receipt(41), "over_claim", id="a token too many"),
        pytest.param(replace(receipt(), tally=Tally(101, 39)), "over_claim", id="prefill for decode"),
        pytest.param(replace(receipt(), tally=Tally(100, 40, 90_001)), "over_claim", id="bytes"),
        pytest.param(replace(receipt(), tally=Tally(100, 40, 0, 0, 11_001)), "over_claim", id="busy for too long"),
        pytest.param(receipt(of=service(bytes(16))), "foreign", id="another session"),
        pytest.param(receipt(of=service(server="third")), "foreign", id="another server"),
        pytest.param(receipt(of=service(asker="third")), "foreign", id="another asker"),
        pytest.param(receipt(of=replace(service(), exit=17)), "foreign", id="more blocks"),
        pytest.param(receipt(of=replace(service(), swarm="1" * 16)), "foreign", id="another swarm"),
        pytest.param(receipt(of=replace(service(), protocol=2)), "foreign", id="another protocol"),
        pytest.param(receipt(at_ms=NOW_MS + MAX_SKEW_MS + 10_001), "clock", id="from the future"),
        pytest.param(receipt(at_ms=NOW_MS - MAX_SKEW_MS - 1), "clock", id="long ago"),
        pytest.param(replace(receipt(), began_ms=0), "clock", id="since 1970"),
    ],
)
def test_what_the_asker_cannot_sign_is_refused_with_a_word(one: Receipt, fault: str) -> None:
    with pytest.raises(BadReceipt) as refused:
        claimed(one)
    assert refused.value.fault == fault


def test_a_replay_is_refused_and_so_is_a_second_beginning() -> None:
    with pytest.raises(BadReceipt, match="less than was signed") as stale:
        claimed(receipt(20), before=receipt(30))
    assert stale.value.fault == "stale"
    again = receipt(40)
    with pytest.raises(BadReceipt) as second:
        claimed(replace(again, began_ms=again.began_ms + 1), before=receipt(30))
    assert second.value.fault == "foreign"


@given(tallies, tallies)
def test_a_running_total_only_grows(one: Tally, other: Tally) -> None:
    larger = one.at_least(other)
    assert larger.covers(one)
    assert larger.covers(other)
    assert one.plus(larger.since(one)) == larger
