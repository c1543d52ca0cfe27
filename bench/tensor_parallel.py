"""Tensor-parallel groups against one peer: `python -m bench.tensor_parallel`, or `./dev bench tensor-parallel`.

Every member is a process with one thread; they talk over TCP on loopback, every frame sealed. Contenders decode the
same greedy answer in short bursts that take turns, so that what else runs here hits all alike. `blocks` is a step
through all blocks; `token` has embedding and head too, which the lead computes alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench.group_peer import Burst, GroupProcesses, GroupSetting, group_processes
from bench.links import GIGABIT_LAN
from bench.machine import describe
from bench.speed.recorded import DLLAMA_MS
from bench.speed.subjects import CACHE, Subject, one_billion, smollm2


@dataclass(frozen=True)
class Contender:
    name: str
    setting: GroupSetting
    shaped: bool = False
    """Over links of 1 Gbit/s and 0.3 ms round trip between every two members."""


ALONE = Contender("one peer", GroupSetting((1,)))

EVEN = (
    ALONE,
    Contender("2 members, float32", GroupSetting((1, 1))),
    Contender("2 members, float16", GroupSetting((1, 1), "float16")),
    Contender("2 members, Q80", GroupSetting((1, 1), "q80")),
    Contender("2 members, Q80, 1 Gbit/s", GroupSetting((1, 1), "q80"), shaped=True),
    Contender("2 members, float32, 1 Gbit/s", GroupSetting((1, 1)), shaped=True),
    Contender("3 members, float32", GroupSetting((1, 1, 1))),
)


@dataclass
class Samples:
    """Of one contender: every step's milliseconds."""

    blocks: list[float] = field(default_factory=list[float])
    tokens: list[float] = field(default_factory=list[float])
    last: Burst | None = None

    def add(self, burst: Burst) -> None:
        self.blocks += burst.block_ms
        self.tokens += [blocks + ends for blocks, ends in zip(burst.block_ms, burst.end_ms, strict=True)]
        self.last = burst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("1b", "smollm2", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=12, help="bursts of each contender")
    parser.add_argument("--tokens", type=int, default=12, help="per burst")
    parser.add_argument("--quick", action="store_true", help="one peer and 2 members with float32 and Q80 alone")
    given = parser.parse_args()
    print(describe())
    subjects = {"1b": (one_billion,), "smollm2": (smollm2,), "both": (smollm2, one_billion)}[given.model]
    for subject in subjects:
        _report(subject(), EVEN[:4] if given.quick else EVEN, given.rounds, given.tokens)


def _report(subject: Subject, contenders: tuple[Contender, ...], rounds: int, tokens: int) -> None:
    with ExitStack() as stack:
        running = {one.name: stack.enter_context(_started(subject, one)) for one in contenders}
        samples = measured(running, rounds, tokens)
    print(f"\n{subject.name}: {rounds} bursts of {tokens} tokens each; ms, least and median (middle half)")
    alone = samples[ALONE.name]
    for name, found in samples.items():
        print(_line(name, found, alone))
    if subject.stored.spec.hidden == 2048:
        print(_against_distributed_llama(samples))


def measured(running: Mapping[str, GroupProcesses], rounds: int, tokens: int) -> dict[str, Samples]:
    """Bursts in turns, every other round backwards."""
    samples = {name: Samples() for name in running}
    for turn in range(rounds):
        for name in list(running) if turn % 2 else list(running)[::-1]:
            samples[name].add(running[name].burst(tokens))
    return samples


def _started(subject: Subject, one: Contender) -> AbstractContextManager[GroupProcesses]:
    return group_processes(CACHE / "store", subject.path, one.setting, GIGABIT_LAN if one.shaped else None)


def _line(name: str, found: Samples, alone: Samples) -> str:
    low, middle, high = quantiles(found.blocks, n=4)
    sent = found.last.sent_bytes if found.last else 0.0
    waited = found.last.waited_ms if found.last else 0.0
    return (
        f"  {name:30} blocks {min(found.blocks):7.2f} {middle:7.2f} ({low:.2f}-{high:.2f})"
        f"  x{min(alone.blocks) / min(found.blocks):.2f} x{median(alone.blocks) / middle:.2f}"
        f"  token {min(found.tokens):7.2f} {median(found.tokens):7.2f}"
        f"  x{min(alone.tokens) / min(found.tokens):.2f} x{median(alone.tokens) / median(found.tokens):.2f}"
        f"  sent {sent / 1000:7.1f} kB/token, waited {waited:.2f} ms"
    )


def _against_distributed_llama(samples: Mapping[str, Samples]) -> str:
    near = [found for name, found in samples.items() if name.startswith("2 members") and "Gbit" not in name]
    ours = min(median(found.tokens) for found in near)
    low, high = (recorded / ours for recorded in DLLAMA_MS)
    return f"  distributed-llama was recorded at {DLLAMA_MS} ms per token, 2 x 1 threads: {low:.1f}x to {high:.1f}x"


if __name__ == "__main__":
    main()
