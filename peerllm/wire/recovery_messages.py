"""What the asker tells the hops and asks them when another one is lost, and at the end for spot checks."""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.errors import BadFrame
from peerllm.wire.message_checks import check_uint
from peerllm.wire.session_messages import check_neighbours
from peerllm_swarm.span import PeerId

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Resume:
    """Asker to hop: another hop was replaced; go back to position `to` and on from there with these neighbours.

    Steps numbered `after` or lower are void, wherever they still are. With `replay_from` the hop attaches to `next`
    anew and sends it again what it had sent from that position on and before `to`.
    """

    to: int
    after: int
    previous: PeerId | None
    next: PeerId | None
    next_addresses: tuple[str, ...]
    replay_from: int | None

    def __post_init__(self) -> None:
        check_uint(self.to, "Resume.to")
        check_uint(self.after, "Resume.after")
        check_neighbours(self.previous, self.next, self.next_addresses)
        if self.replay_from is not None:
            check_uint(self.replay_from, "Resume.replay_from", self.to)
            if self.next is None:
                raise BadFrame("Resume.replay_from makes no sense without a next hop")


@dataclass(frozen=True, slots=True)
class Resumed:
    """Hop to asker: ready for the step behind `Resume.after` or `Extend.after`."""

    after: int

    def __post_init__(self) -> None:
        check_uint(self.after, "Resumed.after")


@dataclass(frozen=True, slots=True)
class Where:
    """Asker to hop: how far is this session with you?"""


@dataclass(frozen=True, slots=True)
class At:
    """Hop to asker: the highest step received, the highest one done, and the positions held since."""

    received: int
    done: int
    position: int

    def __post_init__(self) -> None:
        check_uint(self.received, "At.received")
        check_uint(self.done, "At.done")
        check_uint(self.position, "At.position")


@dataclass(frozen=True, slots=True)
class Recall:
    """Asker to hop: send me again what you sent on at positions ``[start, end)``, as steps with the number 0."""

    start: int
    end: int

    def __post_init__(self) -> None:
        _check_positions(self)


@dataclass(frozen=True, slots=True)
class Digest:
    """Asker to hop: what went in at positions ``[start, end)``?"""

    start: int
    end: int

    def __post_init__(self) -> None:
        _check_positions(self)


@dataclass(frozen=True, slots=True)
class Digested:
    """Hop to asker: the digest (`row_digests`) of what was asked for by `Digest`."""

    digest: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.digest, bytes) or len(self.digest) != DIGEST_BYTES:
            raise BadFrame(f"a digest is {DIGEST_BYTES} bytes, not {self.digest!r:.80}")


def _check_positions(message: Recall | Digest) -> None:
    check_uint(message.end, f"{type(message).__name__}.end")
    check_uint(message.start, f"{type(message).__name__}.start", message.end - 1)
