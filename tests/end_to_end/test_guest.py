"""Three daemons as processes, two routes: a peer that pauses in the middle of an answer, and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from peerllm.local.client import ChatDone, ChatMessage
from peerllm.model.catalog import DEFAULT
from tests.support.daemons import Daemon
from tests.support.split_swarm import split_swarm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

TOKENS = 120
WEIGHTS_BYTES = 60 << 20
"""At least, of all blocks; caches and scratch come on top."""

WHOLE = 2
"""The daemon that serves all blocks; the others serve half each."""


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    with split_swarm(tmp_path_factory.mktemp("guest"), ("0:15", "15:30", "0:30")) as daemons:
        yield daemons


def ask(daemon: Daemon, pausing: Daemon | None = None) -> ChatDone:
    """An answer, during which that daemon's owner asks for a pause."""
    with daemon.client() as client:
        options = {"temperature": 0, "max_tokens": TOKENS}
        question = [ChatMessage("user", "Why is the sky blue?")]
        for number, piece in enumerate(client.chat(DEFAULT, question, options=options, token_ids=True)):
            if isinstance(piece, ChatDone):
                return piece
            if number == 3 and pausing is not None:
                with pausing.client() as other:
                    other.pause(time.time() + 600)
    raise AssertionError("an answer without an end")


def test_an_answer_survives_that_a_peer_of_its_route_pauses(swarm: list[Daemon]) -> None:
    asker, whole = swarm[0], swarm[WHOLE]
    expected = ask(asker)
    present = whole.status()
    assert present is not None
    through = [hop.partition("@")[2] for hop in expected.route]
    pausing = next(daemon for daemon in swarm if (status := daemon.status()) and status.peer_id == through[-1])

    moved = ask(asker, pausing)
    assert moved.tokens == expected.tokens
    assert moved.recoveries == 1
    with pausing.client() as client:
        guest, status = client.guest(), client.status()
        assert (guest.verdict, status.lifecycle.name) == ("pause", "paused")
        assert "you asked" in guest.reason
        assert status.contribution.span, "the weights are kept"
        assert not status.contribution.slots_used

    again = ask(asker)
    assert again.tokens == expected.tokens
    assert status.peer_id not in "".join(again.route), "nobody is routed through a peer that is paused"

    with pausing.client() as client:
        client.pause(0)
    pausing.wait(lambda status: status.lifecycle.name == "serving", within_s=10.0)


def test_limits_count_at_once_and_stopping_gives_the_memory_back(swarm: list[Daemon]) -> None:
    whole = swarm[WHOLE]
    held = psutil.Process(whole.process.pid).memory_info().rss
    with whole.client() as client:
        client.set_limits({"contribution.slots": 2})
        whole.wait(lambda status: status.contribution.slots_free == 2)
        client.share(False)
        whole.wait(lambda status: status.lifecycle.name == "idle")
        assert client.guest().verdict == ""
        assert client.guest().consented
    deadline = time.monotonic() + 10.0
    while held - psutil.Process(whole.process.pid).memory_info().rss < 0.8 * WEIGHTS_BYTES:
        assert time.monotonic() < deadline, "the memory did not return"
        time.sleep(0.05)
    told = whole.run("share", "status").stdout
    assert told.startswith("sharing is off")
    assert "contribution.slots" in told
