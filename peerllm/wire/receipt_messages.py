"""What a hop says of its work for a session, and what the asker says to that (`peerllm.giving`)."""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.errors import BadFrame
from peerllm.wire.message_checks import clipped, replace_field

RECEIPT_BYTES = 158
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Receipt:
    """Hop to asker: what the session has cost so far, packed (`giving.receipts`) and signed by the hop."""

    body: bytes
    signature: bytes

    def __post_init__(self) -> None:
        _check_bytes(self.body, RECEIPT_BYTES, "the body of a receipt")
        _check_bytes(self.signature, SIGNATURE_BYTES, "a signature")


@dataclass(frozen=True, slots=True)
class Countersigned:
    """Asker to hop: the asker's signature of the first `Receipt` that it has not answered yet."""

    signature: bytes

    def __post_init__(self) -> None:
        _check_bytes(self.signature, SIGNATURE_BYTES, "a signature")


@dataclass(frozen=True, slots=True)
class Contested:
    """Asker to hop: it does not sign the first `Receipt` that it has not answered yet, nor any later one."""

    reason: str

    def __post_init__(self) -> None:
        replace_field(self, "reason", clipped(self.reason))


def _check_bytes(value: bytes, size: int, name: str) -> None:
    if not isinstance(value, bytes) or len(value) != size:
        raise BadFrame(f"{name} is {size} bytes, not {value!r:.80}")
