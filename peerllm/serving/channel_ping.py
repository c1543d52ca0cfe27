"""How long a byte takes to another member and back over the very sockets that partial sums would go through.

A round trip of the event loop's streams takes several times as long, and would tell most LANs that groups do not pay.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence

from peerllm.errors import PeerGone
from peerllm.wire.raw_channel import RawChannel, open_channel, serve_channels
from peerllm.wire.transport import Transport
from peerllm_swarm.span import PeerId

PURPOSE = "peerllm.group.ping/1"

ROUNDS = 16
"""The shortest counts: whatever disturbs one makes it longer."""

REACH_S = 3.0
"""For the channel to be opened."""

BYTE_S = 1.0
"""For one byte, on either side; whoever takes longer is no candidate."""


def answer_channel_pings(transport: Transport) -> None:
    """From now on; raises `PeerGone` where this peer has no direct sockets."""
    serve_channels(transport, PURPOSE, _answer)


async def measure_channel(
    transport: Transport, peer_id: PeerId, addresses: Sequence[str], *, same_machine: bool = False
) -> float:
    """Round trip in milliseconds.

    Raises:
        PeerGone: not reached, or it is on this machine, whose cores both would share, unless `same_machine` is fine.
        OSError: the socket broke or was silent.
    """
    channel = await open_channel(transport, peer_id, addresses, PURPOSE, REACH_S)
    with channel.socket:
        if not same_machine and channel.socket.getsockname()[0] == channel.socket.getpeername()[0]:
            raise PeerGone(f"{peer_id} is on this machine")
        return await asyncio.to_thread(_shortest_ms, channel.socket)


async def _answer(channel: RawChannel) -> None:
    await asyncio.to_thread(_echo, channel.socket)


def _shortest_ms(connection: socket.socket) -> float:
    connection.settimeout(BYTE_S)
    rounds: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        connection.sendall(b"?")
        if not connection.recv(1):
            raise ConnectionResetError("the channel ended between two pings")
        rounds.append(time.perf_counter() - began)
    return 1e3 * min(rounds)


def _echo(connection: socket.socket) -> None:
    connection.settimeout(BYTE_S)
    try:
        for _ in range(ROUNDS):
            if not (byte := connection.recv(1)):
                return
            connection.sendall(byte)
    except OSError:  # it has what it wanted, or is gone
        return
