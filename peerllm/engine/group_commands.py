"""What the lead of a group tells its members, as bytes: every call of its engine, in order.

A command is some int64 numbers, little-endian: its kind, how many follow, those; behind a step's lie its hidden states
in float32, one entry after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from peerllm.engine.span_engine import Rows
from peerllm.errors import GroupBroken

_NUMBER = np.dtype("<i8")
_VALUE = np.dtype("<f4")
_HEAD_BYTES = 2 * _NUMBER.itemsize
_PER_ENTRY = 5  # slot, position, rows, enter, exit


@dataclass(frozen=True)
class Open:
    """Take the next free slot, which is this one."""

    slot: int


@dataclass(frozen=True)
class Rewind:
    slot: int
    to: int


@dataclass(frozen=True)
class Fork:
    source: int
    to: int
    into: int


@dataclass(frozen=True)
class Close:
    slot: int


@dataclass(frozen=True)
class Step:
    batch: Sequence[Rows]


@dataclass(frozen=True)
class Dissolve:
    """The group ends as its lead wanted."""


Command = Open | Rewind | Fork | Close | Step | Dissolve

_PLAIN = (Open, Rewind, Fork, Close, Dissolve)
_STEP = len(_PLAIN)


def encode(command: Command) -> bytes:
    if not isinstance(command, Step):
        return _numbers(_PLAIN.index(type(command)), astuple(command))
    entries = [
        number
        for rows in command.batch
        for number in (rows.slot, rows.position, len(rows.hidden), rows.enter, rows.exit)
    ]
    hidden = [np.ascontiguousarray(rows.hidden, _VALUE).tobytes() for rows in command.batch]
    return b"".join([_numbers(_STEP, entries), *hidden])


def decode(encoded: bytes, hidden: int) -> Command:
    """Raises `GroupBroken` if these bytes are no command for hidden states of so many values."""
    if len(encoded) < _HEAD_BYTES:
        raise GroupBroken(f"a command of {len(encoded)} bytes")
    kind, count = (int(number) for number in np.frombuffer(encoded[:_HEAD_BYTES], _NUMBER))
    if not 0 <= count <= (len(encoded) - _HEAD_BYTES) // _NUMBER.itemsize:
        raise GroupBroken(f"a command with {count} numbers in {len(encoded)} bytes")
    end = _HEAD_BYTES + count * _NUMBER.itemsize
    numbers = [int(number) for number in np.frombuffer(encoded[_HEAD_BYTES:end], _NUMBER)]
    if kind == _STEP:
        return Step(_batch(numbers, memoryview(encoded)[end:], hidden))
    if not 0 <= kind < len(_PLAIN) or len(encoded) != end or count != len(_PLAIN[kind].__match_args__):
        raise GroupBroken(f"an unknown command {kind} with {count} numbers")
    return _PLAIN[kind](*numbers)


def most_bytes(slots: int, context_tokens: int, hidden: int) -> int:
    """No command is longer."""
    return _HEAD_BYTES + slots * (_PER_ENTRY * _NUMBER.itemsize + context_tokens * hidden * _VALUE.itemsize)


def _numbers(kind: int, numbers: Sequence[int]) -> bytes:
    return np.array([kind, len(numbers), *numbers], _NUMBER).tobytes()


def _batch(numbers: Sequence[int], values: memoryview, hidden: int) -> list[Rows]:
    entries = [numbers[at : at + _PER_ENTRY] for at in range(0, len(numbers), _PER_ENTRY)]
    counts = [entry[2] for entry in entries if len(entry) == _PER_ENTRY and entry[2] > 0]
    if not entries or len(counts) != len(entries) or sum(counts) * hidden * _VALUE.itemsize != len(values):
        raise GroupBroken(f"a step with {len(values)} bytes of hidden states for {counts} rows")
    batch: list[Rows] = []
    start = 0
    for slot, position, count, enter, leave in entries:
        rows = np.frombuffer(values, np.float32, count * hidden, start).reshape(count, hidden)
        batch.append(Rows(slot, position, rows, enter, leave))
        start += rows.nbytes
    return batch
