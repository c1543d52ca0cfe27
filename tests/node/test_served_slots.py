"""What becomes of a peer's KV slots: dead askers lose them, greedy ones share them, a leaving peer gives none away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from peerllm.engine.load import load_span
from peerllm.errors import HopBusy, HopLost, PeerGone
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.model.store import ModelStore, StoredModel
from peerllm.serving.handler import ATTACHING, HandlerTimings
from peerllm.wire.live_stream import LiveStream
from peerllm.wire.messages import Attach, Leaving, Open, Opened, Refused, WireDtype, new_session_id
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL, Libp2pTransport
from peerllm_swarm.routing import Hop, Route
from peerllm_swarm.span import BlockSpan
from tests.support.gguf_models import tiny_gguf
from tests.support.peers import FINGERPRINT, ServingPeer, serving_peer, serving_peers, transport, until

FRONT, BACK, WHOLE = BlockSpan(0, 3), BlockSpan(3, 6), BlockSpan(0, 6)
FREED_S = 5.0
"""What the issue allows from an asker's death until its slots are free."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    folder = tmp_path_factory.mktemp("tiny")
    return ModelStore(folder / "store").open(str(tiny_gguf(folder)))


@asynccontextmanager
async def serving(
    model: StoredModel, home: Path, spans: Sequence[BlockSpan], slots: int
) -> AsyncIterator[list[ServingPeer]]:
    engines = [load_span(model, span, engine="llama", slots=slots, context_tokens=1024, threads=1) for span in spans]
    async with serving_peers(home, engines) as peers:
        yield peers


