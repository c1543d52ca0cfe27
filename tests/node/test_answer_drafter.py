"""The guesses of one answer: what is proposed, what is learned of it, and which are the prediction's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm.generation.answer import Delta, Finished
from peerllm.generation.drafting.acceptance import Acceptance, Kind, Source
from peerllm.generation.drafting.answer_drafter import AnswerDrafter
from peerllm.generation.drafting.draft_model import Guess
from peerllm.generation.drafting.drafter import Verified
from peerllm.generation.drafting.length import EXPLORING_ROWS, LOOK_EVERY

FAR = (Verified(drafted=0, accepted=0, round_ms=300.0, compute_ms=1.0),)
NEAR = (Verified(drafted=0, accepted=0, round_ms=5.0, compute_ms=5.0),)

LINE = [11, 12, 13, 14, 15, 16, 17, 18, 10]
END = Finished("stop", 0, 0, 0.0, 0.0)


@dataclass
class SmallModel:
    """Guesses one number after the other, as sure as it is told to be."""

    sure: float = 0.95
    token_ms: float = 2.0
    asked: list[int] = field(default_factory=list[int])
    is_closed: bool = False

    async def propose(self, tokens: Sequence[int], at_most: int) -> Sequence[Guess]:
        self.asked.append(at_most)
        return [Guess(tokens[-1] + 1 + at, self.sure) for at in range(at_most)]

    async def aclose(self) -> None:
        self.is_closed = True


def proposed(drafter: AnswerDrafter, tokens: Sequence[int], *, settled: int = 0, at_most: int = 8) -> list[int]:
    return list(asyncio.run(drafter.propose(tokens, settled or len(tokens), at_most)))


def followed(drafter: AnswerDrafter, text: Sequence[int], at: int, end: int) -> int:
    """Rounds whose guesses all hold, until so many tokens are settled or some more."""
    while at < end:
        at += len(proposed(drafter, text[:at])) + 1
    return at


def drafting(rounds: Sequence[Verified] = FAR, **more: object) -> AnswerDrafter:
    drafter = AnswerDrafter(Acceptance(), **{"max_length": 16, **more})  # type: ignore[arg-type]
    assert drafter.plan(rounds).length == 16
    return drafter


def test_far_away_a_text_that_repeats_itself_is_copied() -> None:
    guesses = proposed(drafting(), LINE * 3)
    assert guesses == LINE[: len(guesses)] != []


def test_nearby_nothing_is_sent_but_it_is_learned_what_it_would_have_been_worth() -> None:
    drafter, text = drafting(NEAR), LINE * 6
    first = next(at for at in range(20, len(text)) if proposed(drafter, text[:at]))
    assert first > 30  # one exploration, once it is likely to hold
    assert proposed(drafting(NEAR), [1, 2, 3]) == []
    drafter.plan(FAR)
    assert len(proposed(drafter, text[: first + 1], at_most=16)) == 16


def test_where_none_could_pay_it_is_seldom_looked_and_never_twice_for_one_round() -> None:
    drafter, text = drafting(NEAR), LINE * 6
    for at in range(20, 32):
        assert proposed(drafter, text[:at]) == []
        drafter.plan(FAR)
        assert proposed(drafter, text[:at]) == []
        drafter.plan(NEAR)
    assert _guesses(drafter) <= 12 / LOOK_EVERY * EXPLORING_ROWS


def test_behind_guesses_under_way_only_what_is_still_likely_follows() -> None:
    drafter, text = drafting(), LINE * 20
    at = followed(drafter, text, 30, 80)  # it comes as it should, so that it is believed
    under_way = proposed(drafter, text[:at])
    ahead = proposed(drafter, text[:at] + under_way, settled=at)
    assert under_way == text[at : at + 8]
    assert ahead == text[at + 8 : at + 8 + len(ahead)] != []
    wrong = [*text[: at + 2], 99]
    assert proposed(drafter, wrong)[:2] == text[at + 3 : at + 5]  # goes on behind what stands there instead


def test_a_guess_in_flight_counts_once_it_has_come_out() -> None:
    drafter, text = drafting(), LINE * 20
    at = followed(drafter, text, 30, 80)
    under_way = proposed(drafter, text[:at])
    counted = _guesses(drafter)
    ahead = proposed(drafter, text[:at] + under_way, settled=at)
    assert _guesses(drafter) == counted
    behind = at + len(under_way)
    proposed(drafter, text[:behind] + ahead, settled=behind)
    assert _guesses(drafter) == counted + len(under_way)
    proposed(drafter, [*text[: behind + len(ahead) - 1], 99])
    assert _guesses(drafter) == counted + len(under_way) + len(ahead)


def test_what_the_request_predicted_is_guessed_first_and_counted() -> None:
    drafter = drafting(prediction=LINE)
    assert proposed(drafter, [1, 2, 3], at_most=4) == LINE[:4]
    assert proposed(drafter, [1, 2, 3, 11, 12, 99], at_most=4) == LINE[3:7]
    for token in (14, 15, 16, 17, 18):
        drafter.counted(Delta("", token))
    end = drafter.counted(END)
    assert isinstance(end, Finished)
    assert end.accepted_prediction_tokens == 2 + 4
    assert end.rejected_prediction_tokens == 1


def test_an_answer_without_prediction_counts_none() -> None:
    drafter = drafting()
    proposed(drafter, LINE * 3)
    assert drafter.counted(END) == END
    delta = Delta("", 5)
    assert drafter.counted(delta) is delta


def test_a_small_model_guesses_where_the_text_offers_nothing() -> None:
    small = SmallModel()
    drafter = drafting(model=small)
    guesses = proposed(drafter, [1, 2, 3])
    assert guesses == [4, 5, 6, 7, 8, 9, 10, 11][: len(guesses)] != []
    proposed(drafter, LINE * 3 + [300])
    asyncio.run(drafter.aclose())
    assert small.is_closed


def test_a_small_model_that_is_slow_or_unsure_is_not_waited_for() -> None:
    slow = SmallModel(token_ms=500.0)
    assert proposed(drafting(model=slow), [1, 2, 3]) == []
    assert not slow.asked
    near = SmallModel()
    assert proposed(drafting(NEAR, model=near), [1, 2, 3]) == []
    assert not near.asked
    unsure = SmallModel(sure=0.02)
    drafter = drafting(model=unsure)
    for at in range(20):
        proposed(drafter, [*range(500, 400 - 5 * at, -5)])
    assert len(unsure.asked) < 20


def test_what_answers_teach_serves_the_next_one() -> None:
    taught, text = Acceptance(), LINE * 10
    first = AnswerDrafter(taught, max_length=16)
    first.plan(FAR)
    followed(first, text, 20, 80)
    assert taught.chance(Kind(Source.TEXT, 9, follows=True)) > 0.95


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_guesses_fit_however_the_text_goes_on(data: st.DataObject) -> None:
    """Tokens under way, refused, replaced: the state stays that of the text, and no guess is judged out of turn."""
    drafter = drafting(prediction=data.draw(st.lists(st.integers(0, 3), max_size=6)))
    text = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
    for _ in range(data.draw(st.integers(1, 8))):
        under_way: list[int] = []
        for _ in range(data.draw(st.integers(1, 3))):
            guesses = proposed(drafter, text + under_way, settled=len(text), at_most=4)
            assert len(guesses) <= 4
            if not guesses:
                break
            under_way += guesses
        kept = data.draw(st.integers(0, len(under_way)))
        text = text + under_way[:kept] + [data.draw(st.integers(0, 4))]
    fresh = drafting()
    proposed(fresh, text)
    proposed(drafter, text)
    assert drafter._lookup._text[-len(text) :] == fresh._lookup._text  # pyright: ignore[reportPrivateUsage]


def _guesses(drafter: AnswerDrafter) -> float:
    return sum(drafter._acceptance.tried.values())  # pyright: ignore[reportPrivateUsage]
