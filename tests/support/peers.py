"""Peers of a swarm in one process: real libp2p daemons and engines, no directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.span_engine import SpanEngine
from peerllm.giving.accounts import Accounts
from peerllm.giving.books import Books
from peerllm.serving.handler import HandlerTimings, SpanHandler
from peerllm.wire.direct_transport import DirectTransport, direct_transport
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL, Libp2pTransport, Transport
from peerllm_swarm.identity import Identity
from peerllm_swarm.p2p import start_p2p, stop_p2p, visible_addresses
from peerllm_swarm.span import PeerId

FINGERPRINT = "0123456789abcdef"


@dataclass(frozen=True)
class ServingPeer:
    peer_id: PeerId
    addresses: tuple[str, ...]
    transport: Libp2pTransport | DirectTransport
    scheduler: StepScheduler
    handler: SpanHandler


@asynccontextmanager
async def transport(
    home: Path, *, direct: bool = False
) -> AsyncIterator[tuple[Libp2pTransport | DirectTransport, tuple[str, ...]]]:
    """A peer that can ask, by direct sockets if wanted; its addresses."""
    p2p = await start_p2p(Identity.load_or_create(home), port=0, host="127.0.0.1")
    try:
        transport = Libp2pTransport(p2p)
        try:
            if direct:
                async with direct_transport(transport, host="127.0.0.1", port=0) as sockets:
                    yield sockets, await visible_addresses(p2p)
            else:
                yield transport, await visible_addresses(p2p)
        finally:
            await transport.close()
    finally:
        await stop_p2p(p2p)


@asynccontextmanager
async def serving_peer(
    home: Path,
    engine: SpanEngine,
    fingerprint: str = FINGERPRINT,
    *,
    history_bytes: int = 1 << 20,
    sending: Callable[[Transport], Transport] = lambda streams: streams,
    accounts: Accounts | None = None,
    make_books: type[Books] = Books,
    timings: HandlerTimings = HandlerTimings(),  # noqa: B008 - frozen
    direct: bool = False,
) -> AsyncIterator[ServingPeer]:
    """A peer that serves one loaded span; it owns the engine. What it sends to the next hop goes through `sending`.

    With `accounts` it counts what it gives.
    """
    books = make_books(Identity.load_or_create(home), accounts) if accounts is not None else None
    scheduler = StepScheduler(engine)
    try:
        async with transport(home, direct=direct) as (streams, addresses):
            handler = SpanHandler(
                scheduler, fingerprint, sending(streams), timings, history_bytes=history_bytes, books=books
            )
            await streams.serve(SESSION_PROTOCOL, handler.serve_session)
            await streams.serve(PUSH_PROTOCOL, handler.serve_push)
            yield ServingPeer(streams.peer_id, addresses, streams, scheduler, handler)
    finally:
        await scheduler.shutdown()


@asynccontextmanager
async def serving_peers(home: Path, engines: Sequence[SpanEngine]) -> AsyncIterator[list[ServingPeer]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(serving_peer(home / f"peer-{index}", engine))
            for index, engine in enumerate(engines)
        ]


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for a condition with a deadline, never for a time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
