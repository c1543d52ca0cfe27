"""One connection of a slow link: bytes are held for the link's delay and let through at its rate. Compiled, no GIL.

Python's own loops wake up late by as much as a fast LAN's whole round trip. Linux alone (`ppoll`).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

_RING_BYTES = 64 << 20
"""Of one direction: 400 MB/s for 160 ms. Nothing more is read once it is full."""
_RING_CHUNKS = 1 << 16
_READ_BYTES = 256 << 10

_POLLIN, _POLLOUT = 1, 4
_POLL_DEAD = 8 | 16 | 32  # POLLERR, POLLHUP, POLLNVAL
_MSG_DONTWAIT, _MSG_NOSIGNAL, _SHUT_WR, _CLOCK_MONOTONIC = 0x40, 0x4000, 1, 1

_recv = types.ExternalFunction("recv", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_send = types.ExternalFunction("send", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_shutdown = types.ExternalFunction("shutdown", types.int32(types.int32, types.int32))
_ppoll = types.ExternalFunction("ppoll", types.int32(types.uintp, types.uint64, types.uintp, types.uintp))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))

# Numbers of one direction, in an array because compiled code has no other mutable integers to pass on.
_READ_AT, _WRITE_AT, _OLDEST, _NEWEST, _FREE_AT, _ENDED, _BLOCKED, _FIELDS = range(8)
"""Bytes sent and received so far, chunks sent and received so far, when the line is free again, and two flags."""


@njit(nogil=True, cache=True)
def relay(one: int, other: int, hold_ns: int, bytes_per_s: float) -> None:
    """Carry bytes between two connected sockets, both ways, until both have ended or one is dead.

    Args:
        hold_ns: from the last byte's arrival here, once the line has carried it, to its departure.
        bytes_per_s: of payload in each direction; 0 for no limit.
    """
    sockets = np.array([one, other], np.int32)
    rings = np.empty((2, _RING_BYTES), np.uint8)
    due_ns = np.empty((2, _RING_CHUNKS), np.int64)
    sizes = np.empty((2, _RING_CHUNKS), np.int64)
    state = np.zeros((2, _FIELDS), np.int64)
    polled = np.zeros(4, np.int32)  # two `struct pollfd`: the file, then events and what is ready in one number
    clock = np.zeros(2, np.int64)
    while state[0, _ENDED] < 2 or state[1, _ENDED] < 2:
        now = _now_ns(clock)
        wait_ns = np.int64(3_600_000_000_000)
        for way in range(2):
            _hand_on(sockets[1 - way], rings[way], due_ns[way], sizes[way], state[way], now)
            if state[way, _OLDEST] < state[way, _NEWEST] and not state[way, _BLOCKED]:
                wait_ns = min(wait_ns, due_ns[way, state[way, _OLDEST] % _RING_CHUNKS] - now)
        if state[0, _ENDED] == 2 and state[1, _ENDED] == 2:
            return
        for way in range(2):
            over = state[way, _ENDED] > 0 and state[1 - way, _ENDED] == 2  # both ways: it would be reported for ever
            polled[2 * way] = -1 if over else sockets[way]
            polled[2 * way + 1] = _events(state[way], state[1 - way])
        clock[0], clock[1] = max(wait_ns, 0) // 1_000_000_000, max(wait_ns, 0) % 1_000_000_000
        if _ppoll(polled.ctypes.data, 2, clock.ctypes.data, 0) <= 0:
            continue
        for way in range(2):
            ready = polled[2 * way + 1] >> 16
            if ready & _POLLOUT:
                state[1 - way, _BLOCKED] = 0
            if ready & _POLLIN:
                _take(sockets[way], rings[way], due_ns[way], sizes[way], state[way], hold_ns, bytes_per_s, clock)
            elif ready & _POLL_DEAD:
                return


@njit(nogil=True, cache=True)
def _events(inward: np.ndarray, outward: np.ndarray) -> int:
    """What to wait for at a socket that the one direction is read from and the other written to."""
    full = (
        inward[_WRITE_AT] - inward[_READ_AT] > _RING_BYTES - _READ_BYTES
        or inward[_NEWEST] - inward[_OLDEST] >= _RING_CHUNKS - 1
    )
    reading = 0 if full or inward[_ENDED] else _POLLIN
    return reading | (_POLLOUT if outward[_BLOCKED] else 0)


@njit(nogil=True, cache=True)
def _take(
    source: int,
    ring: np.ndarray,
    due_ns: np.ndarray,
    sizes: np.ndarray,
    state: np.ndarray,
    hold_ns: int,
    bytes_per_s: float,
    clock: np.ndarray,
) -> None:
    at = state[_WRITE_AT] % _RING_BYTES
    room = min(_READ_BYTES, _RING_BYTES - at)
    size = _recv(source, ring[at:].ctypes.data, room, _MSG_DONTWAIT)
    now = _now_ns(clock)
    chunk = state[_NEWEST] % _RING_CHUNKS
    if size <= 0:  # the end travels as slowly as the bytes before it
        state[_ENDED] = 1
        size = 0
    state[_FREE_AT] = max(state[_FREE_AT], now)
    if bytes_per_s > 0:
        state[_FREE_AT] += np.int64(size * 1e9 / bytes_per_s)
    due_ns[chunk], sizes[chunk] = state[_FREE_AT] + hold_ns, size
    state[_WRITE_AT] += size
    state[_NEWEST] += 1


@njit(nogil=True, cache=True)
def _hand_on(target: int, ring: np.ndarray, due_ns: np.ndarray, sizes: np.ndarray, state: np.ndarray, now: int) -> None:
    """Write what is due, as far as the socket takes it."""
    while state[_OLDEST] < state[_NEWEST] and not state[_BLOCKED]:
        chunk = state[_OLDEST] % _RING_CHUNKS
        if due_ns[chunk] > now:
            return
        if sizes[chunk] > 0:
            at = state[_READ_AT] % _RING_BYTES
            sent = _send(target, ring[at:].ctypes.data, sizes[chunk], _MSG_DONTWAIT | _MSG_NOSIGNAL)
            if sent <= 0:
                state[_BLOCKED] = 1
                return
            state[_READ_AT] += sent
            sizes[chunk] -= sent
        elif state[_ENDED]:
            _shutdown(target, _SHUT_WR)
            state[_ENDED] = 2
        if sizes[chunk] == 0:
            state[_OLDEST] += 1


@njit(nogil=True, cache=True)
def echo(connection: int, message_bytes: int) -> None:
    """Send back every message of that size until the other side ends."""
    message = np.zeros(message_bytes, np.uint8)
    while _receive_all(connection, message):
        _send(connection, message.ctypes.data, message_bytes, _MSG_NOSIGNAL)


@njit(nogil=True, cache=True)
def round_trips(connection: int, message_bytes: int, count: int) -> np.ndarray:
    """Nanoseconds of each."""
    message = np.zeros(message_bytes, np.uint8)
    taken = np.zeros(count, np.int64)
    clock = np.zeros(2, np.int64)
    for trip in range(count):
        started = _now_ns(clock)
        _send(connection, message.ctypes.data, message_bytes, _MSG_NOSIGNAL)
        if not _receive_all(connection, message):
            return taken[:trip]
        taken[trip] = _now_ns(clock) - started
    return taken


@njit(nogil=True, cache=True)
def _receive_all(connection: int, message: np.ndarray) -> bool:
    got = 0
    while got < len(message):
        size = _recv(connection, message[got:].ctypes.data, len(message) - got, 0)
        if size <= 0:
            return False
        got += size
    return True


@njit(nogil=True, cache=True)
def _now_ns(clock: np.ndarray) -> int:
    _clock_gettime(_CLOCK_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]
