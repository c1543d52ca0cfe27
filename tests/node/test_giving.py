"""The ledger's file: sums by day, the last running total of each session, and what becomes of a damaged one."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerllm.errors import BadLedger
from peerllm.giving.accounts import Accounts
from peerllm.giving.days import DaySum, day_of, first_day
from peerllm.giving.receipts import Receipt, Tally
from peerllm.giving.store import KEEP_S, KeptReceipt, Store
from peerllm_swarm.span import PeerId
from tests.support.receipts import NOW_MS, Clock, identity, receipt, service, signed

NOW = NOW_MS / 1e3
DAY_S = 86400.0
SERVER, ASKER = identity("server").peer_id, identity("asker").peer_id


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    store = Store.open(file)
    yield store
    store.close()


def kept(one: Receipt, note: str = "", **sides: str | None) -> KeptReceipt:
    return KeptReceipt(signed(one, **sides), ASKER, note)


def test_sums_of_a_day_grow(store: Store) -> None:
    day = day_of(NOW)
    store.add({(day, ASKER): DaySum(gave_tokens=8, gave_bytes=100, gave_s=1.5, gave_wh=0.25)}, [])
    store.add({(day, ASKER): DaySum(gave_tokens=16, used_tokens=5, gave_s=0.5, gave_wh=0.25)}, [])
    [row] = store.rows(1, NOW)
    assert (row.day, row.peer_id, row.gave_tokens, row.used_tokens, row.gave_bytes) == (day, ASKER, 24, 5, 100)
    assert (row.gave_s, row.gave_wh, row.receipts) == (2.0, 0.5, 0)
    assert store.totals(day).gave_tokens == 24
    assert store.totals("1999-01-01") == DaySum()


def test_an_energy_that_was_not_always_known_is_unknown(store: Store) -> None:
    day = day_of(NOW)
    store.add({(day, ASKER): DaySum(gave_s=1.0, gave_wh=0.25)}, [])
    store.add({(day, ASKER): DaySum(gave_s=1.0, unmetered_s=1.0), (day, SERVER): DaySum(used_tokens=3)}, [])
    assert [row.gave_wh for row in store.rows(1, NOW)] == [None, None]


def test_days_are_the_owners_own_and_today_is_the_first_row(store: Store) -> None:
    for days in range(4):
        store.add({(day_of(NOW - days * DAY_S), ASKER): DaySum(gave_tokens=days + 1)}, [])
    assert [row.gave_tokens for row in store.rows(3, NOW)] == [1, 2, 3]
    assert store.rows(2, NOW, peer=SERVER) == []


@pytest.mark.skipif(sys.platform == "win32", reason="time zones are not set by TZ there")
def test_a_day_ends_at_local_midnight_also_when_the_clocks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        spring = time.mktime((2026, 3, 29, 0, 30, 0, 0, 0, -1))  # a day of 23 hours begins
        assert day_of(spring) == "2026-03-29"
        assert day_of(spring - 3600) == first_day(2, spring) == "2026-03-28"
        autumn = time.mktime((2026, 10, 26, 0, 30, 0, 0, 0, -1))  # after one of 25
        assert first_day(2, autumn) == "2026-10-25"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_last_running_total_of_a_session_wins_and_they_never_add_up(store: Store) -> None:
    for tokens in (10, 40, 20, 40):
        store.add({}, [kept(Receipt(service(), Tally(100, tokens), NOW_MS, NOW_MS + tokens))])
    [one] = store.receipts()
    assert one.signed.receipt.tally.decode_tokens == 40
    one.signed.check()


def test_what_both_have_signed_makes_what_one_had_signed_before_it_void(store: Store) -> None:
    small, large = Receipt(service(), Tally(9), 5, 6), Receipt(service(), Tally(10), 5, 7)
    store.add({}, [kept(small, asker=None), kept(large)])
    assert [one.signed.is_mutual for one in store.receipts()] == [True]
    larger = Receipt(service(), Tally(11), 5, 8)
    store.add({}, [kept(larger, "not signed by the asker", asker=None)])
    assert [(one.signed.is_mutual, one.note) for one in store.receipts()] == [
        (True, ""),
        (False, "not signed by the asker"),
    ]


def test_receipts_that_both_have_signed_are_counted_by_day_and_peer(store: Store) -> None:
    store.add({(day_of(NOW), ASKER): DaySum(gave_tokens=1)}, [kept(receipt()), kept(receipt(of=service(bytes(16))))])
    store.add({}, [kept(receipt(of=service(b"\1" * 16)), asker=None)])
    assert [row.receipts for row in store.rows(1, NOW)] == [2]


def test_receipts_are_forgotten_after_400_days_and_sums_never(store: Store) -> None:
    store.add({("2020-02-02", ASKER): DaySum(gave_tokens=1)}, [])
    store.add({}, [kept(receipt()), kept(receipt(of=service(bytes(16)), at_ms=NOW_MS - 1000))])
    store.prune(NOW + KEEP_S - 0.5)
    assert len(list(store.receipts())) == 1
    store.prune(NOW + KEEP_S + 0.5)
    assert list(store.receipts()) == []
    assert store.totals("2020-02-02").gave_tokens == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_nobody_else_may_read_it(store: Store, file: Path) -> None:
    store.add({("2026-01-01", ASKER): DaySum(gave_tokens=1)}, [])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert "ledger.sqlite-wal" in modes


def _garbage(file: Path) -> None:
    file.write_bytes(b"garbage " * 1000)


def _torn(file: Path) -> None:
    Store.open(file).close()
    file.write_bytes(file.read_bytes()[:5000])


def _later(file: Path) -> None:
    Store.open(file).close()
    _run(file, "PRAGMA user_version = 99")


def _foreign(file: Path) -> None:
    _run(file, "CREATE TABLE songs (name TEXT)")


def _run(file: Path, statement: str) -> None:
    db = sqlite3.connect(file)
    db.execute(statement)
    db.commit()
    db.close()


@pytest.mark.parametrize("damage", [_garbage, _torn, _later, _foreign])
def test_a_file_that_cannot_be_read_is_set_aside_and_not_written_over(damage: object, file: Path) -> None:
    file.parent.mkdir()
    damage(file)  # pyright: ignore[reportCallIssue]
    before = file.read_bytes()
    store = Store.open(file)
    store.add({("2026-01-01", ASKER): DaySum(gave_tokens=1)}, [])
    store.close()
    assert file.with_name("ledger.sqlite.damaged").read_bytes() == before


def test_a_ledger_that_cannot_be_opened_is_left_where_it_is(file: Path) -> None:
    file.parent.mkdir()
    file.mkdir()  # neither a file nor damaged
    with pytest.raises(BadLedger):
        Store.open(file)
    assert file.is_dir()


def test_reading_changes_nothing_and_needs_no_file(file: Path) -> None:
    reading = Store.reading(file)
    assert (reading.rows(7, NOW), list(reading.receipts())) == ([], [])
    reading.close()
    assert not file.exists()
    file.parent.mkdir()
    _garbage(file)
    with pytest.raises(BadLedger):
        Store.reading(file)
    assert file.exists()


def test_accounts_are_written_by_a_thread_and_survive_a_restart(file: Path) -> None:
    clock = Clock()
    accounts = Accounts(file, clock=clock)
    accounts.gave(ASKER, Tally(10, 5, 100, 50, 2000), 8, joules=3600.0)
    accounts.used(SERVER, Tally(1, 2, 3, 4), 6)
    accounts.waited(SERVER, 0.5)
    accounts.keep(signed(receipt(3)), ASKER)
    accounts.keep(signed(receipt(4)), ASKER)
    assert accounts.today() == (120, 18)
    rows = {row.peer_id: row for row in accounts.rows(1)}
    assert (rows[ASKER].gave_tokens, rows[ASKER].gave_bytes, rows[ASKER].gave_s) == (120, 150, 2.0)
    assert (rows[ASKER].gave_wh, rows[ASKER].receipts) == (1.0, 1)
    assert (rows[SERVER].used_tokens, rows[SERVER].used_bytes, rows[SERVER].used_s) == (18, 7, 0.5)
    accounts.close()
    again = Accounts(file, clock=clock)
    assert len(again.rows(1)) == 2
    assert again.today() == (120, 18)
    clock.now += DAY_S
    assert again.today() == (0, 0)
    again.used(SERVER, Tally(1), 1)
    assert again.today() == (0, 1)
    again.close()


def test_nothing_is_begun_before_there_is_something_to_say(file: Path) -> None:
    before = threading.active_count()
    Accounts(file).close()
    assert threading.active_count() == before
    assert not file.exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_disk_that_cannot_be_written_stops_nobody(file: Path) -> None:
    file.parent.mkdir(mode=0o500)
    accounts = Accounts(file)
    accounts.gave(ASKER, Tally(1), 1, None)
    with pytest.raises(BadLedger):
        accounts.rows(1)
    assert accounts.today()[0] == 1
    accounts.close()


def test_many_threads_may_note_and_read_at_once(file: Path) -> None:
    accounts = Accounts(file, clock=Clock())

    def work() -> None:
        for number in range(200):
            accounts.gave(PeerId(f"{number % 3}"), Tally(1), 1, None)
            if number % 50 == 0:
                accounts.rows(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(row.gave_tokens for row in accounts.rows(1)) == accounts.today()[0] == 800
    accounts.close()
