"""The asking side of a chain: prompts in at the first hop, tokens per second or a time to the first token out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bench.peer import BenchPeer, peer_host, route_through
from bench.speed.subjects import Subject
from peerllm.engine.load import load_ends
from peerllm.engine.span_engine import Hidden
from peerllm.generation.chain import Chain, ChainTimings, open_chain
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.sampler import Sampler, SamplingParams
from peerllm.wire.messages import WireDtype
from peerllm.wire.transport import Transport

STEP_S = 120.0


@dataclass(frozen=True)
class Asker:
    """A model's two ends, and streams to the peers that hold its blocks."""

    transport: Transport
    ends: EndsThread
    context_tokens: int

    async def tokens_per_s(self, peers: Sequence[BenchPeer], prompts: Sequence[Sequence[int]], count: int) -> float:
        """Of all prompts together, one session each, while `count` tokens each are decoded."""
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(self._chain(peers)) for _ in prompts]
            first = await asyncio.gather(*map(self._prefill, chains, prompts))
            started = time.perf_counter()
            pairs = zip(chains, prompts, first, strict=True)
            await asyncio.gather(*(self._decode(chain, len(prompt), rows, count) for chain, prompt, rows in pairs))
            return (count - 1) * len(prompts) / (time.perf_counter() - started)

    async def ms_per_token(self, peers: Sequence[BenchPeer], prompt: Sequence[int], count: int) -> float:
        """Of one session."""
        return 1000 / await self.tokens_per_s(peers, [prompt], count)

    async def first_token_s(self, peers: Sequence[BenchPeer], prompt: Sequence[int]) -> float:
        """From the question to its first token, the opening of the session included."""
        started = time.perf_counter()
        async with self._chain(peers) as chain:
            hidden = await self._prefill(chain, prompt)
            await self.ends.next_token(hidden, _greedy(), ())
            return time.perf_counter() - started

    def _chain(self, peers: Sequence[BenchPeer]) -> AbstractAsyncContextManager[Chain]:
        return open_chain(
            route_through(peers),
            {peer.peer_id: peer.addresses for peer in peers},
            self.transport,
            tokens=self.context_tokens,
            wire_dtype=WireDtype.FLOAT32,
            timings=ChainTimings(step_s=STEP_S),
        )

    async def _prefill(self, chain: Chain, prompt: Sequence[int]) -> Hidden:
        return await chain.step(await self.ends.embed(prompt), 0)

    async def _decode(self, chain: Chain, position: int, hidden: Hidden, count: int) -> None:
        sampler = _greedy()
        chosen = await self.ends.next_token(hidden, sampler, ())
        for step in range(count - 1):
            hidden = await chain.step(chosen.embedded, position + step)
            chosen = await self.ends.next_token(hidden, sampler, ())


@asynccontextmanager
async def asking(subject: Subject, *, threads: int, transport: str, context_tokens: int = 1024) -> AsyncIterator[Asker]:
    """An asker in this process, whose head computes with so many threads."""
    ends = EndsThread(load_ends(subject.stored, engine="llama", threads=threads))
    try:
        async with peer_host(transport) as (streams, _):
            yield Asker(streams, ends, context_tokens)
    finally:
        await ends.shutdown()


def _greedy() -> Sampler:
    return Sampler(SamplingParams(temperature=0.0))
