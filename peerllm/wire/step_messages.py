"""Rows of a session on their way, and what is said when they cannot be computed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from peerllm.errors import BadFrame
from peerllm.wire.message_checks import check_uint, clipped, member, replace_field

MAX_ROWS = 4096
MAX_HIDDEN = 65536
MAX_PAYLOAD_BYTES = 4 << 20
MAX_TIMINGS = 64  # hops of a route, each adds one

WireHidden = NDArray[np.float16] | NDArray[np.float32]
"""Hidden states ``[T, D]`` as they travel: little-endian, C-contiguous, often read-only."""


class WireDtype(IntEnum):
    """Type of the hidden states of one session on the wire."""

    FLOAT16 = 1
    FLOAT32 = 2

    @property
    def numpy(self) -> np.dtype:
        return _NUMPY_OF[self]

    @classmethod
    def of(cls, hidden: np.ndarray) -> WireDtype:
        """Raises `BadFrame` for an array of any other type."""
        try:
            return _WIRE_OF[hidden.dtype]
        except KeyError:
            raise BadFrame(f"hidden states travel as float16 or float32, not {hidden.dtype}") from None


_NUMPY_OF = {WireDtype.FLOAT16: np.dtype("<f2"), WireDtype.FLOAT32: np.dtype("<f4")}
_WIRE_OF = {dtype: wire for wire, dtype in _NUMPY_OF.items()}


class Want(IntEnum):
    """Which rows of a step's output the asker needs: the others never travel behind the last block."""

    NONE = 0  # prefill but its last chunk: the output has no rows and only acknowledges
    LAST = 1
    ALL = 2
    EACH = 3  # all of them, every one with the bits that it would have had in a step of its own


def is_decode(rows: int, want: Want) -> bool:
    """Does a step of so many rows stand for one new token? A replay and the end of a prompt want nothing."""
    return rows == 1 and want is not Want.NONE


def wanted_rows(rows: int, want: Want) -> range:
    """Which of a step's rows come out of the last hop; none is an answer all the same, which says that it is done."""
    match want:
        case Want.NONE:
            return range(0)
        case Want.LAST:
            return range(rows - 1, rows)
        case Want.ALL | Want.EACH:
            return range(rows)


class FailureCode(StrEnum):
    """Why a step of an open session failed; documented in docs/protocol.md."""

    BAD_STEP = "bad_step"  # does not continue the session
    BAD_INPUT = "bad_input"  # nor does what the hop before has pushed, or it is NaN
    NO_ROOM = "no_room"
    NO_HISTORY = "no_history"  # what was sent to the next hop is no longer remembered
    NEXT_GONE = "next_gone"
    PREVIOUS_GONE = "previous_gone"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Rows of a session: into a hop, from hop to hop, and out of the last one.

    Every hop appends ``(queue_us, compute_us)`` to `timings`. `position` is that of the first row here; what a hop
    holds from there on is forgotten first. With `Want.LAST` the output has one row, whose position is that of the
    step's last token. `hidden` must not change once the step is sent: it may still be waiting to leave.
    """

    step: int
    position: int
    want: Want
    hidden: WireHidden  # [T, D]; T = 0 only acknowledges
    timings: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check_uint(self.step, "Step.step")
        check_uint(self.position, "Step.position")
        if type(self.want) is not Want:
            replace_field(self, "want", member(Want, self.want))
        if self.hidden.ndim != 2 or not self.hidden.flags.c_contiguous:
            raise BadFrame(f"Step.hidden must be a C-contiguous [T, D], not {self.hidden.shape}")
        WireDtype.of(self.hidden)
        rows, hidden = self.hidden.shape
        check_shape(rows, hidden, self.hidden.itemsize)
        if len(self.timings) > MAX_TIMINGS:
            raise BadFrame(f"Step carries {len(self.timings)} timings; at most {MAX_TIMINGS}")
        for timing in self.timings:
            for microseconds in timing:
                check_uint(microseconds, "Step.timings")


@dataclass(frozen=True, slots=True)
class Failed:
    """Hop to asker: this step has no output; the session stands but its cache may lack these rows."""

    step: int
    code: FailureCode
    message: str

    def __post_init__(self) -> None:
        check_uint(self.step, "Failed.step")
        replace_field(self, "code", member(FailureCode, self.code))
        replace_field(self, "message", clipped(self.message))


@dataclass(frozen=True, slots=True)
class Rewind:
    """Asker to hop: forget positions ``>= to``."""

    to: int

    def __post_init__(self) -> None:
        check_uint(self.to, "Rewind.to")


def check_shape(rows: int, hidden: int, element_bytes: int) -> None:
    """Raises `BadFrame` unless ``[rows, hidden]`` is within the limits of one frame."""
    if rows > MAX_ROWS or not 0 < hidden <= MAX_HIDDEN or rows * hidden * element_bytes > MAX_PAYLOAD_BYTES:
        raise BadFrame(
            f"[{rows}, {hidden}] of {element_bytes} bytes is over the limit of "
            f"{MAX_ROWS} rows, D {MAX_HIDDEN}, {MAX_PAYLOAD_BYTES} bytes"
        )
