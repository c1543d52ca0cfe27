"""Messages to bytes and back: a fixed header, then msgpack for control and raw rows for steps.

Nothing here does input or output. Every limit is checked on the header, before a byte of the body is kept.
The format is written down in docs/protocol.md; a change of any byte of it raises `WIRE_VERSION`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import fields
from typing import cast

import msgpack
import numpy as np

from peerllm.errors import BadFrame
from peerllm.wire import messages
from peerllm.wire.messages import MAX_PAYLOAD_BYTES, MAX_TIMINGS, Message, Step, Want, WireDtype, check_shape

WIRE_VERSION = 1
MAX_CONTROL_BYTES = 16 << 10

_MAGIC = 0xB0 | WIRE_VERSION
_HEADER = struct.Struct("<BBHI")  # magic and version, type, flags (0), bytes of the body
_STEP = struct.Struct("<IIIIBBBB")  # step, position, T, D, wire dtype, want, timings, 0
_TIMING = struct.Struct("<II")  # queue, compute: microseconds

MAX_STEP_BYTES = _STEP.size + MAX_TIMINGS * _TIMING.size + MAX_PAYLOAD_BYTES
HEADER_BYTES = _HEADER.size

_STEP_TYPE = 6
_TYPES: dict[int, type[Message]] = {
    1: messages.Open,
    2: messages.Opened,
    3: messages.Refused,
    4: messages.Attach,
    5: messages.Attached,
    _STEP_TYPE: messages.Step,
    7: messages.Rewind,
    8: messages.Failed,
    9: messages.Close,
    10: messages.Ping,
    11: messages.Pong,
    12: messages.Leaving,
    13: messages.Resume,
    14: messages.Resumed,
    15: messages.Where,
    16: messages.At,
    17: messages.Recall,
    18: messages.Digest,
    19: messages.Digested,
    20: messages.Rest,
    21: messages.Extend,
    22: messages.Receipt,
    23: messages.Countersigned,
    24: messages.Contested,
    25: messages.Prefixes,
    26: messages.Invite,
    27: messages.Willing,
    28: messages.Declined,
    29: messages.Assemble,
    30: messages.Assembled,
}
_CODES = {kind: code for code, kind in _TYPES.items()}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _TYPES.values()}
_DTYPES = {int(dtype): dtype for dtype in WireDtype}
_WANTS = {int(want): want for want in Want}
_NO_ROWS = b""


def frame_bytes(*, timings: int) -> int:
    """What a step with so many timings takes beside its rows."""
    return _HEADER.size + _STEP.size + timings * _TIMING.size


def step_bytes(step: Step) -> int:
    """What the step takes on the wire."""
    return frame_bytes(timings=len(step.timings)) + step.hidden.nbytes


def encode(message: Message) -> tuple[bytes, memoryview | bytes]:
    """The frame in two parts, head and payload; the payload is a view of the step's own array, not a copy."""
    if isinstance(message, Step):
        return _encode_step(message)
    body = cast(bytes, msgpack.packb([getattr(message, name) for name in _FIELDS[type(message)]]))
    if len(body) > MAX_CONTROL_BYTES:
        raise BadFrame(f"{type(message).__name__} takes {len(body)} bytes; at most {MAX_CONTROL_BYTES}")
    return _HEADER.pack(_MAGIC, _CODES[type(message)], 0, len(body)) + body, _NO_ROWS


def _encode_step(step: Step) -> tuple[bytes, memoryview | bytes]:
    rows, hidden = step.hidden.shape
    dtype = WireDtype.of(step.hidden)
    size = _STEP.size + len(step.timings) * _TIMING.size + step.hidden.nbytes
    head = (
        _HEADER.pack(_MAGIC, _STEP_TYPE, 0, size)
        + _STEP.pack(step.step, step.position, rows, hidden, dtype, step.want, len(step.timings), 0)
        + b"".join(_TIMING.pack(*timing) for timing in step.timings)
    )
    return head, step.hidden.data.cast("B") if rows else _NO_ROWS


class FrameDecoder:
    """Bytes in any pieces to messages; never keeps more than one frame and the piece at hand."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._needed = HEADER_BYTES

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes, to be exhausted before the next call.

        The hidden states of a step lie in `data` itself where the frame came in one piece.

        Raises:
            BadFrame: no further byte of this stream can be trusted.
        """
        view = memoryview(data)
        at = 0
        while at < len(view):
            if not self._partial:
                size = _frame_size(view[at : at + HEADER_BYTES])
                if size and len(view) - at >= size:
                    yield _decode(view[at : at + size])
                    at += size
                    continue
            at += self._keep(view[at:])
            if self._complete():
                frame, self._partial, self._needed = self._partial, bytearray(), HEADER_BYTES
                yield _decode(memoryview(frame))

    def _keep(self, view: memoryview) -> int:
        taken = view[: self._needed - len(self._partial)]
        self._partial += taken
        return len(taken)

    def _complete(self) -> bool:
        if len(self._partial) == HEADER_BYTES:
            self._needed = _frame_size(memoryview(self._partial))
        return len(self._partial) == self._needed


def _frame_size(header: memoryview) -> int:
    """Bytes of the whole frame, 0 while the header itself is not complete."""
    if len(header) < HEADER_BYTES:
        return 0
    magic, code, flags, size = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise BadFrame(f"a frame starts with {_MAGIC:#04x}, not {magic:#04x}: garbage or another version of peerllm")
    if code not in _TYPES or flags:
        raise BadFrame(f"unknown frame: type {code}, flags {flags:#06x}")
    if size > (limit := MAX_STEP_BYTES if code == _STEP_TYPE else MAX_CONTROL_BYTES):
        raise BadFrame(f"{_TYPES[code].__name__} of {size} bytes; at most {limit}")
    return HEADER_BYTES + size


def _decode(frame: memoryview) -> Message:
    code, body = frame[1], frame[HEADER_BYTES:]
    return _decode_step(body) if code == _STEP_TYPE else _decode_control(_TYPES[code], body)


def _decode_control(kind: type[Message], body: memoryview) -> Message:
    try:
        values = msgpack.unpackb(body, use_list=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise BadFrame(f"{kind.__name__}: body is not msgpack ({error})") from None
    if not isinstance(values, tuple) or len(values) != len(_FIELDS[kind]):
        raise BadFrame(f"{kind.__name__} has {len(_FIELDS[kind])} fields, in an array")
    return kind(*values)


def _decode_step(body: memoryview) -> Step:
    if len(body) < _STEP.size:
        raise BadFrame(f"Step of {len(body)} bytes; at least {_STEP.size}")
    number, position, rows, hidden, dtype, want, timings, reserved = _STEP.unpack_from(body)
    if reserved or timings > MAX_TIMINGS or dtype not in _DTYPES or want not in _WANTS:
        raise BadFrame(f"Step with type {dtype}, want {want}, {timings} timings, reserved byte {reserved}")
    numpy_dtype = _DTYPES[dtype].numpy
    check_shape(rows, hidden, numpy_dtype.itemsize)
    payload_at = _STEP.size + timings * _TIMING.size
    if len(body) != payload_at + rows * hidden * numpy_dtype.itemsize:
        raise BadFrame(f"Step of {len(body)} bytes does not hold [{rows}, {hidden}] and {timings} timings")
    return Step(
        step=number,
        position=position,
        want=_WANTS[want],
        hidden=np.frombuffer(body[payload_at:], numpy_dtype).reshape(rows, hidden),
        timings=tuple(_TIMING.iter_unpack(body[_STEP.size : payload_at])),
    )
