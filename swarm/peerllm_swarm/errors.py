"""What can go wrong in the swarm.

SwarmError
├── BadSpan          a span that is empty or out of bounds
├── BadRecord        bytes that are no valid record: malformed, oversized, foreign, expired, wrongly signed
├── BadIdentity      an identity file that cannot be read or used
├── BadCertificate   bytes that are no certificate or revocation, or numbers that make none
├── NotAMember       a peer that may not take part in this swarm (says why)
├── BadInvitation    a token that was mistyped or cut, or has expired
├── JoinRefused      an issuer's no to an invitation or a renewal (says why)
├── NoRoom           this peer cannot hold even one block
├── BadInstance      numbers that describe no swarm: negative, zero, NaN, contradictory
├── CannotSlice      a block that so many members of a group cannot share (says the arithmetic)
├── NoPlacement      all peers together cannot hold the model (says how much is missing)
├── Unsolved         a solver ran out of time without an answer
├── NoRoute          no chain of online spans covers the model (names the missing blocks)
├── Unreachable      a peer or host that cannot be dialled, or no libp2p daemon to dial with
└── DirectoryDown    a directory that cannot be reached now; its state is shown and it is retried
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peerllm_swarm.span import BlockSpan, PeerId


class SwarmError(Exception):
    """Anything that placement, routing, records or directories refuse."""


class BadSpan(SwarmError, ValueError):
    """A span that is empty, reversed or outside the model."""


class BadRecord(SwarmError, ValueError):
    """Bytes from a peer that are not a valid, current record of this swarm.

    `fault` is one word of a fixed set, to count by; it never contains anything a stranger wrote.
    """

    def __init__(self, message: str, *, fault: str = "malformed") -> None:
        super().__init__(message)
        self.fault = fault


class BadIdentity(SwarmError):
    """An identity file that cannot be read, or does not hold an Ed25519 key."""


class BadCertificate(SwarmError, ValueError):
    """Bytes from a stranger that are no certificate or revocation, or numbers that make none."""


class NotAMember(SwarmError):
    """A peer that may not take part in this swarm.

    `reason` is one word of a fixed set, to count by: absent, malformed, foreign, other_peer, expired, future, revoked,
    issuer, forged. It never contains anything a stranger wrote.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadInvitation(SwarmError, ValueError):
    """A token that was mistyped or cut, or has expired."""


class JoinRefused(SwarmError):
    """An issuer's no; `code` is one of those in `join_messages.REFUSALS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NoRoom(SwarmError):
    """Not even one block fits into what the owner lends."""


class BadInstance(SwarmError, ValueError):
    """Numbers given to a planner that describe no swarm or model: negative, zero, NaN, contradictory."""


class CannotSlice(SwarmError):
    """A block that the members of a group cannot share: too few heads or columns, or too little memory."""


class NoPlacement(SwarmError):
    """All peers together have too little memory for the model.

    `missing_blocks` find no room and `short_gb` of memory is missing for them at least.
    """

    def __init__(self, message: str, missing_blocks: int = 0, short_gb: float = 0.0) -> None:
        super().__init__(message)
        self.missing_blocks = missing_blocks
        self.short_gb = short_gb


class Unsolved(SwarmError):
    """A solver found neither an answer nor a proof that there is none within its time."""


class NoRoute(SwarmError):
    """No chain of online peers covers every block.

    `missing` are the blocks that nobody can be asked for, `loading` the peers that will serve some of them.
    """

    def __init__(self, message: str, missing: tuple[BlockSpan, ...] = (), loading: tuple[PeerId, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing
        self.loading = loading


class Unreachable(SwarmError):
    """No connection to a peer or host, or no libp2p daemon to make one with."""


class DirectoryDown(SwarmError):
    """A directory cannot be reached now."""
