"""`peerllm ledger`: read without a daemon, exported, and checked by anybody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peerllm.cli import main
from peerllm.giving.accounts import Accounts
from peerllm.giving.receipt_lines import MAX_LINE, check_lines, from_line, to_line
from peerllm.giving.receipts import Tally
from tests.support.receipts import identity, receipt, service, signed

SERVER, ASKER = identity("server").peer_id, identity("asker").peer_id


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a ledger of today, and two receipts of another day."""
    monkeypatch.setenv("PEERLLM_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    accounts = Accounts(tmp_path / "state" / "ledger.sqlite")
    accounts.gave(ASKER, Tally(10, 5, 1_000_000, 500_000, 2000), 8, joules=3600.0)
    accounts.used(SERVER, Tally(1, 2, 3, 4), 6)
    accounts.keep(signed(receipt()), ASKER)
    accounts.keep(signed(receipt(of=service(bytes(16))), asker=None), ASKER, "not signed by the asker")
    accounts.close()
    return tmp_path


def test_the_table_has_a_row_per_day_and_peer_and_their_sum(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].split()[1:] == [f"…{ASKER[-8:]}", "120", "0", "+120", "1.5", "0.0", "2.0", "0.0", "1.00", "0"]
    assert lines[2].split()[1:5] == [f"…{SERVER[-8:]}", "0", "18", "-18"]
    assert lines[3].split()[:6] == ["all", "2", "peers", "120", "18", "+102"]


def test_one_peer_alone_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--days", "2", "--peer", ASKER[-6:], "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["peer_id"], row["gave_tokens"], row["gave_wh"]) == (ASKER, 120, 1.0)


@pytest.mark.parametrize("days", ["0", "-1", "9999"])
def test_days_that_cannot_be(days: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--days", days]) == 2
    assert "--days" in capsys.readouterr().err


def test_receipts_say_who_signed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "receipts"]) == 0
    out = capsys.readouterr().out
    assert "both" in out
    assert "not signed by the asker" in out
    assert main(["ledger", "receipts", "--json"]) == 0
    assert {one["note"] for one in json.loads(capsys.readouterr().out)} == {"", "not signed by the asker"}


def test_what_is_exported_can_be_checked_anywhere(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = home / "receipts.jsonl"
    assert main(["ledger", "export", str(file)]) == 0
    assert main(["ledger", "export", str(file)]) == 2  # nothing is written over
    capsys.readouterr()
    assert main(["ledger", "verify", str(file)]) == 0
    out = capsys.readouterr().out
    assert "1 signed by both sides, 1 by one, 0 bad" in out
    assert SERVER in out
    assert str(140 * 8) in out


def test_a_changed_line_is_named_with_the_reason(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = to_line(signed(receipt()))
    forged = json.dumps({**json.loads(good), "decode_tokens": 41})
    file = home / "receipts.jsonl"
    file.write_text("\n".join([good, "", forged, "{", "x" * 5 * MAX_LINE, json.dumps({"server": SERVER}), "[]"]) + "\n")
    assert main(["ledger", "verify", str(file)]) == 1
    out = capsys.readouterr().out
    assert "line 3: not signed by its server" in out
    assert "line 4: no JSON" in out
    assert f"line 5: {2 * MAX_LINE} characters" in out
    assert "line 6: not the fields of a receipt" in out
    assert "1 signed by both sides, 0 by one, 5 bad" in out


def test_a_file_that_is_not_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "verify", str(home / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_running_totals_of_one_session_count_once() -> None:
    lines = [to_line(signed(replace(receipt(), tally=Tally(100, tokens)))) for tokens in (10, 30, 20)]
    checked = check_lines(lines)
    assert (checked.good, checked.superseded, checked.bad) == (1, 2, [])
    assert checked.token_blocks == {(SERVER, ASKER): 130 * 8}


def test_two_totals_of_which_neither_is_the_later_contradict_one_another() -> None:
    checked = check_lines([to_line(signed(replace(receipt(), tally=tally))) for tally in (Tally(9, 1), Tally(1, 9))])
    assert [(bad.number, bad.reason) for bad in checked.bad] == [(2, "contradicts another receipt of the same session")]


def test_a_line_comes_back() -> None:
    for one in (signed(receipt()), signed(receipt(), asker=None), signed(receipt(), server=None)):
        assert from_line(to_line(one)) == one
