"""Streams through real p2pd processes: what tests on plain sockets cannot show."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from peerllm.errors import PeerGone
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Attach, Attached, Close, Rewind, new_session_id
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL, STREAMS_PER_PEER, Libp2pTransport
from peerllm_swarm.span import PeerId
from tests.support.streams import run, same, step, until
from tests.support.wire_peer import echo, transport

pytestmark = pytest.mark.e2e

ADDRESSES = tuple[str, ...]


@asynccontextmanager
async def _two(
    path: Path, streams_per_peer: int = STREAMS_PER_PEER
) -> AsyncIterator[tuple[Libp2pTransport, Libp2pTransport, ADDRESSES]]:
    """An asker and a hop that echoes, and the hop's addresses."""
    async with transport(path / "asker") as (asker, _), transport(path / "hop", streams_per_peer) as (hop, addresses):
        await hop.serve(SESSION_PROTOCOL, echo)
        yield asker, hop, addresses


@asynccontextmanager
async def _other_process(home: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, PeerId, ADDRESSES]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.wire_peer", str(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    children: list[psutil.Process] = []
    try:
        said = json.loads(await process.stdout.readline())
        children = psutil.Process(process.pid).children(recursive=True)
        yield process, PeerId(said["peer_id"]), tuple(said["addresses"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        for child in children:
            if child.is_running():
                child.kill()


async def _gone_after_s(stream: LiveStream) -> float:
    started = time.monotonic()
    with pytest.raises(PeerGone):
        await stream.receive()
    return time.monotonic() - started


async def _open_and_hear(transport: Libp2pTransport, peer_id: PeerId, addresses: ADDRESSES) -> None:
    stream = await transport.open_stream(peer_id, addresses, PUSH_PROTOCOL, 5.0)
    try:
        await stream.receive()
    finally:
        await stream.close()


def test_an_echo_over_every_kind_of_dial(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            there = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            known = await asker.open_stream(hop.peer_id, (), SESSION_PROTOCOL, 5.0)
            itself = await hop.open_stream(hop.peer_id, (), SESSION_PROTOCOL, 5.0)
            for stream in (there, known, itself):
                assert stream.peer_id == hop.peer_id
                for message in (step(1, hidden=4096), step(2, rows=512, hidden=4096), Rewind(3)):
                    await stream.send(message)
                    assert same(await stream.receive(), message)
                await stream.close()

    run(main())


def test_the_handler_learns_who_has_opened_the_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            seen: list[PeerId] = []

            async def attach(stream: LiveStream) -> None:
                seen.append(stream.peer_id)
                assert isinstance(await stream.receive(), Attach)
                await stream.send(Attached())

            await hop.serve(PUSH_PROTOCOL, attach)
            stream = await asker.open_stream(hop.peer_id, addresses, PUSH_PROTOCOL, 5.0)
            await stream.send(Attach(new_session_id()))
            assert await stream.receive() == Attached()
            assert await _gone_after_s(stream) < 0.5  # the handler has returned
            await stream.close()
            assert seen == [asker.peer_id]

    run(main())


def test_what_was_said_last_arrives_before_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            got: asyncio.Queue[object] = asyncio.Queue()

            async def listen(stream: LiveStream) -> None:
                while True:
                    got.put_nowait(await stream.receive())

            await hop.serve(PUSH_PROTOCOL, listen)
            for _ in range(60):
                stream = await asker.open_stream(hop.peer_id, addresses, PUSH_PROTOCOL, 5.0)
                await stream.send(step(rows=128, hidden=4096))
                await stream.send(Close("done"))
                await stream.close()
                await got.get()
                assert await got.get() == Close("done")

    run(main())


@pytest.mark.parametrize("what", ["peer", "p2pd"])
def test_a_killed_process_is_noticed_at_once(tmp_path: Path, what: str) -> None:
    async def main() -> None:
        async with transport(tmp_path / "asker") as (asker, _), _other_process(tmp_path / "hop") as (process, peer, at):
            stream = await asker.open_stream(peer, at, SESSION_PROTOCOL, 5.0)
            await stream.send(Rewind(1))
            await stream.receive()
            [p2pd] = psutil.Process(process.pid).children()
            os.kill(process.pid if what == "peer" else p2pd.pid, signal.SIGKILL)
            assert await _gone_after_s(stream) <= 0.5
            await stream.close()

    run(main())


@pytest.mark.parametrize("what", ["peer", "p2pd"])
def test_a_stopped_process_is_noticed_within_three_seconds(tmp_path: Path, what: str) -> None:
    async def main() -> None:
        async with transport(tmp_path / "asker") as (asker, _), _other_process(tmp_path / "hop") as (process, peer, at):
            stream = await asker.open_stream(peer, at, SESSION_PROTOCOL, 5.0)
            await stream.send(Rewind(1))
            await stream.receive()
            [p2pd] = psutil.Process(process.pid).children()
            os.kill(process.pid if what == "peer" else p2pd.pid, signal.SIGSTOP)
            assert 1.5 < await _gone_after_s(stream) <= 3.0
            await stream.close()

    run(main())


def test_garbage_ends_only_its_own_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            good = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            bad = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            bad._transport.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await _gone_after_s(bad) < 0.5
            await bad.close()
            await good.send(Rewind(1))
            assert await good.receive() == Rewind(1)
            await good.close()

    with caplog.at_level(logging.INFO):
        run(main())
    assert "a frame starts with 0xb1" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_broken_handler_costs_its_stream_and_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):

            async def broken(stream: LiveStream) -> None:
                await stream.receive()
                raise ZeroDivisionError("a bug in a handler")

            await hop.serve(PUSH_PROTOCOL, broken)
            for _ in range(2):
                stream = await asker.open_stream(hop.peer_id, addresses, PUSH_PROTOCOL, 5.0)
                await stream.send(Rewind(1))
                assert await _gone_after_s(stream) < 0.5
                await stream.close()

    run(main())
    assert caplog.text.count("ZeroDivisionError: a bug in a handler") == 2


def test_three_hundred_streams_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            opening = asyncio.Semaphore(32)  # libp2p resets streams when hundreds are being negotiated at the same time
            all_open = asyncio.Barrier(300)

            async def converse(number: int) -> None:
                async with opening:
                    stream = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 20.0)
                    await stream.send(Rewind(number))
                    assert await stream.receive() == Rewind(number)
                await all_open.wait()
                for turn in range(3):
                    await stream.send(Rewind(turn))
                    assert await stream.receive() == Rewind(turn)
                await stream.close()

            await asyncio.gather(*(converse(number) for number in range(300)))

    run(main(), deadline_s=60.0)


def test_one_peer_cannot_open_streams_without_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path, streams_per_peer=3) as (asker, hop, addresses):
            streams = []
            for _ in range(3):
                streams.append(await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0))
                await streams[-1].send(Rewind(1))
                await streams[-1].receive()
            fourth = await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)
            assert await _gone_after_s(fourth) < 0.5
            await fourth.close()
            await streams.pop().close()
            await until(lambda: hop.served.count(asker.peer_id) == 2)
            streams.append(await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0))
            await streams[-1].send(Rewind(2))
            assert await streams[-1].receive() == Rewind(2)
            for stream in streams:
                await stream.close()

    run(main())


