"""A tensor-parallel group of 2 beside one peer and beside distributed-llama, on loopback and over a link like a LAN's.

Against one peer the blocks are compared: what the peer or the group does for its asker. Against distributed-llama and
llama.cpp it is the whole token, with an embedding and a head that the lead computes alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from bench.group_peer import Burst, GroupProcesses, GroupSetting, group_processes
from bench.links import GIGABIT_LAN, slow_links
from bench.speed.figure import Figure, Samples, Target, ratios, speed_up
from bench.speed.part import Measured, Run
from bench.speed.recorded import DLLAMA_MS, LLAMA_MS
from bench.speed.subjects import CACHE, Subject, one_billion, smollm2
from bench.speed.turns import numbers, take_turns
from bench.whole import WholeProcess, whole_process

PART = "tensor"
TOKENS, WHOLE_TOKENS, PROMPT_TOKENS = 24, 12, 64
ALONE, GROUP, UNEVEN = "one peer, 1 thread", "group of 2, 1 thread each", "group of 2 (6 + 3 heads), 1 thread each"
LAN, UNEVEN_LAN = (f"{group}, Q80, {GIGABIT_LAN}" for group in (GROUP, UNEVEN))

SINGLE = GroupSetting(weights=(1,))
EQUALS, EQUALS_Q80 = GroupSetting(weights=(1, 1)), GroupSetting(weights=(1, 1), form="q80")
"""Two equal machines; which heads each gets is decided as in a swarm."""


@dataclass(frozen=True)
class _Found:
    """Milliseconds per token of every burst."""

    model: str
    blocks: Samples
    token: Samples
    sent_bytes: Mapping[str, float]
    """By one member per token."""


async def measure(run: Run) -> Measured:
    """The 1B-class model in equal halves, and SmolLM2, whose 9 heads have none."""
    with slow_links([], GIGABIT_LAN) as tried:
        link = str(tried)
    large = await _found(one_billion(), {ALONE: SINGLE, GROUP: EQUALS}, {LAN: EQUALS_Q80}, run)
    small = await _found(smollm2(), {ALONE: SINGLE, UNEVEN: EQUALS}, {UNEVEN_LAN: EQUALS_Q80}, run)
    figures = [
        _gain(large, GROUP, Target(1.6, 1.85)),
        _gain(large, LAN, Target(1.4, 1.7), f"the link: {link}"),
        *_beside_dllama(large),
        _gain(small, UNEVEN, Target(1.3, 1.6)),
        _gain(small, UNEVEN_LAN, Target()),
    ]
    samples = {f"{found.model}, {of}": found_of for found in (large, small) for of, found_of in _kinds(found)}
    sent_bytes = {found.model: found.sent_bytes for found in (large, small)}
    return Measured(figures, samples, {"link": link, "sent_bytes": sent_bytes})


async def _found(
    subject: Subject, near: Mapping[str, GroupSetting], far: Mapping[str, GroupSetting], run: Run
) -> _Found:
    """Bursts of groups on loopback and over slow links, and of llama.cpp; all processes are there all the time."""
    with ExitStack() as stack:
        contenders: dict[str, Callable[[], Awaitable[Burst]]] = {}
        for settings, link in ((near, None), (far, GIGABIT_LAN)):
            for name, setting in settings.items():
                group = stack.enter_context(group_processes(CACHE / "store", subject.path, setting, link))
                contenders[name] = partial(_group_burst, group)
        for threads in (threads for threads in LLAMA_MS if threads <= (1 if run.quick else run.cores)):
            whole = stack.enter_context(whole_process(subject.path, threads=threads))
            contenders[llama(threads)] = partial(_whole_burst, whole, subject.prompts(1, PROMPT_TOKENS))
        taken = await take_turns(contenders, run.effort(rounds=9, budget_s=70))
    sent = {name: next((burst.sent_bytes for burst in bursts if burst), 0.0) for name, bursts in taken.items()}
    return _Found(subject.name, numbers(taken, _block_ms), numbers(taken, _token_ms), sent)


async def _group_burst(group: GroupProcesses) -> Burst:
    return await asyncio.to_thread(group.burst, TOKENS)


async def _whole_burst(whole: WholeProcess, prompts: Sequence[Sequence[int]]) -> Burst:
    """The whole model has no blocks of its own to time."""
    return Burst([1000 / await whole.tokens_per_s(prompts, WHOLE_TOKENS)], [0.0], 0.0, 0.0, [])


def _gain(found: _Found, group: str, target: Target, remark: str = "") -> Figure:
    """How much less time the blocks take than with one peer."""
    return speed_up(PART, found.model, found.blocks, group, ALONE, target, "ms in the blocks", remark)


def _beside_dllama(found: _Found) -> list[Figure]:
    """Against the faster end of its recorded range, as it stands and scaled to this machine."""
    rounds = len(found.token[GROUP])
    theirs = {"distributed-llama as recorded": [DLLAMA_MS[0]] * rounds}
    for threads, recorded_ms in LLAMA_MS.items():
        if llama(threads) in found.token:
            slower = ratios(found.token[llama(threads)], [recorded_ms] * rounds)
            theirs[f"distributed-llama scaled by {llama(threads)}"] = [DLLAMA_MS[0] * by for by in slower]
    samples = found.token | theirs
    return [speed_up(PART, found.model, samples, GROUP, name, Target(2.0, 2.5), "ms per token", "") for name in theirs]


def llama(threads: int) -> str:
    """The name of that contender."""
    return f"llama.cpp with {threads} thread{'s' if threads > 1 else ''}"


def _kinds(found: _Found) -> tuple[tuple[str, Samples], ...]:
    return ("ms in the blocks", found.blocks), ("ms per token", found.token)


def _block_ms(burst: Burst) -> float:
    return fmean(burst.block_ms)


def _token_ms(burst: Burst) -> float:
    return fmean(burst.block_ms) + fmean(burst.end_ms)