@asynccontextmanager
async def asking_process(
    home: Path, peers: Sequence[tuple[ServingPeer, BlockSpan]], hidden: int, sessions: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process with sessions that decode."""
    hops = [[peer.peer_id, peer.addresses, span.start, span.end] for peer, span in peers]
    plan = json.dumps({"hops": hops, "hidden": hidden, "sessions": sessions})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.asking_peer", str(home), plan, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"decoding\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def opened(streams: Libp2pTransport, peer: ServingPeer) -> tuple[LiveStream, Opened | Refused]:
    """A stream with `Open` sent, and what the peer says to it."""
    stream = await streams.open_stream(peer.peer_id, peer.addresses, SESSION_PROTOCOL, 5.0)
    await stream.send(Open(new_session_id(), FINGERPRINT, 0, 6, 64, WireDtype.FLOAT32, None, None, ()))
    answer = await stream.receive()
    assert isinstance(answer, Opened | Refused)
    return stream, answer


@asynccontextmanager
async def chain_at(streams: Libp2pTransport, peer: ServingPeer) -> AsyncIterator[Chain]:
    async with open_chain(
        Route(FINGERPRINT, (Hop(peer.peer_id, WHOLE),)),
        {peer.peer_id: peer.addresses},
        streams,
        tokens=64,
        wire_dtype=WireDtype.FLOAT32,
        timings=ChainTimings(open_s=5.0, step_s=5.0),
    ) as chain:
        yield chain


@pytest.mark.parametrize("how", ["killed", "stopped with its libp2p daemon"])
def test_slots_of_an_asker_that_dies_are_free_within_five_seconds(how: str, model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(model, tmp_path, [FRONT, BACK], 3) as peers:
            route = [(peers[0], FRONT), (peers[1], BACK)]
            async with asking_process(tmp_path / "asker", route, model.spec.hidden, sessions=3) as asker:
                assert [peer.handler.sessions for peer in peers] == [3, 3]
                frozen = psutil.Process(asker.pid).children(recursive=True) if how != "killed" else []
                for process in frozen:
                    process.suspend()
                os.kill(asker.pid, signal.SIGSTOP if frozen else signal.SIGKILL)
                died = time.monotonic()
                for peer in peers:
                    await until(lambda peer=peer: peer.handler.sessions == 0, FREED_S)
                    slots = [await peer.scheduler.open() for _ in range(3)]  # the engine's own, not just our count
                    for slot in slots:
                        await peer.scheduler.close(slot)
                print(f"{how}: all slots free after {time.monotonic() - died:.2f} s")
                for process in frozen:
                    process.kill()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_freed_slot_goes_to_the_asker_that_has_none(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            serving(model, tmp_path, [WHOLE], 2) as (peer,),
            transport(tmp_path / "greedy") as (greedy, _),
            transport(tmp_path / "modest") as (modest, _),
            AsyncExitStack() as stack,
        ):
            held = await stack.enter_async_context(AsyncExitStack())
            for _ in range(2):
                await held.enter_async_context(chain_at(greedy, peer))
            stream, refusal = await opened(modest, peer)
            await stream.close()
            assert isinstance(refusal, Refused)
            assert refusal.code == "no_slot"
            assert 0 < refusal.retry_after_s <= 5
            await held.aclose()
            await until(lambda: peer.handler.sessions == 0)
            await stack.enter_async_context(chain_at(greedy, peer))  # one of two: the other one is kept
            with pytest.raises(HopBusy):
                await stack.enter_async_context(chain_at(greedy, peer))
            await stack.enter_async_context(chain_at(modest, peer))
            assert peer.handler.sessions == 2

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_strangers_session_moves_for_an_answer_of_the_machines_own(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        engine = load_span(model, WHOLE, engine="llama", slots=2, context_tokens=1024, threads=1)
        timings = HandlerTimings(own_wait_s=0.2, hand_over_s=0.3)
        async with (
            serving_peer(tmp_path / "peer", engine, timings=timings) as peer,
            transport(tmp_path / "asker") as (asker, _),
        ):
            streams = [(await opened(asker, peer))[0] for _ in range(2)]
            own, refusal = await opened(peer.transport, peer)
            await own.close()
            assert isinstance(refusal, Refused)
            async with asyncio.timeout(5.0):
                while True:  # as a router asks
                    own, answer = await opened(peer.transport, peer)
                    if isinstance(answer, Opened):
                        break
                    await own.close()
                    await asyncio.sleep(0.1)
            assert await streams[0].receive() == Leaving(0.3)
            with pytest.raises(PeerGone):  # it has not moved, and is cut
                await streams[0].receive()
            assert peer.handler.sessions == 2  # one is the other stranger's
            for stream in (*streams, own):
                await stream.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_leaving_peer_tells_every_asker_at_once_and_admits_nobody(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(model, tmp_path, [WHOLE], 3) as (peer,), transport(tmp_path / "asker") as (asker, _):
            streams = [await opened(asker, peer) for _ in range(3)]
            leaving = asyncio.create_task(peer.handler.drain(20.0))
            async with asyncio.timeout(1.0):
                told = [await stream.receive() for stream, _ in streams]
            assert told == [Leaving(20.0)] * 3
            with pytest.raises(HopLost, match="draining"):
                async with chain_at(asker, peer):
                    pass
            assert peer.handler.sessions == 3
            for stream, _ in streams:
                await stream.close()
            await asyncio.wait_for(leaving, 5)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_asker_that_takes_nothing_does_not_keep_the_goodbye_from_the_others(
    model: StoredModel, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            serving(model, tmp_path, [WHOLE], 2) as (peer,),
            transport(tmp_path / "asker") as (asker, _),
            asking_process(tmp_path / "stuck", [(peer, WHOLE)], model.spec.hidden, sessions=1) as stuck,
        ):
            stream, _ = await opened(asker, peer)
            os.kill(stuck.pid, signal.SIGSTOP)
            leaving = asyncio.create_task(peer.handler.drain(0.5))
            async with asyncio.timeout(1.0):
                assert await stream.receive() == Leaving(0.5)
            await asyncio.wait_for(leaving, 5)
            await stream.close()
            assert peer.handler.sessions == 0

    asyncio.run(asyncio.wait_for(main(), 60))


def test_more_hops_than_there_can_be_do_not_wait_to_attach(model: StoredModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(model, tmp_path, [BACK], 2) as (peer,), transport(tmp_path / "hop") as (hop, _):
            streams = []
            for _ in range(ATTACHING * 2 + 1):
                stream = await hop.open_stream(peer.peer_id, peer.addresses, PUSH_PROTOCOL, 5.0)
                await stream.send(Attach(new_session_id()))
                streams.append(stream)
            ends = [asyncio.create_task(stream.receive()) for stream in streams]
            done, _ = await asyncio.wait(ends, timeout=3.0, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1, "one is turned away while the others wait"
            for stream in streams:
                await stream.close()
            await asyncio.gather(*ends, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_hop_gives_up_reaching_the_next_one_when_its_asker_has_gone(model: StoredModel, tmp_path: Path) -> None:
    """Sessions refused behind it must not fill up what it may attach to there: an innocent peer would be blamed."""

    async def main() -> None:
        async with (
            serving(model, tmp_path, [FRONT, BACK], 2) as (front, back),
            transport(tmp_path / "asker") as (asker, _),
        ):
            for _ in range(4):  # opened in front, never behind
                stream = await asker.open_stream(front.peer_id, front.addresses, SESSION_PROTOCOL, 5.0)
                next_hop = (back.peer_id, back.addresses)
                await stream.send(Open(new_session_id(), FINGERPRINT, 0, 3, 64, WireDtype.FLOAT32, None, *next_hop))
                await until(lambda: front.handler.sessions == 1)
                await stream.close()
                await until(lambda: front.handler.sessions == 0, FREED_S / 2)
            route = Route(FINGERPRINT, (Hop(front.peer_id, FRONT), Hop(back.peer_id, BACK)))
            addresses = {peer.peer_id: peer.addresses for peer in (front, back)}
            timings = ChainTimings(open_s=5.0, step_s=5.0)
            async with open_chain(route, addresses, asker, tokens=64, wire_dtype=WireDtype.FLOAT32, timings=timings):
                assert (front.handler.sessions, back.handler.sessions) == (1, 1)

    asyncio.run(asyncio.wait_for(main(), 60))
