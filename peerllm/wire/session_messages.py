"""How a session is opened, refused, linked from hop to hop, kept and ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NewType

from peerllm.errors import BadFrame
from peerllm.wire.message_checks import (
    check_session,
    check_text,
    check_uint,
    clipped,
    member,
    replace_field,
    seconds,
)
from peerllm.wire.step_messages import WireDtype
from peerllm_swarm.span import MAX_BLOCKS, PeerId

MAX_ADDRESSES = 16

SessionId = NewType("SessionId", bytes)
"""16 random bytes; who knows them and is the announced neighbour may attach to the session."""


def new_session_id() -> SessionId:
    return SessionId(secrets.token_bytes(16))


class RefusalCode(StrEnum):
    """Why a peer does not open or attach; documented in docs/protocol.md."""

    NO_SLOT = "no_slot"
    NO_ROOM = "no_room"
    WRONG_FINGERPRINT = "wrong_fingerprint"
    WRONG_SPAN = "wrong_span"
    DRAINING = "draining"
    LOADING = "loading"
    BAD_REQUEST = "bad_request"
    UNREACHABLE_NEXT = "unreachable_next"
    NOT_MEMBER = "not_member"
    INTERNAL = "internal"


class Sharing(IntEnum):
    """Who may take over what a session's prompt has left at its hops; docs/adr/0024."""

    NOBODY = 0  # it is forgotten with the session
    ASKER = 1
    MEMBERS = 2  # whoever allows the same


@dataclass(frozen=True, slots=True)
class Open:
    """Asker to hop: take a KV slot and run blocks ``[enter, exit)`` for this session.

    `previous` None: the asker feeds this hop. `next` None: its output goes back on this stream. Outputs before
    position `silent_below` are not passed on: this hop stands in for a lost one, and who comes next has had them.
    """

    session: SessionId
    fingerprint: str
    enter: int
    exit: int
    tokens: int  # KV room asked for
    wire_dtype: WireDtype
    previous: PeerId | None
    next: PeerId | None
    next_addresses: tuple[str, ...]  # multiaddrs of `next`, best first
    silent_below: int = 0
    sharing: Sharing = Sharing.NOBODY

    def __post_init__(self) -> None:
        check_session(self.session)
        check_uint(self.silent_below, "Open.silent_below")
        replace_field(self, "sharing", member(Sharing, self.sharing))
        check_text(self.fingerprint, "Open.fingerprint")
        check_uint(self.exit, "Open.exit", MAX_BLOCKS)
        check_uint(self.enter, "Open.enter", self.exit - 1)
        check_uint(self.tokens, "Open.tokens")
        replace_field(self, "wire_dtype", member(WireDtype, self.wire_dtype))
        check_neighbours(self.previous, self.next, self.next_addresses)


@dataclass(frozen=True, slots=True)
class Opened:
    """Hop to asker: the session stands, with KV room for `tokens`."""

    tokens: int

    def __post_init__(self) -> None:
        check_uint(self.tokens, "Opened.tokens")


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer no to `Open` or `Attach`; worth another try after `retry_after_s`, never if 0."""

    code: RefusalCode
    message: str
    retry_after_s: float = 0.0

    def __post_init__(self) -> None:
        replace_field(self, "code", member(RefusalCode, self.code))
        replace_field(self, "message", clipped(self.message))
        replace_field(self, "retry_after_s", seconds(self.retry_after_s, "Refused.retry_after_s"))


@dataclass(frozen=True, slots=True)
class Attach:
    """Hop to its next hop: what follows on this stream is the input of `session`."""

    session: SessionId

    def __post_init__(self) -> None:
        check_session(self.session)


@dataclass(frozen=True, slots=True)
class Attached:
    """The next hop knows the session and takes its input from this stream."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """Hop to asker: this peer drains and goes within that time; move the session elsewhere."""

    within_s: float

    def __post_init__(self) -> None:
        replace_field(self, "within_s", seconds(self.within_s, "Leaving.within_s"))


@dataclass(frozen=True, slots=True)
class Rest:
    """Asker to hop: no step comes until `Extend`; the slot may go to whoever needs one."""


@dataclass(frozen=True, slots=True)
class Extend:
    """Asker to hop: go back to position `to` and on from there, with KV room for `tokens`.

    Steps numbered `after` or lower are void. The answer is `Resumed`, or `Failed` without room for it.
    """

    to: int
    after: int
    tokens: int

    def __post_init__(self) -> None:
        check_uint(self.to, "Extend.to")
        check_uint(self.after, "Extend.after")
        check_uint(self.tokens, "Extend.tokens")


@dataclass(frozen=True, slots=True)
class Close:
    """The last message of a stream: free everything that belongs to it."""

    reason: str

    def __post_init__(self) -> None:
        replace_field(self, "reason", clipped(self.reason))


def check_neighbours(previous: PeerId | None, next_: PeerId | None, next_addresses: tuple[str, ...]) -> None:
    for peer_id in (previous, next_):
        if peer_id is not None:
            check_text(peer_id, "a neighbour's peer id")
    if not isinstance(next_addresses, tuple) or len(next_addresses) > MAX_ADDRESSES:
        raise BadFrame(f"next_addresses must be a tuple of at most {MAX_ADDRESSES}")
    for address in next_addresses:
        check_text(address, "an address of the next hop")
