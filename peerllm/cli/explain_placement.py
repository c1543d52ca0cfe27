"""``peerllm explain placement``: which spans this machine could serve, their scores, and why it serves its own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from peerllm.cli.environment import connect
from peerllm.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from peerllm.local.placement import PlacementAccount, SpanCandidate


def explain_placement(arguments: argparse.Namespace) -> int:
    with connect() as client:
        account = client.placement()
    if arguments.json:
        print_json(account.to_json())
    else:
        _print_account(account)
    return 0


def _print_account(account: PlacementAccount) -> None:
    if not account.model:
        print(account.why)
        return
    present = account.present
    print_fields(
        {
            "model": f"{account.model}, {account.blocks} blocks",
            "serves": f"blocks {present.span}" if present else "nothing yet",
            "why": account.why,
            "could hold": f"{account.capacity_blocks} blocks, {account.block_ms:.2f} ms each",
            "needed for": f"blocks {', '.join(account.alone)}: nobody else serves them" if account.alone else "",
            "missing": f"blocks {', '.join(account.missing)}: nobody serves them" if account.missing else "",
            "group": account.group,
            "next check": "" if account.next_check_s is None else f"in {account.next_check_s:.0f} s",
        }
    )
    print()
    print_table(("CANDIDATE", "SCORE", "UNCOVERED", "TO FETCH", ""), _candidate_rows(account))
    if account.others:
        print()
        rows = [
            (f"{other.name} ({other.peer_id[-8:]})", other.span, f"{other.tokens_per_s:.1f}")
            for other in account.others
        ]
        print_table(("PEER", "BLOCKS", "TOKENS/S"), rows)
    print("\nlower scores are better: latency against the fastest chain, plus throughput missing at the weakest block")


def _candidate_rows(account: PlacementAccount) -> list[tuple[str, ...]]:
    present = account.present
    rows = [_row(candidate, present) for candidate in account.best]
    if present is not None and present.span not in {candidate.span for candidate in account.best}:
        rows.append(_row(present, present))
    return rows


def _row(candidate: SpanCandidate, present: SpanCandidate | None) -> tuple[str, ...]:
    mine = present is not None and candidate.span == present.span
    return (
        candidate.span,
        f"{candidate.score:.4f}",
        str(candidate.uncovered or "-"),
        str(candidate.to_fetch or "-"),
        "served now" if mine else "",
    )
