"""Sessions that are abandoned anywhere on their way leave nothing behind at the peers, nor at the asker."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest

from peerllm.engine.load import load_span
from peerllm.engine.span_engine import Hidden
from peerllm.errors import HopLost
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.hop_link import HopLink
from peerllm.model.store import ModelStore, StoredModel
from peerllm.serving.session import ServedSession
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Open, WireDtype, new_session_id
from peerllm.wire.transport import SESSION_PROTOCOL, Libp2pTransport
from peerllm_swarm.identity import Identity
from peerllm_swarm.p2p import start_p2p, stop_p2p
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import BlockSpan
from tests.support.gguf_models import tiny_gguf
from tests.support.memory_growth import resident_bytes, slope
from tests.support.peers import FINGERPRINT, ServingPeer, serving_peers, transport, until

FRONT, BACK = BlockSpan(0, 3), BlockSpan(3, 6)
SLOTS, AT_ONCE = 16, 8
SESSIONS, BATCH = 200, 40
PROMPT_ROWS = 400
GROWTH_BYTES = 48 << 10
"""Per session, at most: the heap settles. What is forgotten of one weighs more, its rows alone 100 KiB at each hop."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


@dataclass
class Ground:
    """A front, a back and a spare back, and an asker that abandons sessions there."""

    peers: Sequence[ServingPeer]
    asker: Libp2pTransport
    home: Path
    prompt: Hidden
    random: Random
    dropped: int = 0

    @property
    def addresses(self):
        return {peer.peer_id: peer.addresses for peer in self.peers}

    def route(self, back: int = 1) -> Route:
        hops = (Hop(self.peers[0].peer_id, FRONT), Hop(self.peers[back].peer_id, BACK))
        return Route(FINGERPRINT, hops)

    @asynccontextmanager
    async def chain(self, asker: Libp2pTransport) -> AsyncIterator[Chain]:
        async with open_chain(
            self.route(),
            self.addresses,
            asker,
            tokens=1024,
            wire_dtype=WireDtype.FLOAT32,
            timings=ChainTimings(open_s=5.0, step_s=5.0),
        ) as chain:
            yield chain

    async def broken_off(self, work: Awaitable[object]) -> None:
        """Let it run for a little while, then cancel it."""
        task = asyncio.ensure_future(work)
        await asyncio.wait((task,), timeout=self.random.choice((0.0, 0.002, 0.01, 0.03, 0.1)))
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, Exception) and not isinstance(outcome, HopLost):
            raise outcome


async def before_open(ground: Ground) -> None:
    peer = ground.peers[0]

    async def say_nothing() -> None:
        stream = await ground.asker.open_stream(peer.peer_id, peer.addresses, SESSION_PROTOCOL, 5.0)
        try:
            await asyncio.sleep(1.0)
        finally:
            await stream.close()

    await ground.broken_off(say_nothing())


async def after_open(ground: Ground) -> None:
    """A hop opened, and its next one never; or all of it, but nobody listens."""
    front, back = ground.peers[:2]
    stream = await ground.asker.open_stream(front.peer_id, front.addresses, SESSION_PROTOCOL, 5.0)
    behind = ground.random.choice((None, back))
    addresses = behind.addresses if behind is not None else ()
    next_id = behind.peer_id if behind is not None else None
    await stream.send(Open(new_session_id(), FINGERPRINT, 0, 3, 64, WireDtype.FLOAT32, None, next_id, addresses))
    await asyncio.sleep(ground.random.choice((0.0, 0.01, 0.05)))
    await stream.close()


async def while_it_opens(ground: Ground) -> None:
    async def open_and_wait() -> None:
        async with ground.chain(ground.asker):
            await asyncio.sleep(1.0)

    await ground.broken_off(open_and_wait())


async def in_prefill(ground: Ground) -> None:
    async with ground.chain(ground.asker) as chain:
        await ground.broken_off(chain.step(ground.prompt, 0))


async def in_decode(ground: Ground) -> None:
    async with ground.chain(ground.asker) as chain:
        await chain.step(ground.prompt[:20], 0)
        await ground.broken_off(_decode(ground, chain, 20))


async def while_recovering(ground: Ground) -> None:
    async with ground.chain(ground.asker) as chain:
        await chain.step(ground.prompt[:200], 0)
        gone = {ground.peers[1].peer_id}
        await ground.broken_off(chain.mend(ground.route(2), ground.addresses, gone, ground.prompt[:200]))


async def to_its_end(ground: Ground) -> None:
    async with ground.chain(ground.asker) as chain:
        await chain.step(ground.prompt[:20], 0)


