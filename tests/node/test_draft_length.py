"""How many guessed tokens pay: what rounds cost, what guesses are worth, and both together over simulated answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm.generation.drafting.acceptance import Acceptance, Kind, Source
from peerllm.generation.drafting.answer_drafter import AnswerDrafter
from peerllm.generation.drafting.costs import RoundCost, round_cost
from peerllm.generation.drafting.drafter import KEPT_ROUNDS, Verified
from peerllm.generation.drafting.length import (
    EXPLORE_AFTER,
    EXPLORING_ROWS,
    GAIN_TO_BEGIN,
    NEARLY,
    best_length,
    exploring_length,
    length_ahead,
)

CHANCE = st.floats(0.01, 0.99)
MS = st.floats(0.1, 300)


def verified(rows: int, links_ms: float, compute_ms: float, ends_ms: float = 0.0) -> Verified:
    return Verified(rows - 1, 0, links_ms + compute_ms, compute_ms, ends_ms=ends_ms)


@pytest.mark.parametrize(
    ("rounds", "fixed_ms", "row_ms"),
    [
        ([(1, 80.0, 5.0)], 80.0, 5.0),  # nothing known of further rows: as dear as the first
        ([(8, 80.0, 16.0)], 80.0, 2.0),
        ([(1, 80.0, 5.0)] * 8 + [(5, 80.0, 9.0)] * 8, 83.4, 1.14),  # a slope that is known, doubted a little
        ([(1, 80.0, 5.0)] * 8 + [(5, 84.0, 25.0)] * 8, 79.0, 6.0),
        ([(1, 80.0, 5.0)] * 8 + [(5, 60.0, 25.0)] * 8, 70.0, 5.0),  # a faster link is no negative price
        ([(1, 0.0, 5.0)] * 7 + [(1, 0.0, 500.0)], 0.0, 5.0),  # one that was held up
    ],
)
def test_what_rounds_cost(rounds: list[tuple[int, float, float]], fixed_ms: float, row_ms: float) -> None:
    cost = round_cost([verified(*each) for each in rounds])
    assert cost is not None
    assert cost.fixed_ms == pytest.approx(fixed_ms, abs=0.1)
    assert cost.row_ms == pytest.approx(row_ms, abs=0.01)


def test_rounds_that_overlap_count_only_where_there_are_no_others() -> None:
    alone = verified(1, 80.0, 5.0)
    waiting = Verified(4, 4, 200.0, 120.0, overlapped=True)
    assert round_cost([alone, waiting]) == round_cost([alone])
    assert round_cost([waiting]) is not None
    assert round_cost([]) is None


def test_the_ends_cost_rows_too() -> None:
    cost = round_cost([verified(1, 40.0, 5.0, ends_ms=2.0)])
    assert cost is not None
    assert (cost.fixed_ms, cost.row_ms) == pytest.approx((40.0, 7.0))
    assert cost.with_drafting(3.0).ms(1) == pytest.approx(cost.ms(1))
    assert cost.with_drafting(3.0).ms(2) == pytest.approx(cost.ms(2) + 3.0)


@pytest.mark.parametrize(
    ("chance", "fixed_ms", "row_ms", "length"),
    [
        (0.9, 0, 5, 0),  # no network, rows at full price: nothing pays
        (0.3, 0, 5, 0),
        (0.01, 80, 5, 0),
        (0.9, 80, 5, 9),
        (0.9, 240, 5, 14),
        (0.5, 80, 5, 2),
        (0.3, 240, 7, 2),
    ],
)
def test_drafts_are_as_long_as_pays(chance: float, fixed_ms: float, row_ms: float, length: int) -> None:
    assert best_length([chance] * 32, RoundCost(fixed_ms, row_ms)).length == length


@settings(deadline=None, max_examples=50)
@given(st.lists(CHANCE, max_size=16), MS, MS)
def test_no_other_length_is_much_faster(chances: list[float], fixed_ms: float, row_ms: float) -> None:
    cost = RoundCost(fixed_ms, row_ms)
    best = best_length(chances, cost)
    rates = [_rate(chances[:length], cost) for length in range(len(chances) + 1)]
    assert rates[best.length] == pytest.approx(best.rate)
    assert best.rate >= 0.999 * NEARLY * max(rates)
    assert all(rate < 1.001 * NEARLY * max(rates) for rate in rates[: best.length])  # none shorter is as good


@settings(deadline=None, max_examples=50)
@given(CHANCE, MS, MS, st.floats(0, 300))
def test_a_longer_way_never_makes_drafts_shorter(chance: float, fixed_ms: float, row_ms: float, more_ms: float) -> None:
    chances = [chance] * 32
    near, far = RoundCost(fixed_ms, row_ms), RoundCost(fixed_ms + more_ms, row_ms)
    assert best_length(chances, near).length <= best_length(chances, far).length + 1  # of two that are nearly as good


def test_to_begin_takes_more_than_to_go_on() -> None:
    hardly = [0.12], RoundCost(80.0, 5.0)
    assert best_length(*hardly).length == 1
    assert best_length(*hardly, least_gain=GAIN_TO_BEGIN).length == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(CHANCE, max_size=16), CHANCE, MS, MS)
def test_what_is_sent_ahead_is_worth_its_rows(
    chances: list[float], held: float, fixed_ms: float, row_ms: float
) -> None:
    cost = RoundCost(fixed_ms, row_ms)
    rate = best_length(chances, cost).rate
    length = length_ahead(chances, held, cost, rate)
    assert length_ahead(chances, held / 2, cost, rate) <= length <= len(chances)
    for chance in chances[:length]:
        held *= chance
        assert held >= rate * cost.row_ms


@pytest.mark.parametrize(
    ("chances", "since", "explored", "length"),
    [
        ([0.9] * 8, EXPLORE_AFTER, 0, EXPLORING_ROWS),
        ([0.9] * 8, EXPLORE_AFTER - 1, 0, 0),
        ([0.9] * 8, EXPLORE_AFTER, 1, 0),
        ([0.9] * 8, 2 * EXPLORE_AFTER, 1, EXPLORING_ROWS),
        ([0.9], EXPLORE_AFTER, 0, 1),
        ([0.3] * 8, EXPLORE_AFTER, 0, 0),
        ([], EXPLORE_AFTER, 0, 0),
    ],
)
def test_exploring_is_rare_short_and_likely_to_hold(
    chances: Sequence[float], since: int, explored: int, length: int
) -> None:
    assert exploring_length(chances, since, explored) == length


class Answering:
    """Simulated rounds: a text whose tokens come as they do, over a route whose rounds take what they take."""

    def __init__(self, text: Sequence[int], cost: RoundCost, *, prompt: int, seed: int = 0) -> None:
        self._text = text
        self._prompt = prompt
        self._cost = cost
        self._noise = Random(seed)

    def faster(self) -> float:
        """How many times faster than without guesses."""
        alone_ms = (len(self._text) - self._prompt - 1) * self._cost.ms(1)
        return alone_ms / asyncio.run(self._elapsed_ms())

    async def _elapsed_ms(self) -> float:
        drafter = AnswerDrafter(Acceptance(), max_length=32)
        rounds: deque[Verified] = deque(maxlen=KEPT_ROUNDS)
        at, elapsed_ms = self._prompt + 1, 0.0
        while at < len(self._text):
            most = min(drafter.plan(list(rounds)).length, len(self._text) - at - 1)
            guesses = await drafter.propose(self._text[:at], at, most)
            held = next((n for n, guess in enumerate(guesses) if guess != self._text[at + n]), len(guesses))
            compute_ms = self._cost.row_ms * (len(guesses) + 1) * self._noise.gauss(1, 0.1)
            rounds.append(Verified(len(guesses), held, self._cost.fixed_ms + compute_ms, compute_ms))
            elapsed_ms += rounds[-1].round_ms
            at += held + 1
        return elapsed_ms


def _random_text(period: int, length: int, surprise: float, seed: int = 1) -> list[int]:
    """A text that repeats itself but for tokens that are new with that chance."""
    random = Random(seed)
    once = [random.randrange(1000) for _ in range(period)]
    new = range(1000, 50000)
    return [random.choice(new) if random.random() < surprise else once[at % period] for at in range(length)]


@pytest.mark.parametrize(
    ("surprise", "fixed_ms", "row_ms", "least", "most"),
    [
        (0.0, 60.0, 7.0, 4.0, 9.0),  # repeats itself
        (0.0, 240.0, 7.0, 8.0, 30.0),
        (0.1, 240.0, 7.0, 2.7, 7.0),
        (1.0, 240.0, 7.0, 0.97, 1.03),  # nothing to be guessed
        (1.0, 0.0, 7.0, 0.97, 1.03),
        (0.0, 0.0, 7.0, 0.97, 1.05),  # nothing to be gained: rows cost what rounds do
        (0.1, 0.0, 7.0, 0.95, 1.05),
    ],
)
def test_simulated_answers(surprise: float, fixed_ms: float, row_ms: float, least: float, most: float) -> None:
    text = _random_text(period=40, length=400, surprise=surprise)
    assert least <= Answering(text, RoundCost(fixed_ms, row_ms), prompt=80).faster() <= most


@pytest.mark.parametrize("fixed_ms", [20.0, 60.0, 240.0])
@pytest.mark.parametrize("held", [0.2, 0.5, 0.8, 0.95])
def test_what_is_learned_comes_near_the_best_length_in_hindsight(held: float, fixed_ms: float) -> None:
    """Guesses that hold with one chance, which nobody is told, over rounds that cost what nobody is told."""
    random, true, kind = Random(3), RoundCost(fixed_ms, 6.0), Kind(Source.TEXT, 5)
    acceptance, rounds = Acceptance(), deque[Verified](maxlen=KEPT_ROUNDS)
    tokens, elapsed_ms = 0, 0.0
    for _ in range(300):
        length = best_length([acceptance.chance(kind)] * 32, round_cost(rounds) or RoundCost(3.0, 1.0)).length
        right = next((at for at in range(length) if random.random() >= held), length)
        for at in range(min(right + 1, length)):
            acceptance.note(kind, held=at < right)
        compute_ms = true.row_ms * (length + 1) * random.gauss(1, 0.1)
        rounds.append(Verified(length, right, true.fixed_ms + compute_ms, compute_ms))
        tokens, elapsed_ms = tokens + right + 1, elapsed_ms + rounds[-1].round_ms
    best = max(_rate([held] * length, true) for length in range(33))
    assert tokens / elapsed_ms >= 0.9 * best


def _rate(chances: Sequence[float], cost: RoundCost) -> float:
    expected, held = 1.0, 1.0
    for chance in chances:
        held *= chance
        expected += held
    return expected / cost.ms(len(chances) + 1)
