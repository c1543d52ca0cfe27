"""Time to the first token of a long prompt: 3 equal peers, whose chunks flow through all of them, beside llama.cpp.

All three compute at once, so llama.cpp gets the threads of all three, but never more than there are cores.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from bench.peer import peer_processes
from bench.speed.asker import asking
from bench.speed.figure import Figure, Samples, Target, ratio_figure
from bench.speed.part import Measured, Run
from bench.speed.subjects import CACHE, Subject, one_billion, smollm2
from bench.speed.turns import numbers, take_turns
from bench.whole import whole_process

PART = "first_token"
PEERS, PROMPT_TOKENS, CONTEXT_TOKENS = 3, 2000, 2304
WITHIN = Target(1.15, at_most=True)


async def measure(run: Run) -> Measured:
    figures: list[Figure] = []
    samples: dict[str, Samples] = {}
    for subject in (smollm2(),) if run.quick else (smollm2(), one_billion()):
        found = samples[subject.name] = await _bursts(subject, run)
        ours, whole = found
        figures.append(ratio_figure(PART, subject.name, found, ours, whole, WITHIN, unit="s"))
    return Measured(figures, samples)


async def _bursts(subject: Subject, run: Run) -> Samples:
    prompt, threads = subject.prompts(1, PROMPT_TOKENS)[0], min(PEERS, run.cores)
    async with AsyncExitStack() as stack:
        whole = stack.enter_context(whole_process(subject.path, threads=threads, context_tokens=CONTEXT_TOKENS))
        asker = await stack.enter_async_context(
            asking(subject, threads=1, transport=run.transport, context_tokens=CONTEXT_TOKENS)
        )
        peers = stack.enter_context(
            peer_processes(
                CACHE / "store",
                subject.path,
                subject.spans(PEERS),
                1,
                transport=run.transport,
                slots=1,
                context_tokens=CONTEXT_TOKENS,
            )
        )
        contenders = {
            f"{PEERS} peers x 1 thread, first token of {PROMPT_TOKENS:,}": partial(asker.first_token_s, peers, prompt),
            f"llama.cpp, {threads} threads": partial(whole.first_token_s, prompt),
        }
        return numbers(await take_turns(contenders, run.effort(rounds=7, budget_s=70)))
