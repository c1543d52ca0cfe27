"""Records as bytes: small, versioned, signed, and read as if a stranger had made them up.

    body = [swarm, peer_id, sequence, issued_at, expires_at, ...]   msgpack, in the envelope of record_envelope.py

The signature covers the version and the body exactly as sent. A body that ends after its first five fields is a
withdrawal: it cancels the peer's records up to that sequence. Fields after the known ones belong to a newer minor
version and are ignored; anything else that changes raises the version. docs/protocol.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from peerllm_swarm.errors import BadRecord, BadSpan
from peerllm_swarm.identity import Identity, is_peer_id
from peerllm_swarm.multiaddress import Multiaddress
from peerllm_swarm.record_envelope import open_envelope, seal, unpack_list
from peerllm_swarm.records import PeerRecord, PeerState
from peerllm_swarm.span import MAX_BLOCKS, BlockSpan, PeerId

CLOCK_SKEW_S = 10.0  # how far ahead of ours a peer's clock may be
MAX_LIFETIME_S = 300.0
MAX_ADDRESSES = 8
MAX_RTT_ENTRIES = 16
MAX_PLANNED_MOVES = 10
MAX_DEMANDED_MODELS = 4
MAX_LENT_MODELS = 4
MAX_SPEEDS = 2
MAX_MODE_LETTERS = 8
FINGERPRINT_DIGITS = 16
MAX_TEXT_BYTES = 128
MAX_GROUP_MEMBERS = 7  # beside the lead, in place of a plan: both together would not fit into a record

OwnerOf = Callable[[bytes], PeerId]
"""Whose certificate this is, if that peer is a member of the swarm; BadRecord if not."""

_OUTLIVES_S = 1.0
_MAX_INT = 2**53  # exact in every language's numbers


@dataclass(frozen=True)
class Withdrawal:
    """A peer's word that its records up to `sequence` hold no longer; forgotten after `expires_at`."""

    peer_id: PeerId
    swarm: str
    sequence: int
    issued_at: float
    expires_at: float

    @classmethod
    def of(cls, record: PeerRecord, *, now: float) -> Withdrawal:
        """Cancel `record` and all before it, for longer than it would have lived: the DHT keeps what expires last."""
        return cls(record.peer_id, record.swarm, record.sequence, now, max(record.expires_at, now) + _OUTLIVES_S)


def encode_record(record: PeerRecord, identity: Identity, certificate: bytes = b"") -> bytes:
    """The signed bytes of this peer's own record, the same for the same record.

    Raises:
        BadRecord: others would refuse it.
    """
    span = None if record.span is None else [record.span.start, record.span.end]
    body: list[object] = [
        *_header(record),
        record.state.value,
        record.name,
        record.software,
        list(record.addresses),
        record.model,
        record.fingerprint,
        record.blocks,
        span,
        record.capacity_blocks,
        float(record.decode_ms),
        float(record.prefill_tps),
        record.slots_free,
        record.cache_tokens_left,
        float(record.queue_ms),
        record.free_entry,
        float(record.claimed_at),
        [[peer, float(rtt_ms)] for peer, rtt_ms in record.rtt_ms],
        float(record.moving_until),
        [[peer, [span.start, span.end]] for peer, span in record.plan],
        [[model, float(per_minute)] for model, per_minute in record.demand],
        list(record.lends),
        float(record.loaded),
        float(record.load_left_s),
        record.power,
        [[mode, float(tokens_per_s), float(watts)] for mode, tokens_per_s, watts in record.speeds],
        record.group,
        list(record.members),
        float(record.group_room),
    ]
    data = seal(body, identity, certificate)
    decode_record(data, swarm=record.swarm, now=record.issued_at)
    return data


def encode_withdrawal(withdrawal: Withdrawal, identity: Identity, certificate: bytes = b"") -> bytes:
    """The signed bytes of this peer's own withdrawal."""
    return seal(_header(withdrawal), identity, certificate)


def decode_record(data: bytes, *, swarm: str, now: float) -> PeerRecord:
    """The record in `data`, if it is well formed, of this swarm, current, and signed by the peer it names.

    Raises:
        BadRecord: anything else, withdrawals included; `fault` says what.
    """
    claim = decode_claim(data, swarm=swarm)
    if isinstance(claim, Withdrawal):
        raise BadRecord("this is a withdrawal, not a record", fault="withdrawn")
    check_time(claim, now=now)
    return claim


