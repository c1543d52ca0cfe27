"""One stream of messages to one peer, which knows within seconds when the peer is gone.

libp2p takes 36 s to report a silent peer. So every stream pings every `StreamTimings.ping_s`, and breaks
when it hears nothing at all for `StreamTimings.silence_s`.

The stream is the transport's own protocol: bytes are decoded in the callback that brings them, pings are
answered there, and nothing runs in a task of its own. A decode step costs one wake-up of whoever receives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from peerllm.errors import BadFrame, PeerGone, WireError
from peerllm.wire.bandwidth import Bandwidth
from peerllm.wire.codec import FrameDecoder, encode
from peerllm.wire.messages import Message, Ping, Pong, Step
from peerllm_swarm.span import PeerId

T = TypeVar("T")

log = logging.getLogger(__name__)

INBOX_BYTES = 8 << 20
"""Undelivered rows beyond which nothing more is read from the peer: its writes then wait."""

INBOX_MESSAGES = 1024

_JOIN_BYTES = 64 << 10
"""Up to here head and payload are copied into one write: one packet and one wake-up of the other side."""

_FIRST_PING = 0.1
"""Of `ping_s`: soon, for there is no rtt before it, but not while the other side still sets up its handler."""

_RTT_WEIGHT_DOWN, _RTT_WEIGHT_UP = 0.5, 0.1
"""Of the newest sample in `rtt_ms`: whatever disturbs a ping makes it longer, so short ones count more."""


@dataclass(frozen=True)
class StreamTimings:
    """Deadlines of a stream, in seconds."""

    ping_s: float = 0.5
    """Time between pings, which leave whatever else is said: busy streams want to know their rtt, too."""
    silence_s: float = 2.5
    """Without a byte from the peer for that long, it is gone. Measured: no false alarm at 20 % loss each way."""
    stall_s: float = 30.0
    """For a live peer to take what was sent; longer than any prefill chunk that keeps it from reading."""
    close_s: float = 1.0
    """For the last bytes to leave; then the stream is cut."""


class ByteTransport(Protocol):
    """What carries the bytes of a stream: an ``asyncio.Transport``, or one that seals them (sealed_connection.py)."""

    def write(self, data: bytes | memoryview, /) -> None: ...

    def writelines(self, pieces: list[bytes | memoryview], /) -> None: ...

    def write_eof(self) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class LiveStream(asyncio.Protocol):
    """Messages to and from `peer_id`. Any task may send; one at a time receives."""

    def __init__(
        self,
        transport: ByteTransport,
        peer_id: PeerId,
        timings: StreamTimings,
        bandwidth: Bandwidth | None,
        *,
        kept: object = None,
    ) -> None:
        """`transport` calls this stream from now on; `kept` lives as long as the stream does."""
        self.peer_id = peer_id
        self._transport = transport
        self._kept = kept
        self._timings = timings
        self._bandwidth = bandwidth
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._inbox: deque[Message] = deque()
        self._inbox_bytes = 0
        self._reading = True
        self._resting: asyncio.TimerHandle | None = None  # until when the bandwidth lets nothing be read
        self._error: WireError | None = None
        self._receiver: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._on_end: list[Callable[[], object]] = []
        self._rtt_ms: float | None = None
        self._ping_stamp = 0
        self._pings: dict[int, asyncio.Future[float]] = {}
        self._heard_at = self._loop.time()
        self._next_look = self._heard_at + _FIRST_PING * timings.ping_s
        self._timer = self._loop.call_at(self._next_look, self._look_after)

    @classmethod
    async def adopt(
        cls,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer_id: PeerId,
        timings: StreamTimings = StreamTimings(),
        bandwidth: Bandwidth | None = None,
    ) -> LiveStream:
        """Take over a connected pair of asyncio streams, neither of which may be used afterwards.

        All that share a `bandwidth` keep within it together; heartbeats do not count.
        """
        if writer.is_closing():
            raise PeerGone(f"{peer_id} closed the stream at once")
        # A forgotten StreamWriter closes its transport.
        stream = cls(cast(asyncio.Transport, writer.transport), peer_id, timings, bandwidth, kept=writer)
        writer.transport.set_protocol(stream)
        reader.feed_eof()  # ours, not the peer's: makes the read return what has arrived so far, without waiting
        if early := await reader.read():
            stream.data_received(early)
        return stream

    @property
    def rtt_ms(self) -> float | None:
        """Moving average of the heartbeats' round trips; None before the first."""
        return self._rtt_ms

    async def send(self, message: Message) -> None:
        """Hand over one message; waits only while the peer does not keep up, or for its turn in the bandwidth.

        Raises:
            PeerGone: the stream is broken, or the peer took nothing for `StreamTimings.stall_s`.
        """
        head, payload = encode(message)
        if self._bandwidth is not None and self._bandwidth.up.limited:
            await self._bandwidth.up.turn(len(head) + len(payload))
        self._write(head, payload)
        if not self._writable.is_set():
            await self._drain()

    async def receive(self) -> Message:
        """The next message, in order; pings and pongs are none.

        Raises:
            PeerGone: the stream ended, broke, or was silent for `StreamTimings.silence_s`; again on every call.
            BadFrame: the peer sent something that is no message; the stream is cut.
        """
        if self._receiver is not None:
            raise RuntimeError("two tasks receive from one stream")
        while not self._inbox:
            if self._error is not None:
                raise self._error
            self._receiver = self._loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        return self._take()

    async def ping(self) -> float:
        """One round trip now, in milliseconds; the heartbeat goes on beside it.

        Raises:
            PeerGone: the stream broke before the peer answered. A live peer that does not answer is the caller's
                deadline to set.
        """
        stamp = _now_us()
        while stamp in self._pings or stamp == self._ping_stamp:
            stamp += 1
        self._write(*encode(Ping(stamp)))
        answered = self._pings[stamp] = self._loop.create_future()
        try:
            return await answered
        finally:
            del self._pings[stamp]

    def on_end(self, told: Callable[[], object]) -> None:
        """Have `told` called once, as soon as this side or the other ends the stream, or it breaks."""
        if self._error is not None:
            told()
        else:
            self._on_end.append(told)

    async def close(self) -> None:
        """Let what was sent leave, then end the stream; safe to call twice and from anywhere."""
        self._break(PeerGone(f"the stream to {self.peer_id} was closed here"))
        try:
            self._end_writing()
            async with asyncio.timeout(self._timings.close_s):
                await self._lost.wait()
        except TimeoutError:
            log.debug("stream cut without an end from the other side peer=%s", self.peer_id)
        finally:
            if not self._lost.is_set():
                self._transport.abort()

    def cut(self) -> None:
        """End the stream now, whatever is still to leave; safe to call twice."""
        self.fail(PeerGone(f"the stream to {self.peer_id} was cut here"))

    def fail(self, error: WireError) -> None:
        """Cut the stream, for a reason that everybody who uses it is told."""
        self._break(error)
        if not self._lost.is_set():  # a transport that has ended its life does not survive an abort
            self._transport.abort()

    def _end_writing(self) -> None:
        """Close our half only and read on until the other side closes too.

        Closed at once, p2pd meets an error at the next ping it wants to hand us, and resets the libp2p stream
        together with what we sent last.
        """
        if self._transport.is_closing():
            return
        try:
            self._transport.write_eof()
        except OSError:  # reset by the peer, which the transport itself has not read yet
            self._transport.abort()
            return
        if not self._reading:
            self._transport.resume_reading()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        if self._error is not None:  # only waiting for the end
            return
        self._heard_at = self._loop.time()
        try:
            for message in self._decoder.feed(data):
                self._accept(message)
        except BadFrame as error:
            self.fail(error)
        if self._bandwidth is not None and (rest_s := self._bandwidth.down.pause_s(len(data))):
            self._rest(rest_s)

    def eof_received(self) -> None:
        """Half-open streams have no use here: returning None closes the transport."""
        self._break(PeerGone(f"{self.peer_id} closed the stream"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(PeerGone(f"the stream to {self.peer_id} broke: {exc or 'closed'}"))
        self._lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Sending.

    def _write(self, head: bytes, payload: bytes | memoryview) -> None:
        if self._error is not None:
            raise PeerGone(str(self._error))
        if len(payload) <= _JOIN_BYTES:
            self._transport.write(b"".join((head, payload)))
        else:
            self._transport.writelines([head, payload])

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._timings.stall_s):
                await self._writable.wait()
        except TimeoutError:
            self.fail(PeerGone(f"{self.peer_id} took nothing for {self._timings.stall_s:g} s"))
        if self._error is not None:
            raise PeerGone(str(self._error))

    # Receiving.

    def _accept(self, message: Message) -> None:
        match message:
            case Ping(stamp=stamp):
                if self._error is None and self._writable.is_set():
                    self._write(*encode(Pong(stamp)))
            case Pong(stamp=stamp):
                self._note_rtt(stamp)
            case _:
                self._inbox.append(message)
                self._inbox_bytes += _held_bytes(message)
                self._limit_reading()
                self._wake_receiver()

    def _take(self) -> Message:
        message = self._inbox.popleft()
        self._inbox_bytes -= _held_bytes(message)
        self._limit_reading()
        return message

    def _limit_reading(self) -> None:
        full = self._inbox_bytes > INBOX_BYTES or len(self._inbox) > INBOX_MESSAGES or self._resting is not None
        if full == self._reading and self._error is None:
            self._reading = not full
            self._heard_at = self._loop.time()
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _rest(self, rest_s: float) -> None:
        """Read nothing for so long, which in the end holds back whoever sends."""
        if self._error is None and self._resting is None:
            self._resting = self._loop.call_later(rest_s, self._read_on)
            self._limit_reading()

    def _read_on(self) -> None:
        self._resting = None
        self._limit_reading()

    def _wake_receiver(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _note_rtt(self, stamp: int) -> None:
        asked = self._pings.get(stamp)
        if asked is not None and not asked.done():
            asked.set_result((_now_us() - stamp) / 1e3)
        if stamp != self._ping_stamp:  # an answer to a ping long ago, or to none
            return
        sample_ms = (_now_us() - stamp) / 1e3
        self._ping_stamp = 0
        if self._rtt_ms is None:
            self._rtt_ms = sample_ms
        weight = _RTT_WEIGHT_DOWN if sample_ms < self._rtt_ms else _RTT_WEIGHT_UP
        self._rtt_ms += weight * (sample_ms - self._rtt_ms)

    # Staying alive.

    def _look_after(self) -> None:
        """Ping, and give up on a peer that says nothing."""
        now = self._loop.time()
        if not self._reading or now - self._next_look > self._timings.ping_s:
            # Not heard because not listened to: the inbox is full, or this process itself stood still
            # (some event loops run timers before they read what has arrived meanwhile).
            self._heard_at = now
        if now - self._heard_at >= self._timings.silence_s:
            self.fail(PeerGone(f"{self.peer_id} was silent for {self._timings.silence_s:g} s"))
            return
        if self._writable.is_set():  # else bytes still wait to leave, and are the sign of life themselves
            self._ping_stamp = _now_us()
            self._write(*encode(Ping(self._ping_stamp)))
        self._next_look = min(now + self._timings.ping_s, self._heard_at + self._timings.silence_s)
        self._timer = self._loop.call_at(self._next_look, self._look_after)

    def _break(self, error: WireError) -> None:
        """Keep the first reason, and let everybody who waits find it."""
        if self._error is None:
            self._error = error
        self._timer.cancel()
        if self._resting is not None:
            self._resting.cancel()
        self._writable.set()
        self._wake_receiver()
        for asked in self._pings.values():
            if not asked.done():
                asked.set_exception(self._error)
        told, self._on_end = self._on_end, []
        for tell in told:
            tell()


async def while_open(stream: LiveStream, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; once the stream ends it is cancelled, and `PeerGone` raised."""
    working = asyncio.create_task(work)
    stream.on_end(working.cancel)
    try:
        return await working
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if not working.cancelled() or (this is not None and this.cancelling()):
            raise
        raise PeerGone(f"the stream to {stream.peer_id} has ended meanwhile") from None


def _now_us() -> int:
    """For round trips: the clock of uvloop's loop counts whole milliseconds."""
    return time.perf_counter_ns() // 1000


def _held_bytes(message: Message) -> int:
    return message.hidden.nbytes if isinstance(message, Step) else 0
