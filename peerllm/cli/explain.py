"""``peerllm explain``: where the time of a request went, and other answers to why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from peerllm.cli.environment import connect
from peerllm.cli.output import ago, print_fields, print_json, print_table

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.local.accounts import HopAccount, HopTimes, RequestAccount

PLACEMENT = "placement"
"""No request id: what is explained then is the choice of a span."""

_HEADER = ("HOP", "PEER", "BLOCKS", "LINK", "QUEUE", "COMPUTE", "MS/TOKEN", "PREDICTED", "INPUT")
_REASONS = {
    "link": "the link to it",
    "queue": "waiting there behind other sessions",
    "compute": "computing its blocks",
}


def add_commands(verbs: Subparsers) -> None:
    explain = verbs.add_parser(
        "explain",
        help="where the time of a request went; why this span is served",
        description="Show the hops of one request with predicted and measured times, or list the last requests.",
    )
    explain.add_argument(
        "subject",
        metavar="REQUEST",
        nargs="?",
        help=f"request id or its beginning, or `last`; `{PLACEMENT}` explains the choice of a span",
    )
    explain.add_argument("--json", action="store_true", help="as JSON")
    explain.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.subject == PLACEMENT:
        from peerllm.cli.explain_placement import explain_placement

        return explain_placement(arguments)
    if arguments.subject is None:
        return _list(as_json=arguments.json)
    with connect() as client:
        account = client.request(arguments.subject)
    if arguments.json:
        print_json(account.to_json())
    else:
        _print_account(account)
    return 0


def _list(*, as_json: bool) -> int:
    with connect() as client:
        accounts = client.requests()
    if as_json:
        print_json([account.to_json() for account in accounts])
    elif accounts:
        header = ("REQUEST", "MODEL", "WHEN", "END", "TOKENS", "TOKENS/S", "MS/TOKEN", "PREDICTED", "SLOWEST HOP")
        print_table(header, [_row(account) for account in accounts])
    else:
        print("nothing was answered since the daemon started; `peerllm run MODEL PROMPT` asks")
    return 0


def _row(account: RequestAccount) -> tuple[str, ...]:
    slowest = account.slowest
    return (
        account.id,
        account.model,
        f"{ago(account.at)} ago",
        account.outcome,
        str(account.answer_tokens),
        f"{account.tokens_per_s:.1f}" if account.tokens_per_s else "-",
        _ms(account.measured_ms),
        _ms(account.predicted_ms),
        _called(slowest) if slowest else "-",
    )


def _print_account(account: RequestAccount) -> None:
    print_fields(
        {
            "request": account.id,
            "model": account.model,
            "end": f"{account.outcome}{f': {account.error}' if account.error else ''}, {ago(account.at)} ago",
            "tokens": f"{account.prompt_tokens} in the prompt, {account.answer_tokens} in the answer",
            "first token": f"{account.ttft_s:.3f} s" if account.ttft_s else "",
            "speed": f"{account.tokens_per_s:.1f} tokens/s" if account.tokens_per_s else "",
            "guessed ahead": _guessed(account),
            "recoveries": account.recoveries or "",
        }
    )
    if account.hops:
        print()
        print_table(_HEADER, _hop_rows(account))
        print()
        print(_verdict(account))
        print(_accuracy(account))
    for change in account.changes:
        lost = change.name or change.peer_id[-8:]
        print_fields({f"lost at token {change.at_token}": f"{lost}: {change.reason}"})


def _guessed(account: RequestAccount) -> str:
    if not account.drafted_tokens:
        return ""
    per_round = account.accepted_tokens / account.rounds
    held = f"{account.accepted_tokens} of {account.drafted_tokens} tokens were right"
    return f"{held}, {per_round:.1f} per round"


def _hop_rows(account: RequestAccount) -> list[tuple[str, ...]]:
    """One row per hop, then the way back, the round as a whole, and what the asker adds."""
    rows = [_hop_row(number, hop) for number, hop in enumerate(account.hops, start=1)]
    back, whole = account.return_measured_ms, account.measured_ms
    rows.append(("", "back to you", "", _ms(back), "", "", _ms(back), _ms(account.return_predicted_ms), ""))
    rows.append(("", "round", "", "", "", "", _ms(whole), _ms(account.predicted_ms), ""))
    rows.append(("", "ends, sampling", "", "", "", "", _ms(account.ends_ms), "", ""))
    return rows


def _hop_row(number: int, hop: HopAccount) -> tuple[str, ...]:
    measured = _parts(hop.measured) if hop.measured else ("-", "-", "-", "-")
    size = f"{hop.input_bytes / 1e3:.1f} kB"
    return (str(number), _called(hop), hop.span, *measured, _ms(hop.predicted.total_ms), size)


def _parts(times: HopTimes) -> tuple[str, ...]:
    return (_ms(times.link_ms), _ms(times.queue_ms), _ms(times.compute_ms), _ms(times.total_ms))


def _verdict(account: RequestAccount) -> str:
    """The slowest hop by name, with the reason."""
    slowest = account.slowest
    if slowest is None or slowest.measured is None:
        return "no token was decoded through this route: only the prediction is known"
    part = slowest.measured.slowest
    share = slowest.measured.total_ms / account.measured_ms if account.measured_ms else 0.0
    took, expected = getattr(slowest.measured, f"{part}_ms"), getattr(slowest.predicted, f"{part}_ms")
    return (
        f"slowest hop: {_called(slowest)}, {slowest.measured.total_ms:.2f} ms, {share:.0%} of the round; "
        f"most of it {_REASONS[part]} ({part}): {took:.2f} ms, {expected:.2f} predicted"
    )


def _accuracy(account: RequestAccount) -> str:
    off_by = account.off_by
    if off_by is None:
        return f"predicted {account.predicted_ms:.2f} ms per token, nothing measured"
    longer = "longer" if off_by >= 0 else "shorter"
    return (
        f"predicted {account.predicted_ms:.2f} ms per token, measured {account.measured_ms:.2f}: "
        f"{abs(off_by):.0%} {longer} than predicted"
    )


def _called(hop: HopAccount) -> str:
    return f"{hop.name} ({hop.peer_id[-8:]})" if hop.name else hop.peer_id[-8:]


def _ms(value: float) -> str:
    return f"{value:.2f}" if value else "-"