def decode_claim(data: bytes, *, swarm: str, owner_of: OwnerOf | None = None) -> PeerRecord | Withdrawal:
    """Like `decode_record`, but withdrawals are welcome and the time is not looked at.

    With `owner_of`, as in every private swarm, nothing is read but the envelope until the certificate in it and
    then the signature have been found good.
    """
    envelope = open_envelope(data)
    if owner_of is None:
        claim = _read_body(_Fields(unpack_list(envelope.body)), swarm)
        envelope.check_signature(claim.peer_id)
        return claim
    owner = owner_of(envelope.certificate)
    envelope.check_signature(owner)
    claim = _read_body(_Fields(unpack_list(envelope.body)), swarm)
    if claim.peer_id != owner:
        raise BadRecord(f"{owner} signed a record of another peer", fault="signature")
    return claim


def check_time(claim: PeerRecord | Withdrawal, *, now: float) -> None:
    """Raise BadRecord unless `claim` holds at `now`."""
    if claim.expires_at <= now:
        raise BadRecord(f"expired {now - claim.expires_at:.1f} s ago", fault="expired")
    if claim.issued_at > now + CLOCK_SKEW_S:
        raise BadRecord(
            f"issued {claim.issued_at - now:.1f} s from now: set the clock of {claim.peer_id} or of this machine",
            fault="future",
        )


class _Fields:
    """Takes the values of a body one by one, each of the type and size expected at its place."""

    def __init__(self, values: list[object]) -> None:
        self._values = values
        self._next = 0

    @property
    def left(self) -> int:
        return len(self._values) - self._next

    def any(self) -> object:
        if not self.left:
            raise BadRecord("the record ends too early")
        self._next += 1
        return self._values[self._next - 1]

    def text(self) -> str:
        return _text(self.any())

    def count(self, limit: int = _MAX_INT) -> int:
        value = self.any()
        if type(value) is not int or not 0 <= value <= limit:
            raise BadRecord(f"a whole number from 0 to {limit} expected")
        return value

    def measure(self) -> float:
        return _measure(self.any())

    def flag(self) -> bool:
        value = self.any()
        if type(value) is not bool:
            raise BadRecord("true or false expected")
        return value

    def items(self, limit: int) -> list[object]:
        value = self.any()
        if type(value) is not list or len(cast(list[object], value)) > limit:
            raise BadRecord(f"a list of at most {limit} expected")
        return cast(list[object], value)


def _read_body(fields: _Fields, swarm: str) -> PeerRecord | Withdrawal:
    if fields.text() != swarm:
        raise BadRecord("a record of another swarm", fault="foreign")
    peer_id = _peer_id(fields.any())
    sequence, issued_at, expires_at = fields.count(), fields.measure(), fields.measure()
    longest_s = MAX_LIFETIME_S if fields.left else MAX_LIFETIME_S + _OUTLIVES_S
    if not 0 < expires_at - issued_at <= longest_s:
        raise BadRecord(f"a lifetime of at most {longest_s:g} s expected", fault="lifetime")
    if not fields.left:
        return Withdrawal(peer_id, swarm, sequence, issued_at, expires_at)
    record = PeerRecord(
        peer_id=peer_id,
        swarm=swarm,
        sequence=sequence,
        issued_at=issued_at,
        expires_at=expires_at,
        state=_state(fields.text()),
        name=fields.text(),
        software=fields.text(),
        addresses=tuple(_address(item) for item in fields.items(MAX_ADDRESSES)),
        model=fields.text(),
        fingerprint=fields.text(),
        blocks=fields.count(MAX_BLOCKS),
        span=_span(fields.any()),
        capacity_blocks=fields.count(),
        decode_ms=fields.measure(),
        prefill_tps=fields.measure(),
        slots_free=fields.count(),
        cache_tokens_left=fields.count(),
        queue_ms=fields.measure(),
        free_entry=fields.flag(),
        claimed_at=fields.measure(),
        rtt_ms=tuple(_round_trip(item) for item in fields.items(MAX_RTT_ENTRIES)),
        moving_until=fields.measure(),
        plan=tuple(_planned_move(item) for item in fields.items(MAX_PLANNED_MOVES)),
        demand=tuple(_demand(item) for item in fields.items(MAX_DEMANDED_MODELS)),
        # Records of the first minor version end here.
        lends=tuple(_fingerprint(item) for item in fields.items(MAX_LENT_MODELS)) if fields.left else (),
        loaded=min(1.0, fields.measure()) if fields.left else 0.0,
        load_left_s=fields.measure() if fields.left else 0.0,
        power=_mode(fields.any()) if fields.left else "",
        speeds=tuple(_speed(item) for item in fields.items(MAX_SPEEDS)) if fields.left else (),
        group=_lead(fields.any()) if fields.left else "",
        members=tuple(_peer_id(item) for item in fields.items(MAX_GROUP_MEMBERS)) if fields.left else (),
        group_room=fields.measure() if fields.left else 0.0,
    )
    _check_group(record)
    for span in (record.span, *(span for _, span in record.plan)):
        if span is not None and span.end > record.blocks:
            raise BadRecord(f"span {span} of a model of {record.blocks} blocks")
    return record


