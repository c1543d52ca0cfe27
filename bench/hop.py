"""What one hop costs on the wire: round trips and one-way throughput between two processes.

    python -m bench.hop [--rounds N] [--json]

Raw TCP, `LiveStream` over a direct socket and `LiveStream` over libp2p take turns, so that whatever else the machine
does hits all of them; all in uvloop, as in the daemon. And how long a session's stream takes to open, over both.
Targets (docs/performance.md): a round trip of ``[1, 4096]`` float16 within 0.15 ms of raw TCP over the direct socket,
within 0.8 ms over libp2p.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import numpy as np
import uvloop

from bench.machine import describe
from bench.peer import libp2p_host
from peerllm.wire.direct_transport import direct_transport
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Step, Want
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL, Transport
from peerllm_swarm.span import PeerId

DECODE_ROWS = np.random.default_rng(0).standard_normal((1, 4096)).astype(np.float16)
PREFILL_ROWS = np.random.default_rng(0).standard_normal((128, 4096)).astype(np.float16)  # 1 MiB
PREFILL_CHUNKS = 16
TURN = 20  # round trips of one transport before it is the other's turn
WARM_UP = 50
OPENINGS = 2  # streams opened in one turn
TCP, DIRECT, LIBP2P = "tcp", "direct", "libp2p"

_LENGTH = struct.Struct("<I")
_ECHO, _COUNT = b"e", b"c"  # first byte of a raw TCP connection


@dataclass(frozen=True)
class Spread:
    """Median and the range that holds 90 % of the samples."""

    p50: float
    p5: float
    p95: float

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        ordered = sorted(samples)
        return cls(statistics.median(ordered), ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20])


@dataclass(frozen=True)
class Result:
    """Each by the name of the transport."""

    machine: str
    round_trips: int
    round_trip_ms: Mapping[str, Spread]
    one_way_mb_s: Mapping[str, Spread]
    open_ms: Mapping[str, Spread]

    @property
    def added_ms(self) -> Mapping[str, float]:
        """What framing, heartbeat and encryption add to a round trip of one token."""
        tcp_ms = self.round_trip_ms[TCP].p50
        return {name: self.round_trip_ms[name].p50 - tcp_ms for name in (DIRECT, LIBP2P)}


@dataclass(frozen=True)
class Answering:
    """Where the other process listens: over libp2p, and for raw TCP on loopback."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    port: int


Sample = Callable[[], Awaitable[float]]


