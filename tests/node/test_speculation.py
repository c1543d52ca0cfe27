"""Guesses never change an answer: its tokens, their scores and what a seed draws are those of one round per token."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from peerllm.engine.load import load_ends, load_span
from peerllm.engine.scheduler import StepScheduler
from peerllm.engine.span_engine import Ends, Hidden, SpanEngine
from peerllm.engine.torch_ends import TorchEnds
from peerllm.engine.torch_span import TorchSpan
from peerllm.generation.answer import Delta, Finished
from peerllm.generation.answer_text import AnswerText, PlainReader
from peerllm.generation.constraint import Constraints
from peerllm.generation.drafting.drafter import Drafting, Plan
from peerllm.generation.ends_thread import Choosing, EndsThread, NextToken
from peerllm.generation.generate import GenerationRequest, generate
from peerllm.generation.grammar import Grammar, grammar_of
from peerllm.generation.sampler import Sampler, SamplingParams
from peerllm.generation.session import Chains
from peerllm.generation.speculation import RoundCounts
from peerllm.generation.text import StopStrings
from peerllm.model.families import Family, ToolFormat
from peerllm.model.store import ModelStore, StoredModel
from peerllm.model.tokenizer import Tokenizer
from peerllm_swarm.span import BlockSpan
from tests.support.checkpoints import stored_checkpoint
from tests.support.constrained import small_tokenizer
from tests.support.drafters import Always, Oracle, guessing, made
from tests.support.embedded import embedded_gguf
from tests.support.gguf_models import TINY, tiny_gguf
from tests.support.local_chain import local_chains

GREEDY = SamplingParams(temperature=0)
PLANS = ((1, 0), (3, 0), (16, 0), (2, 1), (5, 2))
"""Guessed tokens of a round, and rounds ahead."""


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 100))


@asynccontextmanager
async def whole(engine: SpanEngine, ends: Ends) -> AsyncIterator[tuple[EndsThread, Chains]]:
    """A model in this process."""
    scheduler, thread = StepScheduler(engine), EndsThread(ends)
    try:
        yield thread, local_chains(scheduler)
    finally:
        await scheduler.shutdown()
        await thread.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def tiny(folder: Path, quantisation: str) -> StoredModel:
    shape = replace(TINY, quantisation=quantisation, hidden=256, head_dim=64, feed_forward=256, context_tokens=1024)
    return ModelStore(folder / "store").open(str(tiny_gguf(folder, replace(shape, blocks=2))))


def llama(folder: Path, quantisation: str, threads: int = 1) -> tuple[SpanEngine, Ends]:
    model = tiny(folder, quantisation)
    span = load_span(model, BlockSpan(0, 2), engine="llama", slots=3, context_tokens=700, threads=threads)
    return span, load_ends(model, engine="llama", threads=1)


def text(seed: int, tokens: int) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(3, 384) for _ in range(tokens)]


async def check(
    thread: EndsThread,
    chains: Chains,
    prompt: Sequence[int],
    count: int,
    sampling: SamplingParams = GREEDY,
    plans: Sequence[tuple[int, int]] = PLANS,
) -> None:
    """Whatever is guessed, and however often rightly."""

    def choosing() -> Choosing:
        return Choosing(Sampler(sampling), [], top_logprobs=2)

    expected, alone = await made(prompt, count, thread, chains, choosing())
    assert (alone.rounds, alone.drafted) == (count - 1, 0)
    known = [*prompt, *(token.token for token in expected)]
    for (length, ahead), right in product(plans, (0.0, 0.7, 1.0)):
        drafting = guessing(known, right, length, ahead)
        found, counts = await made(prompt, count, thread, chains, choosing(), drafting)
        assert same(found, expected), (length, ahead, right)
        check_counts(counts, right, count, ahead)


def same(found: Sequence[NextToken], expected: Sequence[NextToken]) -> bool:
    return [(one.token, one.scores) for one in found] == [(one.token, one.scores) for one in expected]


def check_counts(counts: RoundCounts, right: float, count: int, ahead: int) -> None:
    assert counts.accepted <= counts.drafted
    if right == 1:
        assert counts.accepted == counts.drafted
        assert counts.rounds < count - 1
    if right == 0:
        assert counts.accepted == 0
        assert counts.rounds >= count - 1
    if not ahead:  # each round brings the guesses that held and one token more
        assert counts.rounds + counts.accepted == count - 1


@pytest.mark.parametrize("quantisation", ["q4_0", "q8_0", "q4_k", "f16", "f32"])
def test_greedy_tokens_and_scores_are_those_of_one_round_per_token(quantisation: str, folder: Path) -> None:
    """Also of weights whose rows, computed together, would have other last bits than alone."""

    async def main() -> None:
        async with whole(*llama(folder, quantisation)) as (thread, chains):
            await check(thread, chains, text(1, 20), 24)

    run(main())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cells", [250, 505])
def test_also_where_attention_would_be_split_over_threads(cells: int, threads: int, folder: Path) -> None:
    """Behind 256 cells of the cache a lone row has company (ADR 0016), rows with guesses have each other's."""

    async def main() -> None:
        async with whole(*llama(folder, "q4_0", threads)) as (thread, chains):
            await check(thread, chains, text(cells, cells), 14, plans=((5, 1),))

    run(main())


