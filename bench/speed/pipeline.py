"""Chains of 2 and 3 peers beside the whole model in llama.cpp, one stream and eight; and beside distributed-llama.

A chain computes one hop after the other, so with one stream only one peer's threads work at any moment: "the same
threads" means as many per peer as llama.cpp has. With several streams all peers work at once: there the threads of all
peers together are counted, but never more than there are cores.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial

from bench.peer import BenchPeer, peer_processes
from bench.speed.asker import Asker, asking
from bench.speed.figure import Figure, Samples, Target, ratio_figure, ratios
from bench.speed.part import Measured, Run
from bench.speed.recorded import DLLAMA_TOKENS_S, LLAMA_MS
from bench.speed.subjects import CACHE, Subject, one_billion, smollm2
from bench.speed.turns import numbers, take_turns
from bench.whole import whole_process

PART = "pipeline"
CHAINS = (2, 3)
STREAMS, FEW_STREAMS = 8, 2
PROMPT_TOKENS, TOKENS = 32, 32

ONE_STREAM = Target(0.93, 0.97)
ONE_STREAM_SMALL = Target(0.85, 0.93)
EIGHT_STREAMS = Target(0.9, 1.0)
_OTHER = "the other reading of equal threads"
AGAINST_DLLAMA = Target(1.2)
TOGETHER_AGAINST_DLLAMA = Target(aim=3.0)


async def measure(run: Run) -> Measured:
    """Both models; the recorded yardstick is of the larger one."""
    figures: list[Figure] = []
    samples: dict[str, Samples] = {}
    for subject, target in ((smollm2(), ONE_STREAM_SMALL), (one_billion(), ONE_STREAM)):
        found = samples[subject.name] = await _bursts(subject, run)
        figures += _beside_llama(subject.name, found, target, run.cores, run.quick)
    figures += _beside_dllama(subject.name, found, run.cores)
    return Measured(figures, samples)


async def _bursts(subject: Subject, run: Run) -> Samples:
    prompts = subject.prompts(STREAMS, PROMPT_TOKENS)
    async with AsyncExitStack() as stack:
        contenders: dict[str, Callable[[], Awaitable[float]]] = {}
        for threads in _counted(run.cores):
            whole = stack.enter_context(whole_process(subject.path, threads=threads, streams=STREAMS))
            contenders[llama(threads, 1)] = partial(whole.tokens_per_s, prompts[:1], TOKENS)
            contenders[llama(threads, STREAMS)] = partial(whole.tokens_per_s, prompts, TOKENS // 2)
        for threads in _at_a_moment(run.cores, run.quick):
            asker = await stack.enter_async_context(asking(subject, threads=threads, transport=run.transport))
            for count in CHAINS:
                peers = stack.enter_context(_peers(subject, count, threads, run))
                contenders |= _through(asker, peers, prompts, threads)
        return numbers(await take_turns(contenders, run.effort(rounds=9, budget_s=150)))


def _through(
    asker: Asker, peers: Sequence[BenchPeer], prompts: Sequence[Sequence[int]], threads: int
) -> dict[str, Callable[[], Awaitable[float]]]:
    """Several streams only where every peer has one thread: on one machine more would be in one another's way."""
    streams = [1, FEW_STREAMS, STREAMS] if threads == 1 else [1]
    return {
        chained(len(peers), threads, count): partial(
            asker.tokens_per_s, peers, prompts[:count], TOKENS // 2 if count == STREAMS else TOKENS
        )
        for count in streams
    }


def _beside_llama(model: str, samples: Samples, target: Target, cores: int, quick: bool) -> list[Figure]:
    def row(ours: str, yardstick: str, target: Target, remark: str = "") -> Figure:
        return ratio_figure(PART, model, samples, ours, yardstick, target, remark=remark)

    figures = [
        row(chained(count, threads, 1), llama(threads, 1), target)
        for threads in _at_a_moment(cores, quick)
        for count in CHAINS
    ]
    for count in CHAINS:
        together = min(count, cores)
        figures.append(row(chained(count, 1, STREAMS), llama(together, STREAMS), EIGHT_STREAMS))
        if together > 1:
            figures.append(row(chained(count, 1, STREAMS), llama(1, STREAMS), Target(), _OTHER))
            figures.append(row(chained(count, 1, 1), llama(together, 1), Target(), _OTHER))
    return figures


def _beside_dllama(model: str, samples: Samples, cores: int) -> list[Figure]:
    """Against a recorded figure: as it stands, and as fast as this machine is by what llama.cpp gives on each."""
    recorded = _recorded(samples, cores)
    targets = {1: AGAINST_DLLAMA, FEW_STREAMS: TOGETHER_AGAINST_DLLAMA, STREAMS: TOGETHER_AGAINST_DLLAMA}
    return [
        ratio_figure(PART, model, samples | recorded, chained(2, 1, streams), theirs, target)
        for streams, target in targets.items()
        for theirs in recorded
    ]


def _recorded(samples: Samples, cores: int) -> dict[str, list[float]]:
    """What distributed-llama would give in each round."""
    rounds = len(samples[llama(1, 1)])
    found = {"distributed-llama as recorded": [DLLAMA_TOKENS_S] * rounds}
    for threads, recorded_ms in LLAMA_MS.items():
        if threads <= cores:
            speed = ratios(samples[llama(threads, 1)], [1000 / recorded_ms] * rounds)
            scaled = [DLLAMA_TOKENS_S * by for by in speed]
            found[f"distributed-llama scaled by llama.cpp with {_threads(threads)}"] = scaled
    return found


def llama(threads: int, streams: int) -> str:
    """The name of that contender."""
    return f"llama.cpp, {_threads(threads)}, {_streams(streams)}"


def chained(peers: int, threads: int, streams: int) -> str:
    """The name of that contender; threads of each peer."""
    return f"{peers} peers x {_threads(threads)}, {_streams(streams)}"


def _peers(subject: Subject, count: int, threads: int, run: Run) -> AbstractContextManager[list[BenchPeer]]:
    return peer_processes(CACHE / "store", subject.path, subject.spans(count), threads, transport=run.transport)


def _at_a_moment(cores: int, quick: bool) -> list[int]:
    """Threads per peer."""
    return [1] if quick or cores < 2 else [1, 2]


def _counted(cores: int) -> list[int]:
    """Threads of llama.cpp: those of one peer, and those of all peers that compute at once."""
    return sorted({1, *(min(count, cores) for count in CHAINS)})


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _streams(count: int) -> str:
    return "one stream" if count == 1 else f"{count} streams"
