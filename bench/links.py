"""Slow links inside this machine: relays on loopback that delay what passes and let it through at a given rate.

    with slow_links([port_of_a, port_of_b], LinkSpeed(one_way_ms=20)) as links:
        ...  # whoever connects to links.ports[0] talks to port_of_a, 20 ms away
    async with delayed_link(port, one_way_ms=20) as near: ...

The relay is a process of its own (`python -m bench.links`), compiled, asleep between bytes. What it costs by itself
is measured when it starts and taken off the delay, so that a short link gives what it promises: `SlowLinks.rtt_ms` and
`.megabits_s` are what it gave just then. The rate holds for each connection and direction. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from statistics import median

_WIRE_OVERHEAD = 1538 / 1448
"""Ethernet, IP and TCP around a full segment: what a link of 1 Gbit/s carries is 0.94 Gbit/s."""

_PING_BYTES, _PINGS = 64, 100
_TRIED_MS = 0.5
_BULK_BYTES = 8 << 20
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29


@dataclass(frozen=True)
class LinkSpeed:
    """Of one link; no bandwidth means as fast as the relay goes."""

    one_way_ms: float
    megabits_s: float | None = None

    @property
    def payload_bytes_s(self) -> float:
        """0 where nothing limits it."""
        return self.megabits_s * 1e6 / 8 / _WIRE_OVERHEAD if self.megabits_s else 0.0

    def __str__(self) -> str:
        rate = f"{self.megabits_s:g} Mbit/s, " if self.megabits_s else ""
        return f"{rate}{2 * self.one_way_ms:g} ms round trip"


GIGABIT_LAN = LinkSpeed(one_way_ms=0.15, megabits_s=1000)


@dataclass(frozen=True)
class SlowLinks:
    """Ports on 127.0.0.1, in the targets' order, and what the link gave when it was tried."""

    ports: tuple[int, ...]
    speed: LinkSpeed
    rtt_ms: float
    """Of 64 bytes from socket to socket, median."""
    megabits_s: float
    """Of payload, one way."""

    def __str__(self) -> str:
        return f"{self.speed} (gave {self.rtt_ms:.3f} ms and {self.megabits_s:.0f} Mbit/s of payload)"


