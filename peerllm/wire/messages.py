"""What peers say to one another; how it looks in bytes is `codec`'s and docs/protocol.md's subject.

Every message checks itself when built, so that one that came from a stranger and one of our own obey
the same limits; what breaks them is a `BadFrame`. They lie in modules by subject; this one names them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from peerllm.wire.group_messages import Assemble, Assembled, Declined, Invite, Willing
from peerllm.wire.message_checks import MAX_TEXT, MAX_UINT64, check_uint
from peerllm.wire.prefix_messages import MAX_PREFIXES, Prefixes
from peerllm.wire.receipt_messages import Contested, Countersigned, Receipt
from peerllm.wire.recovery_messages import DIGEST_BYTES, At, Digest, Digested, Recall, Resume, Resumed, Where
from peerllm.wire.session_messages import (
    MAX_ADDRESSES,
    Attach,
    Attached,
    Close,
    Extend,
    Leaving,
    Open,
    Opened,
    RefusalCode,
    Refused,
    Rest,
    SessionId,
    Sharing,
    new_session_id,
)
from peerllm.wire.step_messages import (
    MAX_HIDDEN,
    MAX_PAYLOAD_BYTES,
    MAX_ROWS,
    MAX_TIMINGS,
    Failed,
    FailureCode,
    Rewind,
    Step,
    Want,
    WireDtype,
    WireHidden,
    check_shape,
    is_decode,
    wanted_rows,
)

__all__ = [
    "DIGEST_BYTES",
    "MAX_ADDRESSES",
    "MAX_HIDDEN",
    "MAX_PAYLOAD_BYTES",
    "MAX_PREFIXES",
    "MAX_ROWS",
    "MAX_TEXT",
    "MAX_TIMINGS",
    "Assemble",
    "Assembled",
    "At",
    "Attach",
    "Attached",
    "Close",
    "Contested",
    "Countersigned",
    "Declined",
    "Digest",
    "Digested",
    "Extend",
    "Failed",
    "FailureCode",
    "Invite",
    "Leaving",
    "Message",
    "Open",
    "Opened",
    "Ping",
    "Pong",
    "Prefixes",
    "Recall",
    "Receipt",
    "RefusalCode",
    "Refused",
    "Rest",
    "Resume",
    "Resumed",
    "Rewind",
    "SessionId",
    "Sharing",
    "Step",
    "Want",
    "Where",
    "Willing",
    "WireDtype",
    "WireHidden",
    "check_shape",
    "is_decode",
    "new_session_id",
    "wanted_rows",
]


@dataclass(frozen=True, slots=True)
class Ping:
    """Sent by a stream that has nothing else to say; `stamp` comes back in the `Pong`."""

    stamp: int

    def __post_init__(self) -> None:
        check_uint(self.stamp, "Ping.stamp", MAX_UINT64)


@dataclass(frozen=True, slots=True)
class Pong:
    stamp: int

    def __post_init__(self) -> None:
        check_uint(self.stamp, "Pong.stamp", MAX_UINT64)


Message = (
    Open | Opened | Refused | Attach | Attached | Step | Rewind | Resume | Resumed | Where | At | Recall | Digest
    | Digested | Failed | Close | Ping | Pong | Leaving | Rest | Extend | Receipt | Countersigned | Contested | Prefixes
    | Invite | Willing | Declined | Assemble | Assembled
)  # fmt: skip
