"""Drafters whose guesses are right as often as a test wants, and answers that are made with them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random

from peerllm.generation.drafting.drafter import Drafting, Plan, Policy, Verified
from peerllm.generation.ends_thread import Choosing, EndsThread, NextToken
from peerllm.generation.session import Chains, open_session
from peerllm.generation.speculation import RoundCounts, decoded


@dataclass
class Oracle:
    """Knows what comes, prompt included, and guesses each token right with probability `right`."""

    text: Sequence[int]
    right: float
    rng: Random = field(default_factory=lambda: Random(1))
    closed: bool = False

    async def propose(self, tokens: Sequence[int], settled: int, at_most: int) -> Sequence[int]:
        assert list(tokens[:settled]) == list(self.text[:settled])
        following = self.text[len(tokens) : len(tokens) + self.rng.randint(1, at_most)]
        return [token if self.rng.random() < self.right else (token + 1) % 100 for token in following]

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Always:
    """A policy that has made up its mind, and remembers what it was told."""

    plan: Plan
    told: list[Verified] = field(default_factory=list[Verified])

    def __call__(self, rounds: Sequence[Verified]) -> Plan:
        self.told = list(rounds)
        return self.plan


def guessing(text: Sequence[int], right: float, length: int, ahead: int = 0) -> Drafting:
    policy: Policy = Always(Plan(length, ahead))
    return Drafting(Oracle(text, right), policy)


async def made(
    prompt: Sequence[int],
    count: int,
    ends: EndsThread,
    chains: Chains,
    choosing: Choosing,
    drafting: Drafting | None = None,
) -> tuple[list[NextToken], RoundCounts]:
    """So many tokens behind the prompt, which is put into an empty history."""
    counts = RoundCounts()
    choosing.history[:] = prompt
    async with open_session(chains) as session:
        rows = await session.advance(await ends.embed(prompt))
        tokens = decoded(rows, session, ends, choosing, drafting, count, counts)
        async with aclosing(tokens):
            return [token async for token in tokens], counts
