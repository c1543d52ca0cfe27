"""A `bench.peer` that notes what passes it, and prints that when its stdin is closed."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path

import uvloop

from bench.peer import FINGERPRINT, BenchPeer, peer_host
from bench.profile.stamped import Clock, Stamps, stamped_engine, stamped_transport
from peerllm.engine.load import load_span
from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.threads import limit_spinning
from peerllm.model.store import ModelStore
from peerllm.serving.handler import SpanHandler
from peerllm.wire.transport import PUSH_PROTOCOL, SESSION_PROTOCOL
from peerllm_swarm.span import BlockSpan, PeerId


class StampedPeer:
    """Such a process."""

    def __init__(self, store: Path, model: Path, span: BlockSpan, threads: int, transport: str) -> None:
        arguments = [str(store), str(model), str(span), str(threads), transport]
        command = [sys.executable, "-m", "bench.profile.peer", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._span = span

    def introduced(self) -> BenchPeer:
        """Wait until it serves."""
        said = json.loads(self._process.stdout.readline() if self._process.stdout else "")
        return BenchPeer(PeerId(said["peer_id"]), self._span, tuple(said["addresses"]))

    def end(self) -> Stamps:
        """What it has noted."""
        said, _ = self._process.communicate()
        return json.loads(said)


async def _serve(given: argparse.Namespace) -> None:
    clock = Clock()
    stored = ModelStore(given.store).open(str(given.model))
    engine = load_span(stored, given.span, engine="llama", slots=8, context_tokens=1024, threads=given.threads)
    scheduler = StepScheduler(stamped_engine(engine, clock))
    async with peer_host(given.transport) as (real, addresses):
        transport = stamped_transport(real, clock)
        handler = SpanHandler(scheduler, FINGERPRINT, transport)
        await transport.serve(SESSION_PROTOCOL, handler.serve_session)
        await transport.serve(PUSH_PROTOCOL, handler.serve_push)
        print(json.dumps({"peer_id": real.peer_id, "addresses": addresses}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await scheduler.shutdown()
    print(json.dumps(clock.stamps), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("span", type=BlockSpan.parse)
    parser.add_argument("threads", type=int)
    parser.add_argument("transport")
    limit_spinning()
    uvloop.run(_serve(parser.parse_args()))
