"""What a peer computed for another one in one session, as bytes that both can sign and anybody can check.

Fields of fixed size in a fixed order, so that there is one encoding of each receipt and every changed byte is found.
Server and asker sign the same bytes behind different words: a signature of one never stands for the other's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields

from peerllm.errors import BadReceipt
from peerllm_swarm.identity import peer_id_of_bytes, public_key_bytes, verify
from peerllm_swarm.span import MAX_BLOCKS, PeerId

RECEIPT_VERSION = 1
MAX_COUNT = 2**53 - 1
"""Of tokens, bytes and milliseconds: JSON's numbers hold no more exactly."""

NO_SWARM = "0" * 16

# versions of receipt and protocol; swarm, server, asker, session, fingerprint; enter, exit; `Tally`; began, ended
_LAYOUT = struct.Struct(">BB8s32s32s16s8sHH7Q")
BODY_BYTES = _LAYOUT.size

_SERVER_SIGNS = b"peerllm receipt server\0"
_ASKER_SIGNS = b"peerllm receipt asker\0"

Sign = Callable[[bytes], bytes]
"""`Identity.sign` of one side."""


@dataclass(frozen=True, slots=True)
class Service:
    """Who computed which blocks for whom, in which session."""

    server: PeerId
    asker: PeerId
    swarm: str  # 16 hex digits, as in records
    session: bytes
    fingerprint: str
    enter: int
    exit: int
    protocol: int

    def __post_init__(self) -> None:
        for peer in (self.server, self.asker):
            if not isinstance(peer, str) or public_key_bytes(peer) is None:
                raise BadReceipt(f"no peer id: {peer!r:.80}")
        if not (isinstance(self.session, bytes) and len(self.session) == 16):
            raise BadReceipt(f"a session id is 16 bytes, not {self.session!r:.80}")
        for digits in (self.swarm, self.fingerprint):
            _hex8(digits)
        _check_count(self.exit, "exit", MAX_BLOCKS)
        _check_count(self.enter, "enter", self.exit - 1)
        _check_count(self.protocol, "protocol", 255)

    @property
    def blocks(self) -> int:
        return self.exit - self.enter


@dataclass(frozen=True, slots=True)
class Tally:
    """What a session has cost so far; only ever grows."""

    prefill_tokens: int = 0
    decode_tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    busy_ms: int = 0
    """Time of the server's engine, of which each step's is shared out by rows among the sessions in it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_count(getattr(self, field.name), field.name)

    @property
    def tokens(self) -> int:
        return self.prefill_tokens + self.decode_tokens

    def plus(self, other: Tally) -> Tally:
        return Tally(*(mine + more for mine, more in zip(self.counts(), other.counts(), strict=True)))

    def at_least(self, other: Tally) -> Tally:
        """The larger one of each count."""
        return Tally(*map(max, self.counts(), other.counts()))

    def since(self, before: Tally) -> Tally:
        """What has come on top of `before`, from which this one has grown."""
        return Tally(*(now - then for now, then in zip(self.counts(), before.counts(), strict=True)))

    def covers(self, other: Tally) -> bool:
        """Is no count of the other one larger?"""
        return all(mine >= theirs for mine, theirs in zip(self.counts(), other.counts(), strict=True))

    def counts(self) -> tuple[int, int, int, int, int]:
        return self.prefill_tokens, self.decode_tokens, self.bytes_in, self.bytes_out, self.busy_ms


@dataclass(frozen=True, slots=True)
class Receipt:
    """A service and its running total; times are Unix milliseconds of the server's clock."""

    service: Service
    tally: Tally
    began_ms: int
    ended_ms: int

    def __post_init__(self) -> None:
        _check_count(self.ended_ms, "ended_ms")
        if type(self.began_ms) is not int or not 0 <= self.began_ms <= self.ended_ms:
            raise BadReceipt(f"it ended at {self.ended_ms} and began at {self.began_ms!r:.40}", fault="clock")

    @property
    def token_blocks(self) -> int:
        """Tokens times blocks: what was computed."""
        return self.tally.tokens * self.service.blocks

    @property
    def total_bytes(self) -> int:
        return self.tally.bytes_in + self.tally.bytes_out

    @property
    def key(self) -> tuple[PeerId, PeerId, bytes, int]:
        """Receipts of the same key are running totals of one another: the last one counts, and they never add up.

        A server that the asker comes back to within one session begins anew, hence the time.
        """
        return self.service.server, self.service.asker, self.service.session, self.began_ms

    def pack(self) -> bytes:
        one = self.service
        return _LAYOUT.pack(
            RECEIPT_VERSION,
            one.protocol,
            bytes.fromhex(one.swarm),
            public_key_bytes(one.server),
            public_key_bytes(one.asker),
            one.session,
            bytes.fromhex(one.fingerprint),
            one.enter,
            one.exit,
            *self.tally.counts(),
            self.began_ms,
            self.ended_ms,
        )

    @classmethod
    def unpack(cls, body: bytes) -> Receipt:
        """Raises `BadReceipt`."""
        if len(body) != BODY_BYTES:
            raise BadReceipt(f"a receipt is {BODY_BYTES} bytes, not {len(body)}")
        version, protocol, swarm, server, asker, session, fingerprint, enter, exit_, *counts = _LAYOUT.unpack(body)
        if version != RECEIPT_VERSION:
            raise BadReceipt(f"receipt version {version}, this peer knows {RECEIPT_VERSION}", fault="version")
        *tally, began_ms, ended_ms = counts
        service = Service(
            peer_id_of_bytes(server),
            peer_id_of_bytes(asker),
            swarm.hex(),
            session,
            fingerprint.hex(),
            enter,
            exit_,
            protocol,
        )
        return cls(service, Tally(*tally), began_ms, ended_ms)


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with the signatures of both sides, or of the only one that was there to sign."""

    receipt: Receipt
    server_signature: bytes | None = None
    asker_signature: bytes | None = None

    @property
    def is_mutual(self) -> bool:
        return self.server_signature is not None and self.asker_signature is not None

    def check(self) -> None:
        """Raise `BadReceipt` unless somebody has signed it and every signature holds."""
        if self.server_signature is None and self.asker_signature is None:
            raise BadReceipt("nobody has signed it", fault="signature")
        service, body = self.receipt.service, self.receipt.pack()
        for side, peer, words, signature in (
            ("server", service.server, _SERVER_SIGNS, self.server_signature),
            ("asker", service.asker, _ASKER_SIGNS, self.asker_signature),
        ):
            if signature is not None and not verify(peer, words + body, signature):
                raise BadReceipt(f"not signed by its {side}", fault="signature")


def sign_as_server(receipt: Receipt, sign: Sign) -> bytes:
    return sign(_SERVER_SIGNS + receipt.pack())


def sign_as_asker(receipt: Receipt, sign: Sign) -> bytes:
    return sign(_ASKER_SIGNS + receipt.pack())


def _hex8(digits: str) -> None:
    if not isinstance(digits, str) or len(digits) != 16 or set(digits) - set("0123456789abcdef"):
        raise BadReceipt(f"16 lower-case hex digits expected, not {digits!r:.40}")


def _check_count(value: int, name: str, limit: int = MAX_COUNT) -> None:
    if type(value) is not int or not 0 <= value <= limit:
        raise BadReceipt(f"{name} must be a whole number within 0..{limit}, not {value!r:.40}")