def _check_group(record: PeerRecord) -> None:
    if record.group and (record.span is not None or record.members or record.group == record.peer_id):
        raise BadRecord("a member of a group serves no span of its own, and leads no group")
    if record.members and (record.plan or record.peer_id in record.members):
        raise BadRecord("the lead of a group is none of its members, and plans no moves")
    if len(set(record.members)) < len(record.members):
        raise BadRecord("a peer is in a group once")


def _lead(value: object) -> PeerId | Literal[""]:
    return "" if value == "" else _peer_id(value)


def _peer_id(value: object) -> PeerId:
    if type(value) is not str or not is_peer_id(value):
        raise BadRecord("an Ed25519 peer id expected")
    return PeerId(value)


def _text(value: object) -> str:
    # Names end up on terminals: nothing in them may move a cursor or change a direction.
    if type(value) is not str or not value.isprintable() or len(value.encode()) > MAX_TEXT_BYTES:
        raise BadRecord(f"a printable text of at most {MAX_TEXT_BYTES} bytes expected")
    return value


def _fingerprint(value: object) -> str:
    if len(text := _text(value)) > FINGERPRINT_DIGITS:
        raise BadRecord(f"a fingerprint of {FINGERPRINT_DIGITS} digits expected")
    return text


def _measure(value: object) -> float:
    if type(value) is not float or not math.isfinite(value) or value < 0:
        raise BadRecord("a finite number of at least 0 expected")
    return value


def _state(text: str) -> PeerState:
    try:
        return PeerState(text)
    except ValueError as error:
        raise BadRecord("an unknown state") from error


def _address(value: object) -> str:
    if type(value) is not str or Multiaddress.try_parse(value) is None:
        raise BadRecord("an address that peerllm can dial expected")
    return value


def _span(value: object) -> BlockSpan | None:
    if value is None:
        return None
    ends = cast(list[object], value)
    if type(value) is not list or len(ends) != 2 or type(ends[0]) is not int or type(ends[1]) is not int:
        raise BadRecord("a span of two block numbers expected")
    try:
        return BlockSpan(ends[0], ends[1])
    except BadSpan as error:
        raise BadRecord("a span out of bounds") from error


def _round_trip(value: object) -> tuple[PeerId, float]:
    peer, rtt_ms = _pair(value)
    return _peer_id(peer), _measure(rtt_ms)


def _planned_move(value: object) -> tuple[PeerId, BlockSpan]:
    peer, ends = _pair(value)
    span = _span(ends)
    if span is None:
        raise BadRecord("a planned move without a span")
    return _peer_id(peer), span


def _demand(value: object) -> tuple[str, float]:
    model, per_minute = _pair(value)
    return _text(model), _measure(per_minute)


def _mode(value: object) -> str:
    if len(text := _text(value)) > MAX_MODE_LETTERS:
        raise BadRecord(f"a power mode of at most {MAX_MODE_LETTERS} letters expected")
    return text


def _speed(value: object) -> tuple[str, float, float]:
    if type(value) is not list or len(speed := cast(list[object], value)) != 3:
        raise BadRecord("a power mode with two measures expected")
    return _mode(speed[0]), _measure(speed[1]), _measure(speed[2])


def _pair(value: object) -> list[object]:
    pair = cast(list[object], value)
    if type(value) is not list or len(pair) != 2:
        raise BadRecord("two values expected")
    return pair


def _header(claim: PeerRecord | Withdrawal) -> list[object]:
    return [claim.swarm, claim.peer_id, claim.sequence, float(claim.issued_at), float(claim.expires_at)]
