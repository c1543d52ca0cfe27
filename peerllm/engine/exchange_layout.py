"""What `exchange.Exchange` and its machine code share: one row of numbers for the group, one for each member.

Everything is an address or a count in int64, so that nothing is allocated per exchange and nothing needs Python.
Raised numbers here must be followed by a change in `exchange_compiled`: numba looks at that file alone.
"""

from __future__ import annotations

from enum import IntEnum

(
    # addresses of functions
    SEND,
    RECEIVE,
    POLL,
    CLOCK,
    ERRNO,
    SEAL,
    UNSEAL,
    # what never changes
    MEMBERS,
    OWN,
    FORM,
    CAPACITY,
    BY_PARTS_FROM,
    TAG_BYTES,
    SEND_FLAGS,
    RECEIVE_FLAGS,
    WOULD_BLOCK,
    INTERRUPTED,
    CLOCK_ID,
    DEADLINE_NS,
    SPIN_NS,
    # addresses of memory
    LINKS,
    POLLED,
    TIME,
    CONTEXT,
    ENCODED,
    TOTAL,
    # what an exchange leaves
    SPIN_NOW_NS,
    COUNT,
    OUTCOME,
    CULPRIT,
    SENT_BYTES,
    RECEIVED_BYTES,
    WAITED_NS,
    GROUP_FIELDS,
) = range(34)

(
    DESCRIPTOR,
    SEND_KEY,
    RECEIVE_KEY,
    SEND_NONCE,
    RECEIVE_NONCE,
    OUT,
    OUT_BYTES,
    OUT_DONE,
    IN,
    IN_BYTES,
    IN_DONE,
    PLAIN,
    LINK_FIELDS,
) = range(13)

HEADER_BYTES = 4
"""Before every frame: how many bytes follow, little-endian."""

COMMAND, PART, SUM = range(3)
"""What a sealed frame is: the first number of its context, which is authenticated and not sent."""

CONTEXT_NUMBERS = 3
"""Kind, how many sums were made before, how many values or bytes: frames out of step do not open."""


class Outcome(IntEnum):
    """Of an exchange; anything but `DONE` is the end of the group."""

    DONE = 0
    SILENT = 1
    GONE = 2
    FORGED = 3
    OUT_OF_STEP = 4
    UNEVEN = 5
