"""Where others want every core for a while, all policies make way; a burst is waited out."""

from __future__ import annotations

import pytest

from peerllm.guest_config import GuestConfig
from peerllm.serving.governor import CROWDED_S, Decision, GovernorState, decide
from peerllm.serving.policy import OwnersWord, policy_from
from peerllm.serving.readings import Readings
from peerllm.serving.verdict import SignalName, Verdict

POLITE = policy_from(GuestConfig(policy="polite", resume_s=60.0), OwnersWord(consented=True, sharing=True))


def decisions(loads: list[float | None], cores: int = 4) -> list[Decision]:
    """One reading a second."""
    state, made = GovernorState(), list[Decision]()
    for second, load in enumerate(loads):
        now = 1e9 + second
        state, decision = decide(state, Readings(now, idle_s=3600.0, cores=cores, others_cores=load), POLITE, now)
        made.append(decision)
    return made


def test_load_on_every_core_that_lasts_pauses_and_says_so() -> None:
    made = decisions([4.0] * 10)
    assert [decision.verdict for decision in made[: int(CROWDED_S)]] == [Verdict.REDUCE] * int(CROWDED_S)
    assert {decision.verdict for decision in made[int(CROWDED_S) :]} == {Verdict.PAUSE}
    assert made[-1].reason == "paused: other programs use every core; goes on after 1 minute in which one is free"
    assert made[-1].held == (SignalName.OTHERS,)


@pytest.mark.parametrize("loads", [[4.0, 4.0, 1.0] * 10, [3.0] * 30, [4.0, 4.0, None] * 10])
def test_bursts_and_one_free_core_do_not_pause(loads: list[float | None]) -> None:
    assert Verdict.PAUSE not in {decision.verdict for decision in decisions(loads)}


def test_it_goes_on_once_a_core_has_been_free_for_a_while() -> None:
    made = decisions([4.0] * 5 + [0.0] * 70)
    assert made[5 + 50].verdict is Verdict.PAUSE
    assert made[-1].verdict in (Verdict.SHARE, Verdict.REDUCE)
