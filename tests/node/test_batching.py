from hypothesis import given
from hypothesis import strategies as st

from peerllm.engine.batching import (
    DECODES_BESIDE_OTHERS,
    ROWS_BESIDE_DECODE,
    ROWS_PER_STEP,
    choose_rows,
    fair_shares,
)


def test_decoding_sessions_go_along_with_a_slice_of_the_prefill() -> None:
    assert choose_rows([1000, 1, 1], "aaa") == [ROWS_BESIDE_DECODE, 1, 1]


def test_a_lone_prefill_fills_the_step() -> None:
    assert choose_rows([1000], "a") == [ROWS_PER_STEP]


def test_a_lone_prefill_leaves_room_for_the_token_that_is_about_to_come() -> None:
    assert choose_rows([1000], "a", decoding=True) == [ROWS_BESIDE_DECODE]
    assert choose_rows([1000, 1000], "ab", decoding=True) == [ROWS_BESIDE_DECODE // 2] * 2


def test_of_one_asker_the_first_prefill_goes_first() -> None:
    assert choose_rows([40, 1000, 1], "aaa") == [40, ROWS_BESIDE_DECODE - 40, 1]


def test_a_short_prompt_goes_beside_the_long_one_of_another() -> None:
    assert choose_rows([8000, 20], "ab") == [ROWS_PER_STEP - 20, 20]


def test_many_prefills_of_one_asker_have_the_room_of_one() -> None:
    taken = choose_rows([1000] * 9 + [1000], "a" * 9 + "b")
    assert sum(taken[:9]) == taken[9] == ROWS_PER_STEP // 2


def test_many_decoding_sessions_of_one_asker_let_the_others_go_on() -> None:
    assert sum(choose_rows([1] * 9, "a" * 9)) == 9
    taken = choose_rows([1] * 10, "a" * 9 + "b")
    assert taken[9] == 1
    assert sum(taken) == DECODES_BESIDE_OTHERS + 1


def test_own_prompts_have_the_room_first() -> None:
    assert choose_rows([1000, 40, 1000], "abc", own="b") == [ROWS_PER_STEP // 2 - 20, 40, ROWS_PER_STEP // 2 - 20]
    assert choose_rows([1000, 1000], "ab", own="b") == [0, ROWS_PER_STEP]
    assert choose_rows([1, 1000, 1000], "abc", own="c") == [1, 0, ROWS_BESIDE_DECODE]


def test_all_own_tokens_go_into_a_step_that_others_wait_for_too() -> None:
    assert choose_rows([1] * 10, "a" * 9 + "b", own="a") == [1] * 10
    assert sum(choose_rows([1] * 10, "a" * 9 + "b", own="b")) == DECODES_BESIDE_OTHERS + 1


Sessions = st.lists(st.tuples(st.integers(1, 5000), st.sampled_from("abcde")), min_size=1, max_size=60)


@given(Sessions, st.booleans())
def test_every_step_moves_every_asker_and_never_takes_too_much(sessions: list[tuple[int, str]], decoding: bool) -> None:
    rows_left, askers = [rows for rows, _ in sessions], [asker for _, asker in sessions]
    taken = choose_rows(rows_left, askers, decoding=decoding)
    decodes = sum(count for count, rows in zip(taken, rows_left, strict=True) if rows == 1)
    prefill = sum(taken) - decodes
    assert prefill <= (ROWS_BESIDE_DECODE if decodes or decoding else ROWS_PER_STEP)
    assert all(0 <= count <= rows for count, rows in zip(taken, rows_left, strict=True))
    moved = {asker for asker, count in zip(askers, taken, strict=True) if count}
    assert moved == set(askers)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(0, 600))
def test_shares_use_the_room_and_nobody_has_more_than_one_that_wants_more(wanted: list[int], room: int) -> None:
    shares = fair_shares(wanted, room)
    assert sum(shares) == min(room, sum(wanted))
    assert all(share <= want for share, want in zip(shares, wanted, strict=True))
    short = [share for share, want in zip(shares, wanted, strict=True) if share < want]
    assert not short or max(shares) <= min(short) + 1


@given(st.lists(st.tuples(st.integers(2, 2000), st.sampled_from("abc")), min_size=2, max_size=30))
def test_nothing_waits_for_ever(sessions: list[tuple[int, str]]) -> None:
    """However others come back with as much as before, whoever waits from the start ends in bounded time."""
    rows_left, askers = [rows for rows, _ in sessions], [asker for _, asker in sessions]
    first_asker = askers[0]
    others_share = ROWS_PER_STEP // 3
    steps = 0
    while rows_left[0]:
        taken = choose_rows(rows_left, askers)
        rows_left[0] -= taken[0]
        steps += 1  # the others never get less to do
    own = rows_left[0] + sessions[0][0]
    assert first_asker == askers[0]
    assert steps <= -(-own // others_share)
