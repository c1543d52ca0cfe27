"""What is said of guessed tokens: by ``peerllm status``, ``explain`` and the chat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peerllm.cli.daemon import _speculation
from peerllm.cli.explain import _guessed
from peerllm.local.client import ChatDone
from peerllm.local.schema import SpeculationStatus
from peerllm_tui.wording import answer_facts
from tests.support.sample_accounts import FINISHED

DONE = ChatDone("stop", 20, 100, tokens_per_s=12.0, rounds=40, drafted_tokens=80, accepted_tokens=60)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (SpeculationStatus(), "off"),
        (SpeculationStatus(enabled=True), "where that is faster"),
        (
            SpeculationStatus(True, 40, 80, 60, draft_models=("tiny",)),
            "where that is faster, also by tiny: 60 of 80 tokens were right, 1.5 per round",
        ),
    ],
)
def test_status_says_whether_tokens_are_guessed_and_how_well(status: SpeculationStatus, words: str) -> None:
    assert _speculation(status) == words


def test_the_chat_tells_what_a_round_brought() -> None:
    assert "12.0 tokens/s · 1.5 guessed right per round ·" in answer_facts(DONE, 0)
    assert "guessed" not in answer_facts(replace(DONE, accepted_tokens=0), 0)
    assert ChatDone("stop", 1, 1).accepted_per_round == 0


def test_an_account_tells_how_many_guesses_were_right() -> None:
    account = replace(FINISHED, rounds=40, drafted_tokens=80, accepted_tokens=60)
    assert _guessed(account) == "60 of 80 tokens were right, 1.5 per round"
    assert _guessed(replace(account, drafted_tokens=0, accepted_tokens=0)) == ""
