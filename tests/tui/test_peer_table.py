"""Rows of peers: sorted by each column, complete, inert."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peerllm_tui.peer_table import COLUMNS, Column, sorted_peers, troubles
from tests.support.sample_swarm import ATTIC, CELLAR, DESKTOP, KITCHEN, PEERS, PHONE, STRANGER

BY_KEY = {column.key: column for column in COLUMNS}
HOSTILE = "[red]\x1b[2J\u202e" + "z" * 10_000


def shown(key: str) -> list[str]:
    return [BY_KEY[key].shown(peer) for peer in (DESKTOP, CELLAR, KITCHEN, STRANGER, PHONE)]


def test_cells_say_what_is_known_and_no_more() -> None:
    assert shown("span") == ["0:12/30", "18:30/30", "0:8/30", "8:18/30", "-"]
    assert shown("state") == ["█ online", "█ online", "░ loading", "x online", "  idle"]
    assert shown("rtt") == ["here", "7.8", "-", "41.0", "22.5"]
    assert shown("block") == ["2.00", "3.10", "-", "2.60", "-"]
    assert shown("load") == ["4 free", "2 free", "3 free", "3 free", "-"]
    assert BY_KEY["load"].shown(replace(CELLAR, slots_free=0, queue_ms=38.4)) == "full, 38 ms"
    assert BY_KEY["version"].shown(replace(CELLAR, version="0.5.0")) == "0.5.0"
    assert shown("reach") == ["direct", "relayed", "direct", "direct", "direct"]
    assert shown("trust") == ["-", "-", "-", "quarantined", "-"]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.key)
def test_what_is_unknown_comes_last_either_way(column: Column) -> None:
    for backwards in (False, True):
        known = [column.value(peer) is not None for peer in sorted_peers(PEERS, column, backwards=backwards)]
        assert known == sorted(known, reverse=True)


def test_order_does_not_hang_on_that_of_the_answer() -> None:
    for column in COLUMNS:
        assert sorted_peers(PEERS, column) == sorted_peers(PEERS[::-1], column)
    assert sorted_peers(PEERS, BY_KEY["rtt"])[0] == DESKTOP
    assert sorted_peers(PEERS, BY_KEY["rtt"], backwards=True)[0] == STRANGER


def test_troubles_are_told_in_sentences() -> None:
    assert troubles(ATTIC) == []
    assert troubles(CELLAR) == ["relayed: its router lets nobody in"]
    assert troubles(replace(ATTIC, clock_ahead_s=-90.0)) == ["its clock is 90 s behind this machine's"]
    assert troubles(STRANGER)[0].startswith("quarantined: answered otherwise")


def test_words_of_strangers_are_inert() -> None:
    evil = replace(
        ATTIC,
        name=HOSTILE,
        state=HOSTILE,
        reach=HOSTILE,
        engine=HOSTILE,
        version=HOSTILE,
        model=HOSTILE,
        trust="x",
        trust_reason=HOSTILE,
    )
    for text in (*(column.shown(evil) for column in COLUMNS), *troubles(evil)):
        assert text.isprintable()
        assert len(text) < 310