async def with_its_host(ground: Ground) -> None:
    """The asker's libp2p daemon is killed."""
    ground.dropped += 1
    p2p = await start_p2p(Identity.load_or_create(ground.home / f"dropped-{ground.dropped}"), port=0, host="127.0.0.1")
    asker = Libp2pTransport(p2p)
    try:
        with_host = asyncio.ensure_future(_decode_until_lost(ground, asker))
        await asyncio.sleep(ground.random.choice((0.05, 0.2)))
        p2p._child.kill()  # as tests/swarm/directory_worlds.py does
        await asyncio.wait_for(with_host, 10)
    finally:
        await asker.close()
        await stop_p2p(p2p)


async def _decode_until_lost(ground: Ground, asker: Libp2pTransport) -> None:
    try:
        async with ground.chain(asker) as chain:
            await chain.step(ground.prompt[:20], 0)
            await _decode(ground, chain, 20)
    except HopLost:
        pass


async def _decode(ground: Ground, chain: Chain, position: int) -> None:
    for at in range(position, 1024):
        await chain.step(ground.prompt[:1], at)


WAYS: Sequence[Callable[[Ground], Awaitable[None]]] = (
    *(before_open, after_open, while_it_opens, in_prefill, in_decode, while_recovering, to_its_end) * 4,
    with_its_host,
)


@dataclass(frozen=True)
class Left:
    """What a process has open."""

    tasks: int
    threads: int
    files: int
    files_of_hosts: int

    @classmethod
    def now(cls) -> Left:
        me = psutil.Process()
        hosts = sum(child.num_fds() for child in me.children())
        # asyncio's own pool grows to its limit as it likes, and is no session's.
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        return cls(len(asyncio.all_tasks()), len(threads), me.num_fds(), hosts)

    def is_at_most(self, other: Left) -> bool:
        return (
            self.tasks <= other.tasks
            and self.threads <= other.threads
            and self.files <= other.files
            and self.files_of_hosts <= other.files_of_hosts
        )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_abandoned_sessions_leave_nothing_behind(
    model: StoredModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Records that pytest keeps hold their errors, whose tracebacks hold the sessions that they came from.
    caplog.set_level(logging.WARNING, "peerllm")
    random = Random(20)
    prompt = np.random.default_rng(3).standard_normal((PROMPT_ROWS, model.spec.hidden), dtype=np.float32)
    ways = [random.choice(WAYS) for _ in range(SESSIONS)]
    engines = [
        load_span(model, span, engine="llama", slots=SLOTS, context_tokens=1024, threads=1)
        for span in (FRONT, BACK, BACK)
    ]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            peers = await stack.enter_async_context(serving_peers(tmp_path, engines))
            asker, _ = await stack.enter_async_context(transport(tmp_path / "asker"))
            ground = Ground(peers, asker, tmp_path, prompt, random)
            at_first = Left.now()
            for _ in range(3):  # then all of them are connected
                await while_recovering(ground)
            await _at_rest(peers, replace(at_first, files_of_hosts=sys.maxsize))
            await asyncio.sleep(1.5)  # longer than libp2p's daemons take to close a stream
            begun, resident = replace(at_first, files_of_hosts=Left.now().files_of_hosts), []
            for done in range(0, SESSIONS, BATCH):
                await _all(ways[done : done + BATCH], ground)
                await _at_rest(peers, begun)
                gc.collect()
                assert _alive() == []
                resident.append((done, resident_bytes("VmRSS")))
            for peer in peers:
                slots = [await peer.scheduler.open() for _ in range(SLOTS)]
                assert len(slots) == SLOTS
                for slot in slots:
                    await peer.scheduler.close(slot)
            growth = slope(resident[1:])
            print(f"{SESSIONS} sessions, {ground.dropped} with their host; resident memory {growth:+.0f} B per session")
            assert growth < GROWTH_BYTES

    asyncio.run(asyncio.wait_for(main(), 200))


async def _all(ways: Sequence[Callable[[Ground], Awaitable[None]]], ground: Ground) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(way: Callable[[Ground], Awaitable[None]]) -> None:
        async with room:
            await way(ground)

    async with asyncio.TaskGroup() as group:
        for way in ways:
            group.create_task(one(way))


async def _at_rest(peers: Sequence[ServingPeer], begun: Left) -> None:
    try:
        await until(lambda: _idle(peers) and Left.now().is_at_most(begun), 15.0)
    except TimeoutError:
        sessions = [peer.handler.sessions for peer in peers]
        raise AssertionError(f"{sessions} sessions, {Left.now()} after {begun}: {asyncio.all_tasks()}") from None


def _alive() -> list[str]:
    """What sessions are made of and should be gone, when all of them have ended."""
    kinds = (LiveStream, ServedSession, Chain, HopLink)
    return [type(found).__name__ for found in gc.get_objects() if type(found) in kinds]


def _idle(peers: Sequence[ServingPeer]) -> bool:
    return all(peer.handler.sessions == 0 for peer in peers)
