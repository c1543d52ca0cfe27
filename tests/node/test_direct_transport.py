"""Streams over direct sockets, and over libp2p wherever there is none: between real p2pd processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from peerllm.errors import PeerGone
from peerllm.wire.channel_keys import HELLO_BYTES
from peerllm.wire.direct_port import MAX_STRANGERS, STRANGERS_PER_HOST
from peerllm.wire.direct_transport import DirectTransport, direct_transport
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Message, Rewind
from peerllm.wire.sealed_connection import SealedConnection
from peerllm.wire.transport import SESSION_PROTOCOL, STREAMS_PER_PEER, Libp2pTransport
from peerllm_swarm.gate import Gate
from peerllm_swarm.hello import answer_hello
from peerllm_swarm.identity import Identity
from peerllm_swarm.membership import Membership
from peerllm_swarm.p2p import start_p2p, stop_p2p, visible_addresses
from peerllm_swarm.span import PeerId
from tests.support.direct import direct_peer
from tests.support.streams import run, same, step, until
from tests.support.wire_peer import echo, transport
from tests.swarm.private_swarm import PrivateSwarm

pytestmark = pytest.mark.e2e

ADDRESSES = tuple[str, ...]


@asynccontextmanager
async def _two(
    path: Path, streams_per_peer: int = STREAMS_PER_PEER
) -> AsyncIterator[tuple[DirectTransport, DirectTransport, ADDRESSES]]:
    """An asker and a hop that echoes, and the hop's addresses."""
    async with direct_peer(path / "asker") as (asker, _), direct_peer(path / "hop", streams_per_peer) as (hop, at):
        await hop.serve(SESSION_PROTOCOL, echo)
        yield asker, hop, at


async def _says(stream: LiveStream, message: Message = Rewind(1)) -> None:  # noqa: B008 - frozen
    await stream.send(message)
    assert same(await stream.receive(), message)


async def _conversed(transport: DirectTransport, hop: PeerId, addresses: ADDRESSES) -> bool:
    """Whether it went by a direct socket."""
    stream = await transport.open_stream(hop, addresses, SESSION_PROTOCOL, 10.0)
    try:
        await _says(stream)
        return isinstance(stream._transport, SealedConnection)
    finally:
        await stream.close()


async def _gone_after_s(stream: LiveStream) -> float:
    started = time.monotonic()
    with pytest.raises(PeerGone):
        await stream.receive()
    return time.monotonic() - started


def test_messages_of_every_size_go_by_a_direct_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            stream = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            assert isinstance(stream._transport, SealedConnection)
            assert asker.has_way(hop.peer_id)
            for message in (Rewind(1), step(1, hidden=4096), step(2, rows=7, hidden=4096), step(3, 512, 4096)):
                await _says(stream, message)
            many = [step(number, rows=1 + number % 3 * 40, hidden=576) for number in range(200)]
            sending = asyncio.create_task(_send_all(stream, many))
            for message in many:
                assert same(await stream.receive(), message)
            await sending
            assert await stream.ping() > 0
            await stream.close()
            itself = await hop.open_stream(hop.peer_id, (), SESSION_PROTOCOL, 5.0)
            await _says(itself)
            await itself.close()

    run(main())


async def _send_all(stream: LiveStream, messages: list[Message]) -> None:
    for message in messages:
        await stream.send(message)


def test_many_streams_at_once_share_one_agreement(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            directly = await asyncio.gather(*(_conversed(asker, hop.peer_id, addresses) for _ in range(100)))
            assert all(directly)
            assert len(hop._granted) == 1
            assert await _conversed(asker, hop.peer_id, ())  # libp2p is not asked for it any more
            await until(lambda: hop._libp2p.served.count(asker.peer_id) == 0)

    run(main())


def test_streams_of_both_ways_count_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path, streams_per_peer=3) as (asker, hop, addresses):
            assert await _conversed(asker, hop.peer_id, addresses)
            await until(lambda: hop._libp2p.served.count(asker.peer_id) == 0)  # nor is the agreement open any more
            streams = [await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0) for _ in range(3)]
            for stream in streams:
                await _says(stream)
            over_libp2p = await asker._libp2p.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            assert await _gone_after_s(over_libp2p) < 2.0
            fourth = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            assert await _gone_after_s(fourth) < 2.0
            for stream in (*streams, over_libp2p, fourth):
                await stream.close()

    run(main())


