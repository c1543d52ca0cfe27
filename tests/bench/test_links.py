"""The slow links of the benches lose nothing and end when a side ends; how slow they are is measured, not tested."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from threading import Thread

import pytest

from bench.links import GIGABIT_LAN, LinkSpeed, slow_links, tcp_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the relay needs ppoll")


@contextmanager
def connected(speed: LinkSpeed) -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        slow_links([listener.getsockname()[1]], speed) as links,
        socket.create_connection(("127.0.0.1", links.ports[0]), timeout=30) as near,
    ):
        far, _ = listener.accept()
        far.settimeout(30)
        with far:
            yield near, far


def received(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 16), b""))


@pytest.mark.parametrize("speed", [LinkSpeed(one_way_ms=5), GIGABIT_LAN], ids=str)
def test_bytes_arrive_whole_both_ways_and_the_end_after_them(speed: LinkSpeed) -> None:
    there, back = Random(0).randbytes(3 << 20), Random(1).randbytes(1 << 20)

    with connected(speed) as (near, far):
        senders = [Thread(target=_said, args=pair) for pair in ((near, there), (far, back))]
        for sender in senders:
            sender.start()
        assert received(far) == there
        assert received(near) == back
        for sender in senders:
            sender.join(30)


def _said(end: socket.socket, message: bytes) -> None:
    end.sendall(message)
    end.shutdown(socket.SHUT_WR)


def test_port_of_a_peer_on_loopback() -> None:
    assert tcp_port(("/ip4/10.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4002")) == 4002
    with pytest.raises(ValueError, match="no TCP address on loopback"):
        tcp_port(("/ip6/::1/tcp/4001",))
