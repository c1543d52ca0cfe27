"""A stream of messages over a direct connection: what lies between the TCP socket and `LiveStream`.

It is the socket's protocol, and the stream's transport. A record is opened in the callback that brings its last byte
and decoded in the same, and a message leaves in one write: no task, no copy but what AES-GCM reads and writes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from peerllm.errors import BadFrame
from peerllm.wire.bandwidth import Bandwidth
from peerllm.wire.channel_keys import ChannelKeys
from peerllm.wire.live_stream import LiveStream, StreamTimings
from peerllm.wire.sealed_frames import Records, Sealer
from peerllm_swarm.span import PeerId


class SealedConnection(asyncio.BufferedProtocol):
    """Made by `sealed_stream`."""

    stream: LiveStream
    transport: asyncio.Transport
    """The socket's; the gate cuts the connection by it."""

    def __init__(self, keys: ChannelKeys, make_stream: Callable[[SealedConnection], LiveStream]) -> None:
        self._sealer = Sealer(keys.send)
        self._records = Records(keys.receive)
        self._make_stream = make_stream

    # The stream's transport.

    def write(self, data: bytes | memoryview) -> None:
        self.transport.writelines(self._sealer.seal(data))

    def writelines(self, pieces: list[bytes | memoryview]) -> None:
        self.transport.writelines([sealed for piece in pieces for sealed in self._sealer.seal(piece)])

    def write_eof(self) -> None:
        self.transport.write_eof()

    def abort(self) -> None:
        self.transport.abort()

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    # The socket's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.stream = self._make_stream(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._records.room()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for plain in self._records.received(nbytes):
                self.stream.data_received(plain)
        except BadFrame as error:
            self.stream.fail(error)

    def eof_received(self) -> None:
        self.stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self.stream.pause_writing()

    def resume_writing(self) -> None:
        self.stream.resume_writing()


async def sealed_stream(
    connection: socket.socket,
    keys: ChannelKeys,
    peer_id: PeerId,
    timings: StreamTimings,
    bandwidth: Bandwidth | None,
) -> tuple[LiveStream, SealedConnection]:
    """A stream over a proven connection, which belongs to it from now on; and what the gate may cut."""

    def make_stream(sealed: SealedConnection) -> LiveStream:
        return LiveStream(sealed, peer_id, timings, bandwidth)

    loop = asyncio.get_running_loop()
    try:
        _, sealed = await loop.create_connection(lambda: SealedConnection(keys, make_stream), sock=connection)
    except BaseException:
        connection.close()
        raise
    return sealed.stream, sealed
