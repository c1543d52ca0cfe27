"""One serving peer as a process of its own: `python -m bench.peer MODEL SPAN`, until its stdin is closed.

The peer's path is the real one (libp2p host, handler, scheduler, engine); only the directory is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from peerllm.engine.load import load_span
from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.threads import limit_spinning
from peerllm.model.store import ModelStore
from peerllm.serving.handler import SpanHandler
from peerllm.wire.direct_transport import DirectTransport, direct_transport
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL, Libp2pTransport, Transport
from peerllm_swarm.identity import Identity
from peerllm_swarm.p2p import start_p2p, stop_p2p, visible_addresses
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import BlockSpan, PeerId

FINGERPRINT = "bench"
LIBP2P, DIRECT = "libp2p", "direct"


@dataclass(frozen=True)
class BenchPeer:
    peer_id: PeerId
    span: BlockSpan
    addresses: tuple[str, ...]


@contextmanager
def peer_processes(
    store: Path,
    model: Path,
    spans: Sequence[BlockSpan],
    threads: int,
    *,
    transport: str = LIBP2P,
    slots: int = 8,
    context_tokens: int = 1024,
) -> Iterator[list[BenchPeer]]:
    """One process per span; they end with the context."""
    command = [sys.executable, "-m", "bench.peer", str(store), str(model)]
    settings = [str(threads), transport, str(slots), str(context_tokens)]
    processes = [
        subprocess.Popen([*command, str(span), *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for span in spans
    ]
    try:
        yield [_introduced(process, span) for process, span in zip(processes, spans, strict=True)]
    finally:
        for process in processes:
            process.communicate()  # closes stdin: the peer's sign to end


def route_through(peers: Sequence[BenchPeer]) -> Route:
    return Route(FINGERPRINT, tuple(Hop(peer.peer_id, peer.span) for peer in peers))


@asynccontextmanager
async def libp2p_host() -> AsyncIterator[tuple[Libp2pTransport, tuple[str, ...]]]:
    """A peer's transport and where others reach it."""
    with tempfile.TemporaryDirectory() as home:
        p2p = await start_p2p(Identity.load_or_create(Path(home)), port=0, host="127.0.0.1")
        transport = Libp2pTransport(p2p)
        try:
            yield transport, await visible_addresses(p2p)
        finally:
            await transport.close()
            await stop_p2p(p2p)


def peer_host(transport: str) -> AbstractAsyncContextManager[tuple[Transport, tuple[str, ...]]]:
    """The same with the transport of that name.

    Raises:
        ValueError: there is none of that name.
    """
    hosts = {LIBP2P: libp2p_host, DIRECT: direct_host}
    if transport not in hosts:
        raise ValueError(f"no transport is called {transport}; there are {', '.join(hosts)}")
    return hosts[transport]()


@asynccontextmanager
async def direct_host() -> AsyncIterator[tuple[DirectTransport, tuple[str, ...]]]:
    """With direct sockets in front of libp2p, which is what peers of one LAN use."""
    async with libp2p_host() as (libp2p, addresses), direct_transport(libp2p, host="127.0.0.1", port=0) as transport:
        yield transport, addresses


def _introduced(process: subprocess.Popen[str], span: BlockSpan) -> BenchPeer:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError(f"the peer for blocks {span} ended with {process.wait()}")
    said = json.loads(line)
    return BenchPeer(PeerId(said["peer_id"]), span, tuple(said["addresses"]))


async def _serve(given: argparse.Namespace) -> None:
    stored = ModelStore(given.store).open(str(given.model))
    engine = load_span(
        stored,
        given.span,
        engine="llama",
        slots=given.slots,
        context_tokens=given.context_tokens,
        threads=given.threads,
    )
    scheduler = StepScheduler(engine)
    async with peer_host(given.transport) as (transport, addresses):
        handler = SpanHandler(scheduler, FINGERPRINT, transport)
        await transport.serve(SESSION_PROTOCOL, handler.serve_session)
        await transport.serve(PUSH_PROTOCOL, handler.serve_push)
        print(json.dumps({"peer_id": transport.peer_id, "addresses": addresses}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await scheduler.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("span", type=BlockSpan.parse)
    parser.add_argument("threads", type=int)
    parser.add_argument("transport")
    parser.add_argument("slots", type=int)
    parser.add_argument("context_tokens", type=int)
    limit_spinning()
    uvloop.run(_serve(parser.parse_args()))
