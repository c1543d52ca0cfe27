"""``peerllm ledger``: what this machine gave and used, and the receipts for it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from peerllm.cli.environment import connect, locations
from peerllm.cli.output import day, paint, print_json, print_table
from peerllm.errors import NotRunning, UsageError

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.giving.receipt_lines import Checked
    from peerllm.giving.store import KeptReceipt
    from peerllm.local.lending import LedgerRow

_MAX_DAYS = 366
_HEADER = ("DAY", "PEER", "GAVE", "USED", "BALANCE", "GAVE MB", "USED MB", "GAVE S", "WAITED S", "WH", "RECEIPTS")
_MB = 1e6


def add_commands(verbs: Subparsers) -> None:
    ledger = verbs.add_parser(
        "ledger",
        help="what this machine gave and used",
        description="Tokens times blocks by day and peer: computed for others (gave) and by others (used).",
    )
    ledger.add_argument("--days", type=int, default=7, metavar="N", help="that end with today (default: 7)")
    ledger.add_argument("--peer", metavar="PEER", default="", help="a name, or the beginning or end of an id")
    ledger.add_argument("--json", action="store_true", help="as JSON")
    ledger.set_defaults(run=_show)
    parts = ledger.add_subparsers(title="parts", metavar="PART")
    receipts = parts.add_parser("receipts", help="the receipts, the last one first")
    receipts.add_argument("--json", action="store_true", help="as JSON")
    receipts.set_defaults(run=_receipts)
    export = parts.add_parser("export", help="write all receipts with their signatures to a file")
    export.add_argument("file", type=Path, metavar="FILE", help="lines of JSON; must not exist yet")
    export.set_defaults(run=_export)
    verify = parts.add_parser("verify", help="check such a file; needs no daemon and no swarm")
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.set_defaults(run=_verify)


def _show(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.days <= _MAX_DAYS:
        raise UsageError(f"--days must be within 1..{_MAX_DAYS}")
    rows = [row for row in _rows(arguments.days) if _is_called(row, arguments.peer)]
    if arguments.json:
        print_json([row.to_json() for row in rows])
    elif not rows:
        print("nothing was given or used in these days")
    else:
        print_table(_HEADER, [*map(_line, rows), _sum_line(rows)])
    return 0


def _rows(days: int) -> list[LedgerRow]:
    """From the daemon, which knows names, or from the file where none runs."""
    try:
        with connect() as client:
            return client.ledger(days)
    except NotRunning:
        pass
    import time

    from peerllm.giving.store import Store

    store = Store.reading(locations().ledger_file)
    try:
        return store.rows(days, time.time())
    finally:
        store.close()


def _is_called(row: LedgerRow, peer: str) -> bool:
    return not peer or row.name == peer or row.peer_id.startswith(peer) or row.peer_id.endswith(peer)


def _line(row: LedgerRow) -> tuple[str, ...]:
    return (
        row.day,
        row.name or f"…{row.peer_id[-8:]}",
        str(row.gave_tokens),
        str(row.used_tokens),
        f"{row.gave_tokens - row.used_tokens:+d}",
        f"{row.gave_bytes / _MB:.1f}",
        f"{row.used_bytes / _MB:.1f}",
        f"{row.gave_s:.1f}",
        f"{row.used_s:.1f}",
        "-" if row.gave_wh is None else f"{row.gave_wh:.2f}",
        str(row.receipts),
    )


def _sum_line(rows: Sequence[LedgerRow]) -> tuple[str, ...]:
    from peerllm.local.lending import LedgerRow

    gave = [row.gave_wh for row in rows if row.gave_s]
    known = [wh for wh in gave if wh is not None]
    peers = len({row.peer_id for row in rows})
    whole = LedgerRow(
        day="all",
        peer_id="",
        name=f"{peers} peer" if peers == 1 else f"{peers} peers",
        gave_tokens=sum(row.gave_tokens for row in rows),
        used_tokens=sum(row.used_tokens for row in rows),
        gave_bytes=sum(row.gave_bytes for row in rows),
        used_bytes=sum(row.used_bytes for row in rows),
        gave_s=sum(row.gave_s for row in rows),
        used_s=sum(row.used_s for row in rows),
        gave_wh=sum(known) if known and len(known) == len(gave) else None,
        receipts=sum(row.receipts for row in rows),
    )
    return _line(whole)


def _kept() -> Iterator[KeptReceipt]:
    from peerllm.giving.store import Store

    store = Store.reading(locations().ledger_file)
    try:
        yield from store.receipts()
    finally:
        store.close()


def _receipts(arguments: argparse.Namespace) -> int:
    import json

    from peerllm.giving.receipt_lines import to_line

    kept = list(_kept())[::-1]
    if arguments.json:
        print_json([{**json.loads(to_line(one.signed)), "note": one.note} for one in kept])
    elif not kept:
        print("there are no receipts yet")
    else:
        header = ("DAY", "SESSION", "SIDE", "PEER", "BLOCKS", "TOKENS", "TOKENS x BLOCKS", "SIGNED BY")
        print_table(header, [_receipt_line(one) for one in kept])
    return 0


def _receipt_line(kept: KeptReceipt) -> tuple[str, ...]:
    receipt = kept.signed.receipt
    service = receipt.service
    return (
        day(receipt.ended_ms / 1e3),
        service.session.hex()[:8],
        "used" if kept.peer == service.server else "gave",
        f"…{kept.peer[-8:]}",
        f"{service.enter}:{service.exit}",
        str(receipt.tally.tokens),
        str(receipt.token_blocks),
        "both" if kept.signed.is_mutual else kept.note or "one side",
    )


def _export(arguments: argparse.Namespace) -> int:
    from peerllm.giving.receipt_lines import to_line

    count = _write_new(arguments.file, (to_line(kept.signed) for kept in _kept()))
    print(f"{count} receipts written to {arguments.file}")
    return 0


def _write_new(file: Path, lines: Iterable[str]) -> int:
    """Readable by its owner alone: it says who served whom, how much and when."""
    count = 0
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{file} exists already") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as output:
        for line in lines:
            output.write(f"{line}\n")
            count += 1
    return count


def _verify(arguments: argparse.Namespace) -> int:
    from peerllm.giving.receipt_lines import MAX_LINE, check_lines

    with arguments.file.open(encoding="utf-8", errors="replace") as file:
        checked = check_lines(_lines_of(file, 2 * MAX_LINE))
    for line in checked.bad:
        print(f"{paint('bad', 'red')}  line {line.number}: {line.reason}")
    _print_totals(checked)
    return 1 if checked.bad else 0


def _lines_of(file: TextIO, longest: int) -> Iterator[str]:
    """What is beyond the longest is left out: a file of a stranger may be one line of any length."""
    while line := file.readline(longest):
        yield line
        while line and not line.endswith("\n"):
            line = file.readline(longest)


def _print_totals(checked: Checked) -> None:
    print(f"{checked.good} signed by both sides, {checked.one_sided} by one, {len(checked.bad)} bad")
    if checked.superseded:
        print(f"{checked.superseded} beside them were running totals of sessions whose later ones are there")
    if checked.token_blocks:
        print()
        pairs = [(*pair, str(count)) for pair, count in checked.token_blocks.items()]
        print_table(("SERVER", "ASKER", "TOKENS x BLOCKS"), pairs)
