"""Slots go to whoever holds fewest; who was refused is remembered for as long as it asks again."""

from __future__ import annotations

from collections import Counter
from random import Random

from peerllm.serving.admission import (
    GRACE_S,
    LONGEST_RETRY_S,
    MAX_WANTS,
    SHORTEST_RETRY_S,
    UNKNOWN_RETRY_S,
    Waiting,
    retry_after_s,
)
from peerllm_swarm.span import PeerId

GREEDY, MODEST, THIRD = (PeerId(name) for name in ("greedy", "modest", "third"))


def test_one_asker_may_have_every_slot_that_nobody_else_wants() -> None:
    assert retry_after_s(GREEDY, {GREEDY: 3}, Waiting(), 1, [], 0.0) is None


def test_a_full_peer_says_when_its_next_session_is_expected_to_end() -> None:
    held = {GREEDY: 3}
    assert retry_after_s(MODEST, held, Waiting(), 0, [3.0, 0.7, 2.0], 0.0) == 0.7
    assert retry_after_s(MODEST, held, Waiting(), 0, [60.0], 0.0) == LONGEST_RETRY_S
    assert retry_after_s(MODEST, held, Waiting(), 0, [0.001], 0.0) == SHORTEST_RETRY_S
    assert retry_after_s(MODEST, held, Waiting(), 0, [], 0.0) == UNKNOWN_RETRY_S


def test_the_second_in_line_is_told_the_second_end() -> None:
    waiting = Waiting().refused(MODEST, 1.0, 0.0)
    assert retry_after_s(THIRD, {GREEDY: 3}, waiting, 0, [3.0, 0.7, 2.0], 0.1) == 2.0


def test_a_slot_that_is_given_back_is_for_whoever_holds_fewer() -> None:
    waiting = Waiting().refused(MODEST, 1.0, 0.0)
    assert retry_after_s(GREEDY, {GREEDY: 3}, waiting, 1, [], 0.5) is not None
    assert retry_after_s(MODEST, {GREEDY: 3}, waiting, 1, [], 0.5) is None


def test_of_two_that_hold_as_many_the_first_to_ask_goes_first() -> None:
    waiting = Waiting().refused(MODEST, 1.0, 0.0).refused(THIRD, 1.0, 0.1)
    assert retry_after_s(THIRD, {}, waiting, 1, [], 0.5) is not None
    assert retry_after_s(MODEST, {}, waiting, 1, [], 0.5) is None
    assert retry_after_s(THIRD, {MODEST: 1}, waiting.admitted(MODEST), 1, [], 0.6) is None


def test_the_machines_own_answer_goes_before_everybody_who_waits() -> None:
    waiting = Waiting().refused(MODEST, 1.0, 0.0).refused(THIRD, 1.0, 0.1)
    assert retry_after_s(THIRD, {THIRD: 2}, waiting, 1, [], 0.5, own=THIRD) is None
    assert retry_after_s(MODEST, {THIRD: 2}, waiting, 1, [], 0.5, own=THIRD) is not None
    assert retry_after_s(THIRD, {}, waiting, 0, [3.0, 0.7], 0.5, own=THIRD) == 0.7  # a slot cannot be made


def test_who_does_not_ask_again_loses_its_place() -> None:
    waiting = Waiting().refused(MODEST, 1.0, 0.0)
    after = 1.0 + GRACE_S + 0.01
    assert retry_after_s(GREEDY, {GREEDY: 3}, waiting, 1, [], after) is None
    assert MODEST not in waiting.refused(THIRD, 1.0, after).wants


def test_the_line_is_bounded() -> None:
    waiting = Waiting()
    for number in range(2 * MAX_WANTS):
        waiting = waiting.refused(PeerId(str(number)), 1.0, 0.0)
    assert len(waiting.wants) == MAX_WANTS


def test_a_greedy_asker_and_its_ten_attempts_at_once_leave_the_others_their_share() -> None:
    """Sessions of random length at 4 slots; one asker tries ten times as often as each of three others."""
    random, now, waiting = Random(5), 0.0, Waiting()
    running: list[tuple[float, PeerId]] = []
    others = [PeerId(f"other {index}") for index in range(3)]
    served = Counter[PeerId]()
    while now < 2000.0:
        now += 0.05
        running = [(ends, asker) for ends, asker in running if ends > now]
        asker = random.choice([GREEDY] * 10 + others)
        held = Counter(asker for _, asker in running)
        wait_s = retry_after_s(asker, held, waiting, 4 - len(running), [ends - now for ends, _ in running], now)
        if wait_s is not None:
            waiting = waiting.refused(asker, wait_s, now)
            continue
        waiting = waiting.admitted(asker)
        length_s = random.uniform(1.0, 5.0)
        served[asker] += 1
        running.append((now + length_s, asker))
    assert all(served[other] > 0.6 * served[GREEDY] for other in others), served