async def measure(rounds: int) -> Result:
    async with (
        _other_process() as other,
        libp2p_host() as (libp2p, _),
        direct_transport(libp2p, host="127.0.0.1", port=0) as direct,
        _streams(direct, other) as (direct_echo, direct_sink),
        _streams(libp2p, other) as (echo, sink),
        _connections(other) as (raw_echo, raw_sink),
    ):
        if not direct.has_way(other.peer_id):
            raise RuntimeError("there is no direct socket to the other process")
        trips = {
            TCP: lambda: _raw_round_trip(raw_echo),
            DIRECT: lambda: _round_trip(direct_echo),
            LIBP2P: lambda: _round_trip(echo),
        }
        prefills = {
            TCP: lambda: _raw_prefill(raw_sink),
            DIRECT: lambda: _prefill(direct_sink),
            LIBP2P: lambda: _prefill(sink),
        }
        openings = {DIRECT: lambda: _opening(direct, other), LIBP2P: lambda: _opening(libp2p, other)}
        await _take_turns(trips, turns=1, each=WARM_UP)
        milliseconds = await _take_turns(trips, turns=rounds, each=TURN)
        megabytes = await _take_turns(prefills, turns=max(3, rounds // 2), each=1)
        opened = await _take_turns(openings, turns=max(3, rounds // 2), each=OPENINGS)
    return Result(describe(), rounds * TURN, _spreads(milliseconds), _spreads(megabytes), _spreads(opened))


def _spreads(samples: Mapping[str, list[float]]) -> dict[str, Spread]:
    return {name: Spread.of(taken) for name, taken in samples.items()}


async def _take_turns(samples: Mapping[str, Sample], *, turns: int, each: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in samples}
    for _ in range(turns):
        for name, sample in samples.items():
            taken[name] += [await sample() for _ in range(each)]
    return taken


# The asking process.


async def _round_trip(stream: LiveStream) -> float:
    started = time.perf_counter()
    await stream.send(Step(1, 0, Want.LAST, DECODE_ROWS))
    await stream.receive()
    return (time.perf_counter() - started) * 1e3


async def _prefill(stream: LiveStream) -> float:
    started = time.perf_counter()
    for chunk in range(PREFILL_CHUNKS):
        last = chunk == PREFILL_CHUNKS - 1
        await stream.send(Step(chunk, 0, Want.LAST if last else Want.NONE, PREFILL_ROWS))
    await stream.receive()
    return _mb_per_s(started)


async def _opening(transport: Transport, other: Answering) -> float:
    """Until the first answer on a new stream."""
    started = time.perf_counter()
    stream = await transport.open_stream(other.peer_id, other.addresses, SESSION_PROTOCOL, 10.0)
    await stream.ping()
    opened_ms = (time.perf_counter() - started) * 1e3
    await stream.close()
    return opened_ms


async def _raw_round_trip(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> float:
    reader, writer = connection
    started = time.perf_counter()
    writer.write(_LENGTH.pack(DECODE_ROWS.nbytes) + DECODE_ROWS.tobytes())
    await writer.drain()
    await reader.readexactly(_LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0])
    return (time.perf_counter() - started) * 1e3


async def _raw_prefill(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> float:
    reader, writer = connection
    started = time.perf_counter()
    for _ in range(PREFILL_CHUNKS):
        writer.write(PREFILL_ROWS.data.cast("B"))
        await writer.drain()
    await reader.readexactly(1)
    return _mb_per_s(started)


def _mb_per_s(started: float) -> float:
    return PREFILL_CHUNKS * PREFILL_ROWS.nbytes / 1e6 / (time.perf_counter() - started)


@asynccontextmanager
async def _other_process() -> AsyncIterator[Answering]:
    """The answering process, and where it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.hop", "--answer", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes to the answering process")
    try:
        said = json.loads(await process.stdout.readline())
        yield Answering(PeerId(said["peer_id"]), tuple(said["addresses"]), said["port"])
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def _streams(transport: Transport, other: Answering) -> AsyncIterator[tuple[LiveStream, LiveStream]]:
    echo = await transport.open_stream(other.peer_id, other.addresses, SESSION_PROTOCOL, 10.0)
    sink = await transport.open_stream(other.peer_id, other.addresses, PUSH_PROTOCOL, 10.0)
    yield echo, sink
    await echo.close()
    await sink.close()


@asynccontextmanager
async def _connections(
    other: Answering,
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    connections = [await asyncio.open_connection("127.0.0.1", other.port) for _ in (_ECHO, _COUNT)]
    for (_, writer), kind in zip(connections, (_ECHO, _COUNT), strict=True):
        writer.write(kind)
    yield connections
    for _, writer in connections:
        writer.close()


# The answering process.


async def answer() -> None:
    """Echo and count, over both transports, until standard input ends."""
    server = await asyncio.start_server(_answer_raw, "127.0.0.1", 0)
    async with (
        server,
        libp2p_host() as (libp2p, addresses),
        direct_transport(libp2p, host="127.0.0.1", port=0) as transport,
    ):
        await transport.serve(SESSION_PROTOCOL, _echo)
        await transport.serve(PUSH_PROTOCOL, _count)
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"peer_id": transport.peer_id, "addresses": addresses, "port": port}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _echo(stream: LiveStream) -> None:
    while True:
        await stream.send(await stream.receive())


async def _count(stream: LiveStream) -> None:
    while True:
        step = await stream.receive()
        if isinstance(step, Step) and step.want is Want.LAST:
            await stream.send(Step(step.step, 0, Want.NONE, step.hidden[:0]))


async def _answer_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await (_echo_raw if await reader.readexactly(1) == _ECHO else _count_raw)(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _echo_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        length = await reader.readexactly(_LENGTH.size)
        writer.write(length + await reader.readexactly(_LENGTH.unpack(length)[0]))
        await writer.drain()


async def _count_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        for _ in range(PREFILL_CHUNKS):
            await reader.readexactly(PREFILL_ROWS.nbytes)
        writer.write(b"!")


def report(result: Result) -> str:
    def rows(what: str, spreads: Mapping[str, Spread], digits: int) -> Sequence[str]:
        return [
            f"{f'{what}, {name}':<44} {spread.p50:>9.{digits}f} {spread.p5:>9.{digits}f} {spread.p95:>9.{digits}f}"
            for name, spread in spreads.items()
        ]

    return "\n".join(
        (
            result.machine,
            f"{result.round_trips} round trips each, taking turns",
            f"{'':<44} {'p50':>9} {'p5':>9} {'p95':>9}",
            *rows("[1, 4096] float16 and back, ms", result.round_trip_ms, 3),
            *rows("1 MiB chunks one way, MB/s", result.one_way_mb_s, 0),
            *rows("a stream, to its first answer, ms", result.open_ms, 2),
            *(
                f"{name} adds {added_ms:.3f} ms to a round trip of raw TCP"
                for name, added_ms in result.added_ms.items()
            ),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help=f"turns of {TURN} round trips (default 50)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        uvloop.run(answer())
        return
    result = uvloop.run(measure(arguments.rounds))
    print(json.dumps(asdict(result) | {"added_ms": result.added_ms}) if arguments.json else report(result))


if __name__ == "__main__":
    main()
