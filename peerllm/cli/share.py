"""``peerllm share``: lend this machine, pause, stop; what is lent, and why not more."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from peerllm.cli.environment import connect
from peerllm.cli.output import print_fields, print_json, print_table
from peerllm.durations import parse_pause
from peerllm.sizes import format_bytes

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.local.client import LocalClient
    from peerllm.local.lending import GuestStatus, Limit
    from peerllm.local.schema import ContributionStatus, Status

_FOREVER_S = 365 * 86400.0
"""Without an end the pause is as long as the daemon takes them."""


def add_commands(verbs: Subparsers) -> None:
    share = verbs.add_parser("share", help="lend this machine, pause that, or stop it")
    words = share.add_subparsers(title="what to do", metavar="WHAT", required=True)

    on = words.add_parser("on", help="lend it; the first time it says what that means and asks")
    on.add_argument("--yes", "-y", action="store_true", help="do not ask")
    on.set_defaults(run=_on)

    off = words.add_parser("off", help="lend nothing any more; remembered")
    off.add_argument("--finish", action="store_true", help="let running sessions end by themselves first")
    off.set_defaults(run=_off)

    pause = words.add_parser("pause", help="lend nothing for a while")
    pause.add_argument(
        "--for", dest="length", metavar="TIME", help="30m, 2h, tomorrow; until `share resume` if not said"
    )
    pause.set_defaults(run=_pause)

    resume = words.add_parser("resume", help="end a pause")
    resume.set_defaults(run=_resume)

    status = words.add_parser("status", help="whether it is lent now, and why not")
    status.set_defaults(run=_status)

    limits = words.add_parser("limits", help="what may be changed while the daemon runs")
    limits.add_argument("key", nargs="?", metavar="KEY", help="a setting, for example contribution.memory_bytes")
    limits.add_argument("value", nargs="?", metavar="VALUE", help="its new value, kept until it is reset")
    limits.add_argument("--reset", action="store_true", help="what config.toml says again")
    limits.set_defaults(run=_limits)

    for each in (on, off, pause, resume, status, limits):
        each.add_argument("--json", action="store_true", help="as JSON")


def _on(arguments: argparse.Namespace) -> int:
    with connect() as client:
        if not client.guest().consented and not arguments.yes and _on_terminal() and not _agreed(client):
            print("nothing is lent")
            return 1
        client.share(True)
        return _show(client, arguments)


def _off(arguments: argparse.Namespace) -> int:
    with connect() as client:
        client.share(False, finish=arguments.finish)
        return _show(client, arguments)


def _pause(arguments: argparse.Namespace) -> int:
    now = time.time()
    until = parse_pause(arguments.length, now) if arguments.length else now + _FOREVER_S
    with connect() as client:
        client.pause(until)
        return _show(client, arguments)


def _resume(arguments: argparse.Namespace) -> int:
    with connect() as client:
        client.pause(0)
        return _show(client, arguments)


def _show(client: LocalClient, arguments: argparse.Namespace) -> int:
    lent, guest = client.status().contribution, client.guest()
    if arguments.json:
        print_json({**lent.to_json(), "guest": guest.to_json()})
        return 0
    print(sharing_words(lent, guest))
    return 0


def sharing_words(lent: ContributionStatus, guest: GuestStatus) -> str:
    """In a line: whether this machine is lent, with which blocks, and the governor's sentence."""
    if guest.finishing:
        return guest.reason
    if not lent.enabled:
        return "sharing is off" + (f": {lent.reason}" if lent.reason not in ("", "sharing is off") else "")
    return f"sharing is on, {_blocks(lent)} of {lent.model}; {guest.reason or 'looking at this machine'}"


def _blocks(lent: ContributionStatus) -> str:
    if lent.in_group:
        return f"a slice ({lent.reason})"
    together = f" with {len(lent.members)} other{'s' * (len(lent.members) != 1)}" if lent.members else ""
    return f"blocks {lent.span}{together}" if lent.span else "no blocks yet"


def _status(arguments: argparse.Namespace) -> int:
    with connect() as client:
        status, guest, limits = client.status(), client.guest(), client.limits()
    if arguments.json:
        chosen = {limit.key: limit.value for limit in limits}
        print_json({**status.contribution.to_json(), "guest": guest.to_json(), "limits": chosen})
        return 0
    print(sharing_words(status.contribution, guest))
    print_fields(_guest_fields(guest))
    print()
    print_fields({f"{'! ' if signal.held else '  '}{signal.name}": signal.text for signal in guest.signals})
    if own := [limit for limit in limits if limit.source != "default"]:
        print()
        print_fields({limit.key: _shown(limit) for limit in own})
    return 0


def _guest_fields(guest: GuestStatus) -> dict[str, object]:
    return {
        "policy": guest.policy + (f", {guest.power}" if guest.power else ""),
        "serving": ", ".join(guest.using),
        "memory": format_bytes(guest.memory_bytes) if guest.memory_bytes else "",
        "threads": f"at most {guest.threads}" if guest.threads else "",
        "today": f"gave {guest.gave_tokens}, used {guest.used_tokens} (tokens times blocks)",
    }


def _limits(arguments: argparse.Namespace) -> int:
    with connect() as client:
        if arguments.key and (arguments.reset or arguments.value is not None):
            client.set_limits({arguments.key: None if arguments.reset else arguments.value})
        limits = [limit for limit in client.limits() if arguments.key in (None, limit.key)]
    if arguments.json:
        print_json([limit.to_json() for limit in limits])
    else:
        rows = [(limit.key, _shown(limit), limit.source, limit.allowed) for limit in limits]
        print_table(("LIMIT", "VALUE", "FROM", "TAKES"), rows)
    return 0


def _shown(limit: Limit) -> str:
    if isinstance(limit.value, bool):
        return "true" if limit.value else "false"
    if limit.key.endswith("_bytes") and isinstance(limit.value, int) and limit.value:
        return format_bytes(limit.value)
    if isinstance(limit.value, list | tuple):
        return ", ".join(map(str, limit.value)) or "none"
    return str(limit.value) or '""'


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _agreed(client: LocalClient) -> bool:
    print(consent_words(client.status(), {limit.key: limit.value for limit in client.limits()}))
    try:
        return input("Lend it? [y/N] ").strip().casefold() in ("y", "yes")
    except EOFError:
        return False


def consent_words(status: Status, limits: dict[str, object]) -> str:
    """What is lent to whom, before its owner says yes for the first time."""
    memory = limits.get("contribution.memory_bytes")
    most = format_bytes(memory) if isinstance(memory, int) and memory else "half of what is free"
    whom = (
        f"to WHOEVER can reach it: the swarm {status.swarm} is public"
        if status.membership.public
        else f"to the members of the swarm {status.swarm} (`peerllm members`)"
    )
    model = status.contribution.model or limits.get("contribution.model")
    return f"""\
This lends your machine {whom}.
  They compute here: blocks of {model}, with memory up to {most}
  and the cores that nobody else wants. Weights are fetched from the internet and kept on your disk.
  They see nothing of your files and chats; what passes through are the numbers of their own requests.
  It pauses by itself when you need the machine (guest.policy {limits.get("guest.policy")}).
  `peerllm share off` ends it.
  How much may be lent: `peerllm share limits`. What was lent to whom: `peerllm ledger`."""
