"""One decode step, every microsecond named: `python -m bench.profile [--model 1b] [--peers 3] [--transport direct]`.

Real peers as processes of their own, one session, greedy. Medians of the times between two things that a token passes,
and beside them the whole model in llama.cpp, in turns. Below, what single parts of this take alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np
import uvloop
from numpy.typing import NDArray

from bench.machine import describe
from bench.peer import DIRECT, LIBP2P, BenchPeer, peer_host, route_through
from bench.profile.parts import parts_us
from bench.profile.peer import StampedPeer
from bench.profile.stamped import Clock, Stamps, stamped_ends, stamped_transport
from bench.speed.subjects import CACHE, Subject, one_billion, smollm2
from bench.whole import WholeLlama
from peerllm.engine.load import load_ends
from peerllm.engine.threads import limit_spinning
from peerllm.generation.chain import ChainTimings, open_chain
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.sampler import Sampler, SamplingParams
from peerllm.wire.messages import WireDtype
from peerllm.wire.transport import Transport

PROMPT_TOKENS, TURNS, TOKENS, CONTEXT_TOKENS = 32, 8, 48, 1024
WARM_UP = 8
"""Tokens at the start of each turn that do not count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("smollm2", "1b"), default="smollm2")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--transport", choices=(LIBP2P, DIRECT), default=DIRECT)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit_spinning()
    subject = {"smollm2": smollm2, "1b": one_billion}[given.model]()
    way_us, whole_us = uvloop.run(_measured(subject, given))
    alone_us = parts_us(subject.stored.spec.hidden, subject.stored.spec.vocab)
    if given.json:
        print(json.dumps({"machine": describe(), "way_us": way_us, "whole_us": whole_us, "alone_us": alone_us}))
        return
    print(
        f"{describe()}\n{subject.name}, {given.peers} peers, {given.threads} threads, {given.transport}; microseconds\n"
    )
    for name, taken_us in way_us.items():
        print(f"{name:<52}{taken_us:>9.0f}")
    print(f"{'sum':<52}{sum(way_us.values()):>9.0f}\n{'the whole model in llama.cpp':<52}{whole_us:>9.0f}\n")
    for name, taken_us in alone_us.items():
        print(f"alone: {name:<45}{taken_us:>9.1f}")


async def _measured(subject: Subject, given: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Medians of every part of a token's way, and of the whole model's token."""
    clock, [prompt] = Clock(), subject.prompts(1, PROMPT_TOKENS)
    whole = WholeLlama(subject.path, threads=given.threads, streams=1, context_tokens=CONTEXT_TOKENS)
    real_ends = load_ends(subject.stored, engine="llama", threads=given.threads)
    ends = EndsThread(stamped_ends(real_ends, clock))
    spans = subject.spans(given.peers)
    processes = [StampedPeer(CACHE / "store", subject.path, span, given.threads, given.transport) for span in spans]
    peers = [process.introduced() for process in processes]
    whole_us: list[float] = []
    async with peer_host(given.transport) as (real, _):
        for _ in range(TURNS):
            await _decode(stamped_transport(real, clock), peers, ends, prompt, clock)
            tokens_per_s, _ = await asyncio.to_thread(whole.decode, [prompt], TOKENS)
            whole_us.append(1e6 / tokens_per_s)
    await ends.shutdown()
    hops = [process.end() for process in processes]
    whole.close()
    return _way(clock.stamps, hops), median(whole_us)


async def _decode(
    transport: Transport, peers: list[BenchPeer], ends: EndsThread, prompt: Sequence[int], clock: Clock
) -> None:
    opened = open_chain(
        route_through(peers),
        {peer.peer_id: peer.addresses for peer in peers},
        transport,
        tokens=CONTEXT_TOKENS,
        wire_dtype=WireDtype.FLOAT32,
        timings=ChainTimings(step_s=120),
    )
    greedy = Sampler(SamplingParams(temperature=0.0))
    async with opened as chain:
        chosen = await ends.next_token(await chain.step(await ends.embed(prompt), 0), greedy, ())
        for at in range(TOKENS):
            clock.note("begun")
            hidden = await chain.step(chosen.embedded, len(prompt) + at)
            clock.note("stepped")
            chosen = await ends.next_token(hidden, greedy, ())
            clock.note("chosen")


def _way(asker: Stamps, hops: list[Stamps]) -> dict[str, float]:
    """Median microseconds between each two things that a token passes, in order."""
    passed: list[tuple[str, list[int]]] = [("", asker["begun"]), ("asker: up to the socket", asker["sending"])]
    passed.append(("asker: encoding and writing", asker["sent"]))
    for number, hop in enumerate(hops, start=1):
        passed += [
            (f"way to hop {number}, waking it up", hop["received"]),
            (f"hop {number}: frame to engine's thread", hop["computing"]),
            (f"hop {number}: its blocks", hop["computed"]),
            (f"hop {number}: back to the loop, to the socket", hop["sending"]),
            (f"hop {number}: encoding and writing", hop["sent"]),
        ]
    passed += [
        ("way back, waking the asker up", asker["received"]),
        ("asker: checks, to the waiting answer", asker["stepped"]),
        ("asker: to the thread of the ends", asker["head"]),
        ("asker: final norm and head", asker["headed"]),
        ("asker: sampler, embedding, back to the loop", asker["chosen"]),
    ]
    return {
        name: float(np.median(_tokens(after) - _tokens(before))) / 1e3
        for (_, before), (name, after) in pairwise(passed)
    }


def _tokens(stamps: list[int]) -> NDArray[np.int64]:
    """Those of the tokens that count; some things are also passed by the prompt's last row, at the start of a turn."""
    return np.asarray(stamps).reshape(TURNS, -1)[:, WARM_UP - TOKENS :]


if __name__ == "__main__":
    main()