@pytest.mark.slow
def test_the_embedded_model_gives_the_same_tokens(folder: Path) -> None:
    """Its head is of another type than its blocks."""
    model = ModelStore(folder / "models").open(str(embedded_gguf()))
    prompt = Tokenizer.of(model).encode("Water boils at one hundred degrees. " * 36 + "Three colours are red,")
    span = load_span(model, BlockSpan(0, 30), engine="llama", slots=1, context_tokens=400, threads=1)

    async def main() -> None:
        async with whole(span, load_ends(model, engine="llama", threads=1)) as (thread, chains):
            assert len(prompt) > 256
            await check(thread, chains, prompt, 16, plans=((5, 1),))

    run(main())


def test_the_torch_engine_gives_the_same_tokens(folder: Path) -> None:
    weights = stored_checkpoint("llama")
    span = load_span(weights, BlockSpan(0, 6), engine="torch", slots=2, context_tokens=96, threads=1)
    assert isinstance(span, TorchSpan)
    ends = load_ends(weights, engine="torch", threads=1)
    assert isinstance(ends, TorchEnds)

    async def main() -> None:
        async with whole(span, ends) as (thread, chains):
            await check(thread, chains, [5, 9, 77, 23, 1, 44, 60, 3], 24)

    run(main())


def test_sessions_that_guess_wrongly_at_once_do_not_disturb_one_another(folder: Path) -> None:
    """What each forgets leaves holes in the cache that they share."""

    async def main() -> None:
        async with whole(*llama(folder, "q4_0")) as (thread, chains):
            prompts = [text(seed, 40 + seed) for seed in range(3)]

            async def answer(prompt: Sequence[int], drafting: Drafting | None = None) -> list[int]:
                choosing = Choosing(Sampler(GREEDY), [])
                return [it.token for it in (await made(prompt, 60, thread, chains, choosing, drafting))[0]]

            alone = [await answer(prompt) for prompt in prompts]
            drafting = [guessing([*p, *a], 0.5, 6, 1) for p, a in zip(prompts, alone, strict=True)]
            together = await asyncio.gather(*map(answer, prompts, drafting))
            assert list(together) == alone

    run(main())


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.0, seed=3),
        SamplingParams(temperature=1.3, seed=4, top_k=20, top_p=0.9, typical_p=0.9, min_p=0.01),
        SamplingParams(temperature=0.8, seed=5, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.2),
        SamplingParams(temperature=0.9, seed=6, logit_bias={7: 8.0, 9: 8.0}),
        SamplingParams(temperature=0, presence_penalty=2.0, logit_bias={7: 3.0}),
    ],
)
def test_a_seed_draws_what_it_draws_without_guesses(sampling: SamplingParams, folder: Path) -> None:
    async def main() -> None:
        async with whole(*llama(folder, "q4_0")) as (thread, chains):
            await check(thread, chains, text(2, 20), 24, sampling)

    run(main())


VOCABULARY = 4


