"""Several daemons of one machine each get a port, and the same one in both families of IP."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from peerllm.wire.listening import PORTS_TRIED, listening_sockets


def _port(sockets: list[socket.socket], stack: ExitStack) -> int:
    for each in sockets:
        stack.enter_context(each)
    [port] = {each.getsockname()[1] for each in sockets}
    return port


def test_the_next_free_port_is_taken() -> None:
    with ExitStack() as stack:
        first = _port(listening_sockets("0.0.0.0", 0), stack)
        second = _port(listening_sockets("0.0.0.0", first), stack)
        third = _port(listening_sockets("127.0.0.1", first), stack)
        assert first < second < third < first + PORTS_TRIED


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match="address"):
        listening_sockets("192.0.2.1", 0)
