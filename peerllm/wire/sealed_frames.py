"""Bytes of one direction of a direct connection, sealed: in records that nobody else can read, make, move or repeat.

    u32 length (little-endian, at most `MAX_SEALED_BYTES`), then so many bytes: AES-256-GCM of 1 to `MAX_PLAIN_BYTES`

The nonce is the number of the record in its direction. So a record that is missing, repeated, moved, changed or of
another connection or direction does not open, and nothing behind it is read. Nothing here does input or output.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from peerllm.errors import BadFrame
from peerllm.wire.channel_keys import KEY_BYTES, TAG_BYTES

MAX_PLAIN_BYTES = 64 << 10
MAX_SEALED_BYTES = MAX_PLAIN_BYTES + TAG_BYTES
RECORDS_PER_KEY = 1 << 16
"""At most 4 GiB, 2^28 blocks, under one key: an attacker's advantage stays below 2^-70."""

LENGTH = struct.Struct("<I")

_BUFFER_BYTES = 2 * (LENGTH.size + MAX_SEALED_BYTES)
_REKEY_NONCE = b"\0\0\0\0" + b"\xff" * 8  # of no record


class _Direction:
    """One key after another, and the number of the next record; both sides count alike."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._number = 0

    def _next_nonce(self) -> bytes:
        number = self._number
        if not number % RECORDS_PER_KEY and number:  # REKEY of the Noise framework, section 4.2
            self._aead = AESGCM(self._aead.encrypt(_REKEY_NONCE, bytes(KEY_BYTES), None)[:KEY_BYTES])
        self._number = number + 1
        return number.to_bytes(12, "big")


class Sealer(_Direction):
    def seal(self, plain: bytes | memoryview) -> list[bytes]:
        """The records that carry `plain`, in pieces to be written one after the other."""
        pieces: list[bytes] = []
        for start in range(0, len(plain), MAX_PLAIN_BYTES):
            nonce = self._next_nonce()  # before the key is looked up, which may change with it
            sealed = self._aead.encrypt(nonce, plain[start : start + MAX_PLAIN_BYTES], None)
            pieces += (LENGTH.pack(len(sealed)), sealed)
        return pieces


class Opener(_Direction):
    def open(self, sealed: bytes | memoryview) -> bytes:
        """What the next record carries, `sealed` being what follows its length.

        Raises:
            BadFrame: it is not the next record of this direction; nothing that follows can be opened.
        """
        nonce = self._next_nonce()
        try:
            return self._aead.decrypt(nonce, sealed, None)
        except InvalidTag:
            raise BadFrame("a record was changed, left out, repeated or moved on its way") from None


class Records:
    """Bytes in any pieces to what their records carry; keeps less than one record between two pieces."""

    def __init__(self, key: bytes) -> None:
        self._opener = Opener(key)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0

    def room(self) -> memoryview:
        """Where the next bytes are to be put."""
        return self._view[self._filled :]

    def received(self, count: int) -> Iterator[bytes]:
        """What the records carry that so many new bytes complete, to be exhausted before the next call.

        Raises:
            BadFrame: no further byte of this direction can be trusted.
        """
        at, end = 0, self._filled + count
        while end - at >= LENGTH.size:
            behind = at + LENGTH.size + sealed_bytes(LENGTH.unpack_from(self._buffer, at)[0])
            if behind > end:
                break
            yield self._opener.open(self._view[at + LENGTH.size : behind])
            at = behind
        self._filled = end - at
        if at and self._filled:
            self._view[: self._filled] = bytes(self._view[at:end])


def sealed_bytes(length: int) -> int:
    """The length of a record as its head says, if there are such records.

    Raises:
        BadFrame: there are none; nothing is kept of what follows.
    """
    if TAG_BYTES < length <= MAX_SEALED_BYTES:
        return length
    raise BadFrame(f"a record of {length} bytes; {TAG_BYTES + 1} to {MAX_SEALED_BYTES}")