class Bigrams:
    """The ends of a language model that knows only the last token: its row is that token's."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits.astype(np.float32)

    def embed(self, tokens: Sequence[int]) -> Hidden:
        return np.eye(VOCABULARY, dtype=np.float32)[list(tokens)]

    def normed(self, hidden: Hidden) -> Hidden:
        return hidden

    def logits(self, hidden: Hidden) -> np.ndarray:
        return hidden @ self._logits

    def shutdown(self) -> None:
        pass


def test_what_is_drawn_without_a_seed_is_distributed_as_without_guesses() -> None:
    """Triples of tokens by a chi-square test at 1e-6, whatever is guessed and by whatever distribution."""
    random = np.random.default_rng(11)
    table = random.normal(0, 1.5, (VOCABULARY, VOCABULARY))
    sampler = Sampler(SamplingParams(temperature=1.2, top_k=3, seed=12))
    kept = np.where(table >= np.sort(table, axis=1)[:, 1:2], np.exp(table / 1.2), 0)
    chances = kept / kept.sum(axis=1, keepdims=True)
    trials = 8000

    async def main() -> None:
        thread = EndsThread(Bigrams(table))
        seen = Counter[tuple[int, ...]]()
        for _ in range(trials):
            choosing = Choosing(sampler, [0])
            while len(choosing.history) < 4:
                guesses = [int(guess) for guess in random.integers(0, VOCABULARY, 2)]
                rows = Bigrams(table).embed([choosing.history[-1], *guesses])
                await thread.next_tokens(rows, guesses, choosing)
            seen[tuple(choosing.history[1:4])] += 1
        await thread.shutdown()
        triples = list(product(range(VOCABULARY), repeat=3))
        expected = {(a, b, c): trials * chances[0, a] * chances[a, b] * chances[b, c] for a, b, c in triples}
        assert all(seen[triple] == 0 for triple in triples if expected[triple] == 0)
        usual = [triple for triple in triples if expected[triple] >= 5]
        statistic = sum((seen[triple] - expected[triple]) ** 2 / expected[triple] for triple in usual)
        freedom = len(usual) - 1
        assert statistic < freedom + 5 * (2 * freedom) ** 0.5 + 12  # above the 1 - 1e-6 quantile

    run(main())


TOKENIZER = small_tokenizer()
PLAIN = Family("plain", ToolFormat("hermes", "<tool_call>\n", "\n</tool_call>"))
REQUEST = GenerationRequest(tuple(b"Say it: "), 40, SamplingParams(temperature=1.2, seed=8))


async def answered(
    thread: EndsThread,
    chains: Chains,
    request: GenerationRequest,
    drafting: Drafting | None = None,
    *,
    stop: Sequence[str] = (),
    grammar: Grammar | None = None,
) -> tuple[list[Delta], Finished]:
    constraint = None if grammar is None else await Constraints(TOKENIZER).start(grammar, PLAIN)
    shown = AnswerText(TOKENIZER.detokenizer(), StopStrings(stop), PlainReader())
    async with aclosing(generate(request, thread, TOKENIZER, chains, shown, constraint, drafting)) as events:
        heard = [event async for event in events]
    end = heard[-1]
    assert isinstance(end, Finished)
    return [event for event in heard if isinstance(event, Delta)], end


def told(end: Finished) -> tuple[str, int, str]:
    return end.reason, end.completion_tokens, end.text


@asynccontextmanager
async def talking(folder: Path) -> AsyncIterator[tuple[EndsThread, Chains]]:
    """A tiny model of the small tokenizer's vocabulary."""
    shape = replace(TINY, quantisation="q4_0", blocks=2, vocabulary=TOKENIZER.size)
    model = ModelStore(folder / "store").open(str(tiny_gguf(folder, shape)))
    span = load_span(model, BlockSpan(0, 2), engine="llama", slots=3, context_tokens=128, threads=1)
    async with whole(span, load_ends(model, engine="llama", threads=1)) as parts:
        yield parts


def guesses(deltas: Sequence[Delta], length: int, ahead: int, right: float = 0.8) -> Drafting:
    """Of an answer that is known, and behind its end of what never comes."""
    return guessing([*REQUEST.prompt, *(delta.token for delta in deltas), *range(3, 40)], right, length, ahead)


