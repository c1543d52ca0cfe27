"""Sockets that are handed out with fresh keys, for engines that talk to one another past the event loop."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from peerllm.errors import PeerGone
from peerllm.wire.raw_channel import RawChannel, open_channel, serve_channels
from tests.support.direct import direct_peer
from tests.support.streams import run, until
from tests.support.wire_peer import transport

pytestmark = pytest.mark.e2e

PURPOSE = "peerllm.test/1"
NONCE = bytes(12)


def _exactly(connection: socket.socket, count: int) -> bytes:
    connection.settimeout(10.0)  # a thread that waits for ever would keep the test from ending
    data = b""
    while len(data) < count and (piece := connection.recv(count - len(data))):
        data += piece
    return data


def test_both_ends_have_each_others_keys_and_no_byte_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        async with direct_peer(tmp_path / "a") as (asker, _), direct_peer(tmp_path / "b") as (member, addresses):
            served: list[RawChannel] = []

            async def echo(channel: RawChannel) -> None:
                served.append(channel)
                sealed = await asyncio.to_thread(_exactly, channel.socket, 21)
                plain = AESGCM(channel.receive_key).decrypt(NONCE, sealed, None)
                channel.socket.sendall(AESGCM(channel.send_key).encrypt(NONCE, plain, None))

            serve_channels(member, PURPOSE, echo)
            keys = set[bytes]()
            for _ in range(3):
                channel = await open_channel(asker, member.peer_id, addresses, PURPOSE, 5.0)
                with channel.socket:
                    assert channel.socket.getblocking()
                    assert channel.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    channel.socket.sendall(AESGCM(channel.send_key).encrypt(NONCE, b"early", None))
                    answer = await asyncio.to_thread(_exactly, channel.socket, 21)
                    assert AESGCM(channel.receive_key).decrypt(NONCE, answer, None) == b"early"
                    assert (
                        await asyncio.to_thread(_exactly, channel.socket, 1) == b""
                    )  # closed by the end of the handler
                assert (channel.peer_id, channel.opened) == (member.peer_id, True)
                assert (served[-1].peer_id, served[-1].opened) == (asker.peer_id, False)
                keys |= {channel.send_key, channel.receive_key}
            assert len(keys) == 6

    run(main())


def test_a_revoked_peers_channel_is_shut_down(tmp_path: Path) -> None:
    async def main() -> None:
        async with direct_peer(tmp_path / "a") as (asker, _), direct_peer(tmp_path / "b") as (member, addresses):
            served: list[RawChannel] = []
            read: list[bytes] = []

            async def wait(channel: RawChannel) -> None:
                served.append(channel)
                read.append(await asyncio.to_thread(_exactly, channel.socket, 1))

            serve_channels(member, PURPOSE, wait)
            channel = await open_channel(asker, member.peer_id, addresses, PURPOSE, 5.0)
            with channel.socket:
                await until(lambda: bool(served))
                member.gate._cut(asker.peer_id)
                assert await asyncio.to_thread(_exactly, channel.socket, 1) == b""
            await until(lambda: read == [b""])

    run(main())


def test_a_peer_without_direct_sockets_or_without_the_purpose_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with direct_peer(tmp_path / "a") as (asker, _), transport(tmp_path / "b") as (member, addresses):
            with pytest.raises(PeerGone, match="direct"):
                await open_channel(asker, member.peer_id, addresses, PURPOSE, 5.0)
            with pytest.raises(PeerGone, match="switched off"):
                serve_channels(member, PURPOSE, lambda channel: asyncio.sleep(0))

    run(main())