def test_a_closed_port_costs_one_attempt_and_libp2p_serves(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            await hop._port.close()
            assert not await _conversed(asker, hop.peer_id, addresses)
            granted = len(hop._granted)
            assert not await _conversed(asker, hop.peer_id, addresses)
            assert len(hop._granted) == granted
            assert not asker.has_way(hop.peer_id)

    run(main())


def test_a_port_that_never_answers_is_given_up_soon_and_for_a_while(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            with socket.create_server(("127.0.0.1", 0)) as silent:
                hop._port.port = silent.getsockname()[1]
                assert not await _conversed(asker, hop.peer_id, addresses)
                assert not asker._dialler._ways.may_try(hop.peer_id, asyncio.get_running_loop().time())
                assert not await _conversed(asker, hop.peer_id, addresses)
                silent.settimeout(1.0)
                connection, _ = silent.accept()
                with connection:
                    assert len(connection.recv(1000)) == HELLO_BYTES
                with pytest.raises(TimeoutError):  # it was tried once
                    silent.accept()

    run(main())


def test_a_peer_that_has_forgotten_the_link_is_agreed_with_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            assert await _conversed(asker, hop.peer_id, addresses)
            hop._granted._links.clear()
            hop._granted._of_peer.clear()
            assert await _conversed(asker, hop.peer_id, addresses)

    run(main())


@pytest.mark.parametrize("without", ["asker", "hop"])
def test_peers_without_direct_sockets_are_served_over_libp2p(tmp_path: Path, without: str) -> None:
    async def main() -> None:
        async with transport(tmp_path / "a") as (plain, at), direct_peer(tmp_path / "b") as (direct, direct_at):
            asker, hop, addresses = (plain, direct, direct_at) if without == "asker" else (direct, plain, at)
            await hop.serve(SESSION_PROTOCOL, echo)
            stream = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            await _says(stream)
            assert not isinstance(stream._transport, SealedConnection)
            await stream.close()

    run(main())


def test_strangers_get_no_byte_and_do_not_keep_members_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            assert await _conversed(asker, hop.peer_id, addresses)
            async with AsyncExitStack() as stack:
                streams = []
                for number in range(STRANGERS_PER_HOST + 40):
                    reader, writer = await asyncio.open_connection("127.0.0.1", hop.port)
                    stack.callback(writer.close)
                    if number % 3:
                        writer.write(os.urandom(1 + number * 7))
                    streams.append(reader)
                await until(lambda: len(hop._port._strangers) <= STRANGERS_PER_HOST)
                assert STRANGERS_PER_HOST <= MAX_STRANGERS
                await _conversed(asker, hop.peer_id, addresses)  # whichever way
                for reader in streams:
                    with suppress(ConnectionResetError):
                        assert await reader.read() == b""
            await until(lambda: not hop._port._strangers and not hop._port._hosts)

    run(main())


def test_a_replayed_connection_is_cut_without_a_word(tmp_path: Path) -> None:
    """Somebody on the way records all that the opening side says, and says it again."""

    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            recorded = bytearray()

            async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there_reader, there = await asyncio.open_connection("127.0.0.1", real)

                async def back() -> None:
                    while data := await there_reader.read(1 << 16):
                        writer.write(data)
                    writer.close()

                returning = asyncio.create_task(back())
                while data := await reader.read(1 << 16):
                    recorded.extend(data)
                    there.write(data)
                there.close()
                await returning

            real = hop.port
            async with await asyncio.start_server(record, "127.0.0.1", 0) as server:
                hop._port.port = server.sockets[0].getsockname()[1]
                assert await _conversed(asker, hop.peer_id, addresses)
            assert len(recorded) > HELLO_BYTES
            reader, writer = await asyncio.open_connection("127.0.0.1", real)
            writer.write(recorded)
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(main())


def test_who_is_revoked_is_cut_off_and_gets_in_by_no_way(tmp_path: Path) -> None:
    async def main() -> None:
        swarm = PrivateSwarm()
        async with _member(swarm, tmp_path / "a") as (asker, _, _), _member(swarm, tmp_path / "b") as (hop, at, knows):
            await hop.serve(SESSION_PROTOCOL, echo)
            stream = await asker.open_stream(hop.peer_id, at, SESSION_PROTOCOL, 5.0)
            assert isinstance(stream._transport, SealedConnection)
            await _says(stream)
            assert knows.note_revocation(swarm.revocation(asker.peer_id))
            assert await _gone_after_s(stream) < 2.0
            await stream.close()
            with pytest.raises(PeerGone):
                await _conversed(asker, hop.peer_id, at)

    run(main())


@asynccontextmanager
async def _member(swarm: PrivateSwarm, home: Path) -> AsyncIterator[tuple[DirectTransport, ADDRESSES, Membership]]:
    identity = Identity.load_or_create(home)
    membership = swarm.member(identity)
    p2p = await start_p2p(identity, port=0, host="127.0.0.1", gate=Gate(membership))
    try:
        await answer_hello(p2p)
        async with direct_transport(Libp2pTransport(p2p), host="127.0.0.1", port=0) as direct:
            yield direct, await visible_addresses(p2p), membership
    finally:
        await stop_p2p(p2p)


@pytest.mark.parametrize(("sign", "within_s"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, 3.5)])
def test_a_dead_and_a_silent_peer_are_noticed(tmp_path: Path, sign: signal.Signals, within_s: float) -> None:
    async def main() -> None:
        async with direct_peer(tmp_path / "asker") as (asker, _), _other_process(tmp_path / "hop") as (pid, hop, at):
            stream = await asker.open_stream(hop, at, SESSION_PROTOCOL, 10.0)
            assert isinstance(stream._transport, SealedConnection)
            await _says(stream)
            os.kill(pid, sign)
            assert await _gone_after_s(stream) <= within_s
            await stream.close()

    run(main())


@asynccontextmanager
async def _other_process(home: Path) -> AsyncIterator[tuple[int, PeerId, ADDRESSES]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.wire_peer", str(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        said = json.loads(await process.stdout.readline())
        yield process.pid, PeerId(said["peer_id"]), tuple(said["addresses"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
