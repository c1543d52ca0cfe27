"""How a session finds out what its hops hold already of the rows that it begins with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from peerllm.errors import BadFrame
from peerllm.wire.message_checks import check_uint
from peerllm.wire.recovery_messages import DIGEST_BYTES

MAX_PREFIXES = 128


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Asker to first hop, and hop to hop: the rows that would come now have these digests (`row_digests`).

    Number `at` is that of all rows before ``positions[at]``. A hop that holds such rows of an earlier session takes
    the longest over and passes on what it has sent of them; the last one answers with a `Step` without rows, whose
    position is how many all hops hold.
    """

    step: int
    positions: tuple[int, ...]
    digests: bytes

    def __post_init__(self) -> None:
        check_uint(self.step, "Prefixes.step")
        if not isinstance(self.positions, tuple) or len(self.positions) > MAX_PREFIXES:
            raise BadFrame(f"Prefixes.positions must be a tuple of at most {MAX_PREFIXES}")
        for position in self.positions:
            check_uint(position, "Prefixes.positions")
        if any(one >= next_one for one, next_one in pairwise((0, *self.positions))):
            raise BadFrame("Prefixes.positions must grow, from 1 on")
        if not isinstance(self.digests, bytes) or len(self.digests) != DIGEST_BYTES * len(self.positions):
            raise BadFrame(f"Prefixes.digests must be {DIGEST_BYTES} bytes for each position")

    def digest(self, at: int) -> bytes:
        return self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]
