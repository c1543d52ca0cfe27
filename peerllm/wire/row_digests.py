"""Digests of hidden states, row by row: has a peer received what another one says that it sent, or this before?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from peerllm.wire.messages import DIGEST_BYTES

ROW_BYTES = 16
"""Of each row's digest: two rows that share one are not found, nor one that shares another one's."""


class RowDigests:
    """Of the rows of one session from position 0 on, as float32, whatever type they travelled in."""

    def __init__(self) -> None:
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._digests) // ROW_BYTES

    def note(self, position: int, rows: NDArray[np.float32]) -> None:
        """These rows ``[T, D]`` came, the first of them at `position`; whatever came there before is void."""
        self.back_to(position)
        if len(self._digests) == position * ROW_BYTES:
            self._digests += b"".join(blake2b(row, digest_size=ROW_BYTES).digest() for row in rows)

    def back_to(self, position: int) -> None:
        """Positions from there on never came."""
        del self._digests[position * ROW_BYTES :]

    def begin_as(self, other: RowDigests, length: int) -> None:
        """The first rows are those of the other one, and no others came."""
        self._digests = other._digests[: length * ROW_BYTES]

    def digest(self, start: int, end: int) -> bytes | None:
        """Of all rows ``[start, end)`` together; None unless all of them came."""
        if len(self._digests) < end * ROW_BYTES:
            return None
        return blake2b(self._digests[start * ROW_BYTES : end * ROW_BYTES], digest_size=DIGEST_BYTES).digest()

    def prefixes(self, positions: Sequence[int]) -> Iterator[bytes]:
        """The digests of all rows before each of these positions, which grow, as far as they came."""
        hashed, start = blake2b(digest_size=DIGEST_BYTES), 0
        for position in positions:
            if len(self) < position:
                return
            hashed.update(self._digests[start * ROW_BYTES : position * ROW_BYTES])
            start = position
            yield hashed.copy().digest()

    def common(self, other: RowDigests) -> int:
        """How many rows both begin with."""
        rows = min(len(self), len(other))
        if self._digests[: rows * ROW_BYTES] == other._digests[: rows * ROW_BYTES]:
            return rows
        mine, others = (np.frombuffer(bytes(each._digests[: rows * ROW_BYTES]), np.uint8) for each in (self, other))
        return int((mine != others).argmax()) // ROW_BYTES


def digests_of(rows: NDArray[np.float32]) -> RowDigests:
    """Of these rows ``[T, D]``."""
    digests = RowDigests()
    digests.note(0, rows)
    return digests


def digest_of(rows: NDArray[np.float32]) -> bytes:
    """What the digest of these rows ``[T, D]`` has to be, at whatever positions they came."""
    digest = digests_of(rows).digest(0, len(rows))
    if digest is None:
        raise AssertionError("rows that were noted have a digest")
    return digest
