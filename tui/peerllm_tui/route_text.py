"""The route of an answer in one line, with its slowest hop named. Pure."""

from __future__ import annotations

from peerllm.local.accounts import HopAccount, RequestAccount
from peerllm.local.inert_text import inert

_REASONS = {"link": "the link to it", "queue": "waiting there", "compute": "computing its blocks"}
RUNNING = "running"
MOST_HOPS = 6
_NAME_CHARS = 24


def route_text(account: RequestAccount, *, most_hops: int = MOST_HOPS) -> str:
    """ "attic 0:12 3.5 ms → cellar 12:30 10.8 ms; slowest: …" as measured, or as predicted if no token was decoded."""
    if not account.hops and account.outcome == RUNNING:
        return f"looking for a route for {inert(account.model, _NAME_CHARS)}{_lost(account)}"
    if not account.hops:
        return f"{inert(account.outcome)} before there was a route{_because(account)}"
    hops = [_hop(hop) for hop in account.hops]
    if len(hops) > most_hops:
        half = most_hops // 2
        hops = [*hops[:half], f"{len(hops) - 2 * half} more", *hops[-half:]]
    so_far = f"; token {account.answer_tokens}" if account.outcome == RUNNING and account.answer_tokens else ""
    return f"{' → '.join(hops)}; {_slowest(account)}{so_far}{_lost(account)}{_because(account)}"


def _hop(hop: HopAccount) -> str:
    return f"{_called(hop)} {inert(hop.span)} {(hop.measured or hop.predicted).total_ms:.1f} ms"


def _slowest(account: RequestAccount) -> str:
    slowest = account.slowest
    if slowest is None or slowest.measured is None:
        return "predicted, no token was decoded" if account.outcome != RUNNING else "predicted, no token yet"
    part = slowest.measured.slowest
    share = f"{slowest.measured.total_ms / account.measured_ms:.0%} of the round, " if account.measured_ms else ""
    took = getattr(slowest.measured, f"{part}_ms")
    return f"slowest: {_called(slowest)}, {share}most of it {_REASONS[part]} ({took:.1f} ms)"


def _lost(account: RequestAccount) -> str:
    return "".join(
        f"; lost {inert(change.name, _NAME_CHARS) or '…' + inert(change.peer_id[-6:])} at token {change.at_token}"
        for change in account.changes[-2:]
    )


def _because(account: RequestAccount) -> str:
    return f": {inert(account.error)}" if account.error else ""


def _called(hop: HopAccount) -> str:
    return inert(hop.name, _NAME_CHARS) or f"…{inert(hop.peer_id[-6:])}"