@contextmanager
def slow_links(targets: Sequence[int], speed: LinkSpeed) -> Iterator[SlowLinks]:
    """One port for each of the targets, which are ports of 127.0.0.1; the relay ends with the context."""
    command = [sys.executable, "-m", "bench.links", str(speed.one_way_ms), str(speed.megabits_s or 0.0)]
    with subprocess.Popen(
        [*command, *map(str, targets)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError(f"the relay ended with {process.wait()}")
            said = json.loads(line)
            yield SlowLinks(tuple(said["ports"]), speed, said["rtt_ms"], said["megabits_s"])
        finally:
            process.communicate()  # closes stdin: the relay's sign to end


@asynccontextmanager
async def delayed_link(target: int, one_way_ms: float) -> AsyncIterator[int]:
    """A port that leads to `target`, so far away."""
    links = slow_links([target], LinkSpeed(one_way_ms))
    opened = await asyncio.to_thread(links.__enter__)
    try:
        yield opened.ports[0]
    finally:
        await asyncio.to_thread(links.__exit__, None, None, None)


def through(port: int) -> tuple[str, ...]:
    """The multiaddress under which a libp2p peer is met behind a link's port."""
    return (f"/ip4/127.0.0.1/tcp/{port}",)


def tcp_port(addresses: Sequence[str]) -> int:
    """Where a libp2p peer listens on loopback, from its multiaddresses."""
    for address in addresses:
        parts = address.split("/")
        if parts[1:4:2] == ["ip4", "tcp"] and parts[2].startswith("127."):
            return int(parts[4])
    raise ValueError(f"no TCP address on loopback among {', '.join(addresses)}")


# The relay's process.


def _serve(speed: LinkSpeed, targets: Sequence[int]) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_TIMERSLACK, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever uses the links
    with suppress(OSError, AttributeError):
        # A relay that waits for a busy core would add delays of its own.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    hold_ns = _hold_ns(speed)
    rtt_ms = _tried_rtt_ms(hold_ns, speed.payload_bytes_s, _pings(speed))
    megabits_s = _tried_megabits_s(hold_ns, speed.payload_bytes_s)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in targets]
    for listener, target in zip(listeners, targets, strict=True):
        _start(_accept, listener, target, hold_ns, speed.payload_bytes_s)
    ports = [listener.getsockname()[1] for listener in listeners]
    print(json.dumps({"ports": ports, "rtt_ms": rtt_ms, "megabits_s": megabits_s}), flush=True)
    sys.stdin.read()
    os._exit(0)  # compiled threads do not hear of an end


def _hold_ns(speed: LinkSpeed) -> int:
    """The delay less what late timers and two more sockets take, so that the sum is what was asked for."""
    tried_ms = min(speed.one_way_ms, _TRIED_MS)
    own_ms = _tried_rtt_ms(round(tried_ms * 1e6), 0.0, _PINGS) / 2 - tried_ms
    return max(0, round((speed.one_way_ms - own_ms) * 1e6))


def _pings(speed: LinkSpeed) -> int:
    """As many as fit in half a second, at least 3."""
    return max(3, min(_PINGS, round(250 / max(speed.one_way_ms, 0.01))))


def _tried_rtt_ms(hold_ns: int, bytes_per_s: float, pings: int) -> float:
    from bench.link_relay import echo, round_trips

    near, far = _relayed_pair(hold_ns, bytes_per_s)
    with near, far:
        _start(echo, far.fileno(), _PING_BYTES)
        round_trips(near.fileno(), _PING_BYTES, 3)
        taken_ns = round_trips(near.fileno(), _PING_BYTES, pings)
        near.shutdown(socket.SHUT_RDWR)
    return median(map(float, taken_ns)) / 1e6


def _tried_megabits_s(hold_ns: int, bytes_per_s: float) -> float:
    """Of one long write, counted from the first bytes that arrive."""
    near, far = _relayed_pair(hold_ns, bytes_per_s)
    with near, far:
        _start(near.sendall, bytes(_BULK_BYTES))
        first = len(far.recv(1 << 20))
        got, started = first, time.perf_counter()
        while got < _BULK_BYTES:
            got += len(far.recv(1 << 20))
        return (got - first) * 8 / 1e6 / (time.perf_counter() - started)


def _relayed_pair(hold_ns: int, bytes_per_s: float) -> tuple[socket.socket, socket.socket]:
    """Two sockets with one connection of a link between them."""
    with socket.create_server(("127.0.0.1", 0)) as entry, socket.create_server(("127.0.0.1", 0)) as exit_:
        _start(_accept_one, entry, exit_.getsockname()[1], hold_ns, bytes_per_s)
        near = socket.create_connection(entry.getsockname())
        far, _ = exit_.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def _accept(listener: socket.socket, target: int, hold_ns: int, bytes_per_s: float) -> None:
    while True:
        _accept_one(listener, target, hold_ns, bytes_per_s)


def _accept_one(listener: socket.socket, target: int, hold_ns: int, bytes_per_s: float) -> None:
    incoming, _ = listener.accept()
    try:
        outgoing = socket.create_connection(("127.0.0.1", target), timeout=10)
    except OSError:
        incoming.close()
        return
    outgoing.settimeout(None)
    _start(_carry, incoming, outgoing, hold_ns, bytes_per_s)


def _carry(incoming: socket.socket, outgoing: socket.socket, hold_ns: int, bytes_per_s: float) -> None:
    from bench.link_relay import relay

    with incoming, outgoing:
        for end in (incoming, outgoing):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        relay(incoming.fileno(), outgoing.fileno(), hold_ns, bytes_per_s)


def _start(work, *arguments) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("one_way_ms", type=float)
    parser.add_argument("megabits_s", type=float)
    parser.add_argument("targets", type=int, nargs="*")
    given = parser.parse_args()
    _serve(LinkSpeed(given.one_way_ms, given.megabits_s or None), given.targets)
