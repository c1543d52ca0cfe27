"""Guesses out of the text itself: where it read the same before, and how often such guesses have held."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm.generation.drafting.acceptance import FORGET_AT, Acceptance, Kind, Source
from peerllm.generation.drafting.lookup import BORDER, LONGEST, LOOKED_AT, Lookup, Match

TOKENS = st.lists(st.integers(0, 3), max_size=60)


def looked_up(text: Sequence[int], known: Sequence[Sequence[int]] = ()) -> Lookup:
    lookup = Lookup(known)
    lookup.extend(text)
    return lookup


def copied(lookup: Lookup, at_most: int = 4) -> list[int]:
    match = lookup.match()
    return [] if match is None else lookup.copied(match, at_most)


@pytest.mark.parametrize(
    ("text", "next_tokens"),
    [
        ([], []),
        ([5], []),
        ([5, 6, 7], []),
        ([5, 6, 7, 5], [6, 7, 5, 6]),  # goes on with itself
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9, 1]),
        ([1, 2, 3, 7, 2, 4, 8, 1, 2], [3, 7, 2, 4]),  # the longest agreement, not the latest
        ([2, 3, 0, 2, 4, 0, 2, 3, 0, 9, 2], [3, 0, 9, 2]),  # the most frequent of equally long ones
        ([2, 3, 0, 2, 4, 9, 2], [4, 9, 2, 4]),  # then the latest
    ],
)
def test_a_text_goes_on_as_it_did(text: list[int], next_tokens: list[int]) -> None:
    assert copied(looked_up(text)) == next_tokens


def test_a_copy_ends_with_the_text_it_was_made_from() -> None:
    assert copied(looked_up([8, 2], known=[[1, 2, 3], [4, 5]])) == [3]


def test_what_was_known_beforehand_comes_before_an_equal_place_of_the_prompt() -> None:
    match = looked_up([1, 2, 3, 9, 1, 2], known=[[1, 2, 3]]).match()
    assert match is not None
    assert match.known


def test_an_answer_may_begin_as_what_was_known() -> None:
    lookup = looked_up([8, 9], known=[[1, 2, 3]])
    assert lookup.match() is None
    beginning = lookup.beginning()
    assert beginning is not None
    assert beginning == Match(0, 0, follows=True, known=True)
    assert lookup.copied(beginning, 8) == [1, 2, 3]
    assert looked_up([8, 9]).beginning() is None


def test_behind_something_new_the_copy_goes_on_where_it_was_left() -> None:
    """As in code where a name is another one: of many places behind a bracket the next one of the copied lines."""
    code = [10, 1, 40, 11, 2, 40, 12, 3, 40, 13, 4, 40]
    lookup = looked_up([*code, 90])
    lookup.extend([10])
    assert copied(lookup, 3) == [1, 40, 11]
    lookup.extend([1, 77, 40])  # 77 is new; 40 stands in four places
    match = lookup.match()
    assert match is not None
    assert match.follows
    assert lookup.copied(match, 3) == [11, 2, 40]


@settings(deadline=None, max_examples=50)
@given(TOKENS, TOKENS, st.integers(0, 60))
def test_what_was_cut_off_is_as_if_it_had_never_been(text: list[int], more: list[int], kept: int) -> None:
    kept = min(kept, len(text))
    lookup = looked_up(text)
    lookup.cut(kept)
    lookup.extend(more)
    fresh = looked_up(text[:kept] + more)
    assert lookup._latest == fresh._latest  # pyright: ignore[reportPrivateUsage] - the index is what was to be undone
    assert len(lookup) == len(fresh)


@settings(deadline=None, max_examples=50)
@given(TOKENS, TOKENS)
def test_a_match_agrees_with_the_end_and_with_no_place_that_is_better(known: list[int], text: list[int]) -> None:
    lookup = looked_up(text, [known] if known else [])
    whole = [*known, BORDER, *text] if known else text
    match = lookup.match()
    places = [place for place in range(len(whole)) if whole[place] != BORDER]
    longest = min(LONGEST, max((_agreeing(whole, place) for place in places), default=0))
    if match is None:
        assert longest == 0
        return
    assert _agreeing(whole, match.place) >= match.length >= 1
    if len(whole) <= LOOKED_AT:
        assert match.length == longest


def _agreeing(text: list[int], place: int) -> int:
    length = 0
    while length < place and text[place - 1 - length] == text[len(text) - 1 - length] != BORDER:
        length += 1
    return length


def test_agreement_with_other_tokens_is_found_behind_what_is_known_to_agree() -> None:
    lookup = looked_up([1, 2, 3, 4], known=[[7]])
    assert lookup.agrees([1, 2, 9, 9, 9], 1) == 2
    assert lookup.agrees([1, 2, 3], 0) == 3
    assert lookup.agrees([1, 2, 3, 4, 5], 4) == 4


def test_chances_follow_what_has_held() -> None:
    kind = Kind(Source.TEXT, 2)
    acceptance = Acceptance()
    at_first = acceptance.chance(kind)
    for _ in range(40):
        acceptance.note(kind, held=True)
    assert acceptance.chance(kind) > 0.9 > at_first
    for _ in range(200):
        acceptance.note(kind, held=False)
    assert acceptance.chance(kind) < 0.25
    assert acceptance.chance(Kind(Source.TEXT, 3)) == Acceptance().chance(Kind(Source.TEXT, 3))


def test_kinds_of_an_answer_lean_together() -> None:
    """A text that repeats itself does so behind short agreements, too; one that does not, behind long ones neither."""
    short, long, earlier = Kind(Source.TEXT, 2), Kind(Source.TEXT, 7), Acceptance()
    repeating, free = Acceptance(earlier), Acceptance(earlier)
    for _ in range(8):
        repeating.note(long, held=True)
        free.note(long, held=False)
    assert free.chance(short) < 0.2 < Acceptance().chance(short) < 0.5 < repeating.chance(short)


def test_an_answer_begins_with_what_earlier_ones_taught_and_teaches_later_ones() -> None:
    kind, earlier = Kind(Source.TEXT, 1), Acceptance()
    for _ in range(100):
        earlier.note(kind, held=True)
    answer = Acceptance(earlier)
    assert answer.chance(kind) == pytest.approx(earlier.chance(kind))
    for _ in range(12):
        answer.note(kind, held=False)
    assert answer.chance(kind) < 0.4 < earlier.chance(kind)
    assert earlier.chance(kind) < Acceptance(earlier).chance(Kind(Source.TEXT, 9))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), max_size=FORGET_AT + 50))
def test_a_chance_is_never_quite_certain(held: list[bool]) -> None:
    kind, acceptance = Kind(Source.MODEL, 9), Acceptance()
    for each in held:
        acceptance.note(kind, held=each)
    assert 0 < acceptance.chance(kind) < 1
    assert acceptance.tried.get(kind, 0) <= FORGET_AT


def test_a_longer_agreement_is_another_kind() -> None:
    assert Kind(Source.TEXT, 2, follows=True).run(4)[3] == Kind(Source.TEXT, 5, follows=True)
    assert [kind.agreeing for kind in Kind(Source.TEXT, 7).run(5)] == [7, 8, 9, 9, 9]
    assert [kind.agreeing for kind in Kind(Source.TEXT, 12).run(2)] == [9, 9]
    assert Kind(Source.TEXT).run(0) == ()