def test_closing_the_transport_ends_its_handlers_and_takes_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            ended: list[str] = []

            async def wait(stream: LiveStream) -> None:
                try:
                    await stream.receive()
                finally:
                    ended.append(stream.peer_id)

            await hop.serve(PUSH_PROTOCOL, wait)
            streams = [await asker.open_stream(hop.peer_id, addresses, PUSH_PROTOCOL, 5.0) for _ in range(3)]
            await until(lambda: hop.served.count(asker.peer_id) == 3)
            await hop.close()
            assert ended == [asker.peer_id] * 3
            for stream in streams:
                assert await _gone_after_s(stream) < 0.5
                await stream.close()
            with pytest.raises(PeerGone):
                await _open_and_hear(asker, hop.peer_id, addresses)
            with pytest.raises(PeerGone):
                await _open_and_hear(hop, hop.peer_id, ())

    run(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_peers_and_protocols_that_are_not_there_are_refused_in_time_and_leak_no_sockets(tmp_path: Path) -> None:
    async def main() -> None:
        async with _two(tmp_path) as (asker, hop, addresses):
            here = psutil.Process()
            stranger = PeerId("12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu")
            await (await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 5.0)).close()
            await asyncio.sleep(0.1)
            before = here.num_fds()
            for _ in range(10):
                with pytest.raises(PeerGone, match="cannot be reached"):
                    await asker.open_stream(hop.peer_id, addresses, "peerllm.unknown/1", 5.0)
                with pytest.raises(PeerGone):
                    await asker.open_stream(stranger, ("/ip4/127.0.0.1/tcp/9",), SESSION_PROTOCOL, 5.0)
                with pytest.raises(PeerGone):
                    await asker.open_stream(hop.peer_id, addresses, SESSION_PROTOCOL, 0.0)
            await asyncio.sleep(0.1)
            assert here.num_fds() <= before

    run(main())
