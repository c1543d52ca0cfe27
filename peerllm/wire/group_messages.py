"""How a tensor-parallel group is formed: on one stream from its lead to each other member, `peerllm.group/1`.

`Invite` is answered by `Willing` or `Declined`, and nothing has changed yet. Once all are willing, each gets
`Assemble`, gives its own span up, loads its slice, opens the channels, and says `Assembled`. Then heartbeats alone go
over the stream, until the lead dissolves the group by `Close`, or a member says by `Leaving` how soon it goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.errors import BadFrame
from peerllm.wire.message_checks import (
    check_session,
    check_text,
    check_uint,
    clipped,
    member,
    replace_field,
)
from peerllm.wire.session_messages import MAX_ADDRESSES
from peerllm_swarm.errors import BadInstance
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.slices import MOST_MEMBERS, BlockSlice
from peerllm_swarm.span import MAX_BLOCKS, BlockSpan, PeerId

GROUP_PROTOCOL = "peerllm.group/1"

MAX_WIDTH = 1 << 24
"""Of a block in columns: more than any model has."""


@dataclass(frozen=True, slots=True)
class Invite:
    """Lead to member: serve this slice of `[start, end)` with these members, who are named in order, the lead first.

    Members are peer ids with addresses, slices `(kv head, kv head, column, column)`, half open.
    """

    group: bytes  # 16 random bytes
    fingerprint: str
    start: int
    end: int
    members: tuple[tuple[PeerId, tuple[str, ...]], ...]
    slices: tuple[tuple[int, int, int, int], ...]
    sync: SyncForm
    slots: int
    context_tokens: int

    def __post_init__(self) -> None:
        check_session(self.group)
        check_text(self.fingerprint, "Invite.fingerprint")
        check_uint(self.end, "Invite.end", MAX_BLOCKS)
        check_uint(self.start, "Invite.start", self.end - 1)
        check_uint(self.slots, "Invite.slots", 255)
        check_uint(self.context_tokens, "Invite.context_tokens")
        replace_field(self, "sync", member(SyncForm, self.sync))
        _check_members(self.members)
        if not isinstance(self.slices, tuple) or len(self.slices) != len(self.members):
            raise BadFrame("a group has a slice for each of its members")
        for part in self.slices:
            _check_slice(part)

    @property
    def span(self) -> BlockSpan:
        return BlockSpan(self.start, self.end)

    @property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(peer for peer, _ in self.members)

    @property
    def parts(self) -> tuple[BlockSlice, ...]:
        return tuple(BlockSlice((first, last), (left, right)) for first, last, left, right in self.slices)


@dataclass(frozen=True, slots=True)
class Willing:
    """Member to lead: it would; what its slice needs is on its disk."""


@dataclass(frozen=True, slots=True)
class Declined:
    """Member to lead: no, and why; it goes on as before."""

    reason: str

    def __post_init__(self) -> None:
        replace_field(self, "reason", clipped(self.reason))


@dataclass(frozen=True, slots=True)
class Assemble:
    """Lead to member, once all are willing: give up your own span, load the slice, open the channels."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """Member to lead: the slice is in memory, and the channels to all others are open."""

    weights_bytes: int

    def __post_init__(self) -> None:
        check_uint(self.weights_bytes, "Assembled.weights_bytes", (1 << 53) - 1)


def _check_members(members: tuple[tuple[PeerId, tuple[str, ...]], ...]) -> None:
    if not isinstance(members, tuple) or not 2 <= len(members) <= MOST_MEMBERS:
        raise BadFrame(f"a group has 2 to {MOST_MEMBERS} members")
    for named in members:
        if not isinstance(named, tuple) or len(named) != 2 or not isinstance(named[1], tuple):
            raise BadFrame("a member is a peer id and its addresses")
        peer_id, addresses = named
        check_text(peer_id, "a member's peer id")
        if len(addresses) > MAX_ADDRESSES:
            raise BadFrame(f"a member has at most {MAX_ADDRESSES} addresses")
        for address in addresses:
            check_text(address, "an address of a member")
    if len({peer_id for peer_id, _ in members}) < len(members):
        raise BadFrame("a peer is in a group once")


def _check_slice(part: tuple[int, int, int, int]) -> None:
    if not isinstance(part, tuple) or len(part) != 4:
        raise BadFrame("a slice is two KV heads and two columns")
    for value in part:
        check_uint(value, "a bound of a slice", MAX_WIDTH)
    try:
        BlockSlice((part[0], part[1]), (part[2], part[3]))
    except BadInstance as error:
        raise BadFrame(str(error)) from error
