"""``HOST:PORT`` is enough to meet a peer; whoever else listens there is told apart."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from peerllm_swarm.errors import NotAMember, Unreachable
from peerllm_swarm.gate import Gate
from peerllm_swarm.hello import Target, answer_hello, say_hello
from peerllm_swarm.identity import Identity
from peerllm_swarm.p2p import connect, open_stream, start_p2p, stop_p2p, visible_addresses
from tests.swarm.private_swarm import PrivateSwarm


def between_two(
    tmp_path: Path, scenario: Callable[[Identity, Any, Any, Target], Awaitable[None]], *, host: str = "127.0.0.1"
) -> None:
    """Run `scenario` with a member that answers, its identity and place, and one that asks."""

    async def main() -> None:
        swarm = PrivateSwarm()
        identities = [Identity.load_or_create(tmp_path / name) for name in ("there", "here")]
        there, here = await asyncio.gather(
            *(start_p2p(each, port=0, host=host, gate=Gate(swarm.member(each))) for each in identities)
        )
        try:
            await answer_hello(there)
            port = int((await visible_addresses(there))[0].rpartition("/")[2])
            async with asyncio.timeout(20):
                await scenario(identities[0], there, here, Target(host, port))
        finally:
            await asyncio.gather(stop_p2p(there), stop_p2p(here))

    asyncio.run(main())
    gc.collect()  # what is left open is told of here, and not in a test of another module


def test_peer_is_met_by_host_and_port(tmp_path: Path):
    async def scenario(identity: Identity, there: Any, here: Any, target: Target) -> None:
        for host in ("127.0.0.1", "localhost"):
            greeting = await say_hello(here, Target(host, target.port), timeout_s=5)
            assert here.gate.admits(greeting.peer_id)
            assert greeting.peer_id == identity.peer_id
            assert f"/ip4/127.0.0.1/tcp/{target.port}" in greeting.addresses
        assert there.gate.admits(str(here.peer_id))
        assert [str(peer.peer_id) for peer in await here.list_peers()] == [identity.peer_id]

    between_two(tmp_path, scenario)


def test_peer_of_another_swarm_is_refused(tmp_path: Path):
    async def scenario(identity: Identity, there: Any, here: Any, target: Target) -> None:
        here.gate = Gate(PrivateSwarm().member(identity))
        with pytest.raises(Unreachable, match="does not speak for this swarm"):
            await say_hello(here, target, timeout_s=5)

    between_two(tmp_path, scenario)


def test_each_side_says_whom_it_does_not_let_in(tmp_path: Path):
    async def scenario(identity: Identity, there: Any, here: Any, target: Target) -> None:
        here.gate.membership.own = there.gate.membership.own
        with pytest.raises(NotAMember, match="does not let this one in: other_peer"):
            await say_hello(here, target, timeout_s=5)
        assert not there.gate.admits(str(here.peer_id))

    between_two(tmp_path, scenario)


@pytest.mark.parametrize("greeting", [b"\xff\xff", b"\x10", b"", bytes(2), b"\x04\x00ABCD" + bytes(2000)])
def test_greetings_that_are_none_get_nothing_out_of_a_member(tmp_path: Path, greeting: bytes):
    async def scenario(identity: Identity, there: Any, here: Any, target: Target) -> None:
        await connect(here, identity.peer_id, await visible_addresses(there), 5)
        protocol = f"peerllm.hello/2/{there.gate.membership.swarm}"
        reader, writer = await open_stream(here, identity.peer_id, protocol, 5)
        writer.write(greeting)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        assert len(answer) < 32  # at most why not
        assert not there.gate.admits(str(here.peer_id))

    between_two(tmp_path, scenario)


def test_own_address_is_refused(tmp_path: Path):
    async def scenario(identity: Identity, there: Any, here: Any, target: Target) -> None:
        with pytest.raises(Unreachable, match="is this peer itself"):
            await say_hello(there, target, timeout_s=5)

    between_two(tmp_path, scenario)


def test_closed_port_and_unknown_name_are_reported(tmp_path: Path):
    async def scenario(identity: Identity, there: Any, here: Any, target: Target) -> None:
        with pytest.raises(Unreachable, match=r"no peerllm peer at 127\.0\.0\.1:1: .*refused"):
            await say_hello(here, Target("127.0.0.1", 1), timeout_s=5)
        with pytest.raises(Unreachable, match=r"name nowhere\.invalid cannot be resolved|does not answer"):
            await say_hello(here, Target("nowhere.invalid", 7338), timeout_s=5)

    between_two(tmp_path, scenario)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "web server"])
def test_other_servers_are_no_peers(tmp_path: Path, answer: bytes):
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0 if answer else 2)
        writer.close()

    async def scenario(identity: Identity, there: Any, here: Any, target: Target) -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Unreachable, match=r"no peerllm peer|does not answer"):
                await say_hello(here, Target("127.0.0.1", port), timeout_s=0.5)

    between_two(tmp_path, scenario)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.168.0.2", "192.168.0.2", 7338),
        ("192.168.0.2:4000", "192.168.0.2", 4000),
        (" laptop.local ", "laptop.local", 7338),
        ("fd00::2", "fd00::2", 7338),
        ("[fd00::2]:4000", "fd00::2", 4000),
        ("[fd00::2]", "fd00::2", 7338),
    ],
)
def test_target_is_read(text: str, host: str, port: int):
    assert Target.parse(text) == Target(host, port)


@pytest.mark.parametrize(
    "text", ["", ":7338", "a:b", "host:0", "host:65536", "host:99999999999", "a b", "[]:1", "[host]:1", "::1]:2", "a/b"]
)
def test_anything_else_is_no_target(text: str):
    with pytest.raises(ValueError, match="a peer is written HOST or HOST:PORT"):
        Target.parse(text)