def test_answers_end_where_they_end_without_guesses(folder: Path) -> None:
    """At a token that ends them, at a stop string, or at as many tokens as were asked for; scores included."""
    [end] = TOKENIZER.eos_ids

    async def main() -> None:
        async with talking(folder) as (thread, chains):
            reasons = Counter[str]()
            for seed, (length, ahead) in product(range(4), PLANS):
                sampling = SamplingParams(temperature=1.2, seed=seed, logit_bias={end: 4.0})
                request = replace(REQUEST, sampling=sampling, max_tokens=18 + seed, top_logprobs=1)
                plain, plain_end = await answered(thread, chains, request)
                written = "".join(delta.text for delta in plain)
                for stop in ([], [written[5:7]] if len(written) > 7 else ["never"]):
                    expected, expected_end = await answered(thread, chains, request, stop=stop)
                    drafting = guesses(plain, length, ahead)
                    found, found_end = await answered(thread, chains, request, drafting, stop=stop)
                    assert found == expected
                    assert told(found_end) == told(expected_end)
                    assert found_end.score == expected_end.score
                    assert found_end.rounds <= expected_end.rounds + (ahead + 1) * found_end.completion_tokens
                    assert found_end.accepted_tokens <= min(found_end.drafted_tokens, found_end.completion_tokens + 1)
                    assert isinstance(drafting.drafter, Oracle)
                    assert drafting.drafter.closed
                    reasons[found_end.reason] += 1
                assert plain_end.drafted_tokens == 0
            assert reasons["stop"] > 5
            assert reasons["length"] > 5

    run(main())


SCHEMA = {
    "type": "object",
    "properties": {"ab": {"type": "boolean"}, "é": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}},
    "required": ["ab", "é"],
}


def test_constrained_answers_are_those_without_guesses(folder: Path) -> None:
    """Guesses that the grammar does not allow are just not drawn; it never stands behind one."""
    asked = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
    grammar = grammar_of(asked, [], None, True)

    async def main() -> None:
        async with talking(folder) as (thread, chains):
            completed = 0
            for seed, (length, ahead) in product(range(3), PLANS):
                request = replace(REQUEST, sampling=SamplingParams(temperature=seed / 2, seed=seed), max_tokens=80)
                expected, expected_end = await answered(thread, chains, request, grammar=grammar)
                drafting = guesses(expected, length, ahead)
                found, found_end = await answered(thread, chains, request, drafting, grammar=grammar)
                assert found == expected
                assert told(found_end) == told(expected_end)
                assert found_end.accepted_tokens > 0
                completed += found_end.reason == "stop"
            assert completed > 0

    run(main())


def test_a_reader_who_goes_away_leaves_nothing_behind(folder: Path) -> None:
    async def main() -> None:
        async with talking(folder) as (thread, chains):
            plain, _ = await answered(thread, chains, REQUEST)
            for _ in range(5):  # there are three slots
                drafting = guesses(plain, 3, 2, right=1.0)
                shown = AnswerText(TOKENIZER.detokenizer(), StopStrings([]), PlainReader())
                async with aclosing(generate(REQUEST, thread, TOKENIZER, chains, shown, None, drafting)) as events:
                    for expected in plain[:7]:
                        assert await anext(events) == expected
                assert isinstance(drafting.drafter, Oracle)
                assert drafting.drafter.closed
            again, _ = await answered(thread, chains, REQUEST, guesses(plain, 3, 2))
            assert again == plain

    run(main())


def test_a_policy_hears_what_became_of_each_round(folder: Path) -> None:
    async def main() -> None:
        async with talking(folder) as (thread, chains):
            plain, _ = await answered(thread, chains, REQUEST)
            text = [*REQUEST.prompt, *(delta.token for delta in plain)]
            policy = Always(Plan(4))
            _, end = await answered(thread, chains, REQUEST, Drafting(Oracle(text, 0.6), policy))
            assert len(policy.told) == end.rounds - 1  # the last one is followed by none
            assert all(0 <= done.accepted <= done.drafted <= 4 for done in policy.told)
            assert any(done.accepted < done.drafted for done in policy.told)
            assert all(done.round_ms >= done.compute_ms > 0 and done.ends_ms > 0 for done in policy.told)
            none = Always(Plan(0))
            found, end = await answered(thread, chains, REQUEST, Drafting(Oracle(text, 1.0), none))
            assert found == plain
            assert (end.rounds, end.drafted_tokens) == (len(plain) - 1, 0)

    run(main())
