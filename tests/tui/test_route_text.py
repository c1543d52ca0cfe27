"""The route of an answer in one line."""

from __future__ import annotations

from dataclasses import replace

from peerllm_tui.route_text import route_text
from tests.support.sample_accounts import CANCELLED, FINISHED

HOSTILE = "[red]\x1b[2J\u202e" + "z" * 10_000


def test_hops_and_the_slowest_of_them_are_named_with_the_reason() -> None:
    assert route_text(FINISHED) == (
        "attic 0:12 3.5 ms → cellar 12:30 10.8 ms; "
        "slowest: cellar, 72% of the round, most of it the link to it (7.8 ms); lost garage at token 7"
    )


def test_a_prediction_is_called_one() -> None:
    assert route_text(CANCELLED) == "attic 0:30 12.0 ms; predicted, no token was decoded"


def test_an_answer_under_way_is_called_one() -> None:
    running = replace(CANCELLED, outcome="running")
    assert route_text(running) == "attic 0:30 12.0 ms; predicted, no token yet"
    assert route_text(replace(running, hops=())) == "looking for a route for smollm2-135m"


def test_a_long_route_keeps_its_ends_and_its_slowest_hop() -> None:
    first, last = FINISHED.hops
    account = replace(FINISHED, hops=(first, last, *(replace(first, name=f"peer {n}") for n in range(20))), changes=())
    assert route_text(account, most_hops=2) == (
        "attic 0:12 3.5 ms → 20 more → peer 19 0:12 3.5 ms; "
        "slowest: cellar, 72% of the round, most of it the link to it (7.8 ms)"
    )


def test_an_answer_without_a_route_says_why() -> None:
    account = replace(FINISHED, hops=(), outcome="failed", error="nobody serves blocks 3:5")
    assert route_text(account) == "failed before there was a route: nobody serves blocks 3:5"


def test_words_of_strangers_are_inert() -> None:
    hops = tuple(replace(hop, name=HOSTILE, span=HOSTILE) for hop in FINISHED.hops)
    changes = tuple(replace(change, name=HOSTILE) for change in FINISHED.changes) * 1000
    text = route_text(replace(FINISHED, hops=hops, changes=changes, error=HOSTILE))
    assert text.isprintable()
    assert len(text) < 1500
