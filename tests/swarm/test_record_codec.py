"""Records as bytes: what is written is read back, and whatever else arrives is refused by name."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from peerllm_swarm.errors import BadRecord
from peerllm_swarm.identity import Identity
from peerllm_swarm.record_codec import (
    CLOCK_SKEW_S,
    MAX_LIFETIME_S,
    Withdrawal,
    check_time,
    decode_claim,
    decode_record,
    encode_record,
    encode_withdrawal,
)
from peerllm_swarm.records import MAX_RECORD_BYTES, PeerState
from peerllm_swarm.span import BlockSpan
from tests.swarm.sample_records import SWARM, largest_record, sample_record


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.load_or_create(tmp_path / "home")


def fault_of(data: bytes, now: float, swarm: str = SWARM) -> str:
    with pytest.raises(BadRecord) as caught:
        decode_record(data, swarm=swarm, now=now)
    return caught.value.fault


def resigned(identity: Identity, data: bytes, change: dict[int, object], *, version: int = 2) -> bytes:
    """`data` with some fields of its body replaced or added, signed by `identity`."""
    body = msgpack.unpackb(msgpack.unpackb(data)[1])
    for index, value in change.items():
        body[index : index + 1] = [value]
    packed = msgpack.packb(body)
    signature = identity.sign(b"peerllm record\0" + bytes([version]) + packed)
    return msgpack.packb([version, packed, signature, b""])


def test_record_is_read_back(identity: Identity):
    for record in (sample_record(identity), sample_record(identity, span=None, state=PeerState.IDLE, rtt_ms=())):
        assert decode_record(encode_record(record, identity), swarm=SWARM, now=record.issued_at) == record


def test_largest_record_fits(identity: Identity):
    record = largest_record(identity)
    data = encode_record(record, identity)
    assert 2500 < len(data) < MAX_RECORD_BYTES
    assert decode_record(data, swarm=SWARM, now=record.issued_at) == record


def test_same_record_gives_same_bytes(identity: Identity):
    record = sample_record(identity)
    assert encode_record(record, identity) == encode_record(replace(record), identity)


def test_every_changed_byte_is_noticed(identity: Identity):
    record = sample_record(identity)
    data = encode_record(record, identity)
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        assert fault_of(changed, record.issued_at) in ("malformed", "version", "foreign", "signature", "lifetime")


def test_every_truncation_is_malformed(identity: Identity):
    record = sample_record(identity)
    data = encode_record(record, identity)
    assert {fault_of(data[:length], record.issued_at) for length in range(len(data))} == {"malformed"}


def test_record_holds_from_issue_to_expiry(identity: Identity):
    record = sample_record(identity)
    data = encode_record(record, identity)
    assert fault_of(data, record.expires_at) == "expired"
    assert fault_of(data, record.issued_at - CLOCK_SKEW_S - 1) == "future"
    assert decode_record(data, swarm=SWARM, now=record.expires_at - 0.01)
    assert decode_record(data, swarm=SWARM, now=record.issued_at - CLOCK_SKEW_S + 1)


def test_foreign_and_newer_records_are_told_apart(identity: Identity):
    record = sample_record(identity)
    data = encode_record(record, identity)
    assert fault_of(data, record.issued_at, swarm="fedcba9876543210") == "foreign"
    assert fault_of(resigned(identity, data, {}, version=3), record.issued_at) == "version"
    assert fault_of(bytes(MAX_RECORD_BYTES + 1), record.issued_at) == "oversized"


def test_only_the_named_peer_can_sign(identity: Identity, tmp_path: Path):
    other = Identity.load_or_create(tmp_path / "other")
    record = sample_record(identity)
    data = encode_record(record, identity)
    assert fault_of(resigned(other, data, {}), record.issued_at) == "signature"
    with pytest.raises(BadRecord, match="not signed by"):
        encode_record(record, other)


def test_fields_of_a_newer_minor_version_are_ignored(identity: Identity):
    record = sample_record(identity)
    data = resigned(identity, encode_record(record, identity), {33: "new", 34: [1, 2]})
    assert decode_record(data, swarm=SWARM, now=record.issued_at) == record


@pytest.mark.parametrize("fields", range(25, 33))
def test_record_of_an_older_minor_version_is_read(identity: Identity, fields: int):
    record = sample_record(identity)
    body = msgpack.unpackb(msgpack.unpackb(encode_record(record, identity))[1])
    packed = msgpack.packb(body[:fields])
    data = msgpack.packb([2, packed, identity.sign(b"peerllm record\0\2" + packed), b""])
    names = ("lends", "loaded", "load_left_s", "power", "speeds", "group", "members", "group_room")[fields - 25 :]
    defaults = {field.name: field.default for field in dataclasses.fields(record) if field.name in names}
    assert decode_record(data, swarm=SWARM, now=record.issued_at) == replace(record, **defaults)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (1, "12D3KooW"),
        (1, b"12D3KooW"),
        (2, -1),
        (2, True),
        (2, 2**60),
        (2, 1.0),
        (3, "now"),
        (3, float("nan")),
        (4, float("inf")),
        (5, "dreaming"),
        (6, "n" * 129),
        (6, "bell\a"),
        (6, "\x1b[2J"),
        (6, "\u202egnirts"),
        (8, ["/ip4/1.2.3.4/udp/1"]),
        (8, ["/ip4/1.2.3.4/tcp/7338/p2p/12D3KooW"]),
        (8, ["/ip4/1.2.3.4/tcp/0"]),
        (8, ["/dns4/" + "a" * 200 + "/tcp/1"]),
        (8, ["/ip4/1.2.3.4/tcp/1"] * 9),
        (8, "/ip4/1.2.3.4/tcp/1"),
        (11, 4097),
        (12, [0, 31]),
        (12, [3, 3]),
        (12, [0]),
        (12, [0, 1.0]),
        (14, -1.0),
        (14, 1),
        (16, 2**53 + 1),
        (19, 1),
        (21, [["12D3KooW", 1.0]]),
        (21, [[]]),
        (22, -1.0),
        (23, [["12D3KooW", [0, 1]]]),
        (23, [[0, 1]] * 11),
        (24, [["m" * 129, 1.0]]),
        (24, [["m", float("nan")]]),
        (24, [["m", 1.0, 2.0]]),
        (25, ["f" * 17]),
        (25, ["m"] * 5),
        (26, -0.5),
        (27, float("inf")),
        (30, "12D3KooW"),
        (30, None),
        (31, ["12D3KooW"]),
        (32, -1.0),
    ],
)
def test_field_of_wrong_type_or_size_is_malformed(identity: Identity, index: int, value: object):
    record = sample_record(identity)
    data = resigned(identity, encode_record(record, identity), {index: value})
    assert fault_of(data, record.issued_at) == "malformed"


def test_group_is_read_back(identity: Identity, tmp_path: Path):
    others = tuple(Identity.load_or_create(tmp_path / str(number)).peer_id for number in range(7))
    lead = sample_record(identity, members=others, plan=(), group_room=4.5)
    member = sample_record(identity, group=others[0], span=None, state=PeerState.IDLE)
    for record in (lead, member):
        assert decode_record(encode_record(record, identity), swarm=SWARM, now=record.issued_at) == record


def test_member_of_a_group_serves_no_span(identity: Identity, tmp_path: Path):
    """Whoever computes a slice is asked by its lead alone; no record can claim both."""
    one, other = (Identity.load_or_create(tmp_path / name).peer_id for name in ("one", "other"))
    impossible = (
        {"group": one},  # beside a span
        {"group": identity.peer_id, "span": None},
        {"group": one, "members": (other,), "span": None},
        {"members": (identity.peer_id,), "plan": ()},
        {"members": (one, one), "plan": ()},
        {"members": (one,)},  # beside a plan
    )
    for changes in impossible:
        with pytest.raises(BadRecord):
            encode_record(sample_record(identity, **changes), identity)


def test_too_many_round_trips_are_malformed(identity: Identity):
    record = sample_record(identity, rtt_ms=((identity.peer_id, 1.0),) * 17)
    with pytest.raises(BadRecord, match="at most 16"):
        encode_record(record, identity)


def test_longest_lifetime(identity: Identity):
    encode_record(sample_record(identity, lifetime_s=MAX_LIFETIME_S - 0.01), identity)
    for lifetime_s in (MAX_LIFETIME_S + 1, 0, -1):
        with pytest.raises(BadRecord) as caught:
            encode_record(sample_record(identity, lifetime_s=lifetime_s), identity)
        assert caught.value.fault == "lifetime"


def test_deep_nesting_is_malformed():
    assert fault_of(b"\x91" * 4000 + b"\x01", 0.0) == "malformed"
    assert fault_of(b"\xdd\xff\xff\xff\xff", 0.0) == "malformed"
    assert fault_of(b"\xc6\xff\xff\xff\xff", 0.0) == "malformed"


def test_withdrawal_is_read_back_and_is_no_record(identity: Identity):
    record = sample_record(identity, lifetime_s=MAX_LIFETIME_S - 0.01, span=BlockSpan(0, 30))
    withdrawal = Withdrawal.of(record, now=record.issued_at)
    data = encode_withdrawal(withdrawal, identity)
    assert decode_claim(data, swarm=SWARM) == withdrawal
    assert fault_of(data, record.issued_at) == "withdrawn"
    assert withdrawal.expires_at > record.expires_at
    check_time(withdrawal, now=record.expires_at)
