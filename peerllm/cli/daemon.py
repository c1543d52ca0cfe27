"""``peerllm serve``, ``up``, ``down`` and ``status``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from peerllm.cli.config_flags import add_config_flags, as_arguments
from peerllm.cli.environment import connect, locations, read_config
from peerllm.cli.node_part import set_up_if_needed
from peerllm.cli.output import ProgressLine, ago, day, print_fields, print_json
from peerllm.errors import NotRunning

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.local.client import LocalClient
    from peerllm.local.lending import GuestStatus
    from peerllm.local.schema import MembershipStatus, NetworkStatus, SpeculationStatus, Status

_START_S = 30.0
_SETTLED = frozenset({"serving", "paused", "error"})


def add_commands(verbs: Subparsers) -> None:
    serve = verbs.add_parser("serve", help="run the daemon in the foreground")
    serve.add_argument("--quiet", action="store_true", help="log to the file only")
    add_config_flags(serve)
    serve.set_defaults(run=_serve)

    up = verbs.add_parser("up", help="start the daemon in the background")
    up.add_argument("--no-wait", action="store_true", help="return once it answers, without waiting until it serves")
    add_config_flags(up)
    up.set_defaults(run=_up)

    down = verbs.add_parser("down", help="stop the daemon; running answers may finish")
    down.add_argument("--now", action="store_true", help="end it by force if it takes longer than a few seconds")
    down.set_defaults(run=_down)

    status = verbs.add_parser("status", help="what the daemon is doing")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(run=_status)


def _serve(arguments: argparse.Namespace) -> int:
    loaded = read_config(arguments.settings)
    from peerllm import daemon
    from peerllm.log import configure_log

    configure_log(locations().log_file, stderr=not arguments.quiet)
    return daemon.run(loaded)


def _up(arguments: argparse.Namespace) -> int:
    try:
        with connect() as client:
            status = client.status()
        print(f"the daemon is running already (pid {status.pid}, {status.api.url}, {status.lifecycle.name})")
        return 0
    except NotRunning:
        pass
    with start(arguments.settings) as client:
        if not arguments.no_wait:
            _follow(client)
        status = client.status()
    print(f"the daemon runs (pid {status.pid}, {status.api.url}, {_lifecycle(status)})")
    return 0 if status.lifecycle.name != "error" else 1


def start(settings: dict[str, str]) -> LocalClient:
    """Launch a daemon and wait until it answers; a config that is wrong is refused here, in the foreground."""
    from peerllm.local.launch import launch_daemon, wait_until_answering

    read_config(settings)
    set_up_if_needed()
    process = launch_daemon(locations(), as_arguments(settings))
    with ProgressLine() as line:
        line.show(f"starting the daemon (pid {process.pid})")
        return wait_until_answering(locations(), process, timeout_s=_START_S)


def _follow(client: LocalClient) -> None:
    """Show what the daemon does until it serves, or cannot; a daemon that lends nothing is ready at once."""
    if not client.status().contribution.enabled:
        return
    with ProgressLine() as line:
        for event in client.events():
            if event.kind != "lifecycle":
                continue
            name, reason = str(event.data.get("name")), str(event.data.get("reason") or "")
            line.show(f"{name} {reason}".rstrip(), event.data.get("progress"))
            if name in _SETTLED:
                return


def _down(arguments: argparse.Namespace) -> int:
    from peerllm.local.launch import stop_daemon

    drain_s = read_config().config.timings.drain_s
    took_s = stop_daemon(locations(), timeout_s=5.0 if arguments.now else drain_s + 10.0, kill=arguments.now)
    print(f"the daemon has stopped ({took_s:.1f} s)")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    with connect() as client:
        status, guest = client.status(), client.guest()
    if arguments.json:
        print_json({**status.to_json(), "guest": guest.to_json()})
    else:
        print_fields(_status_fields(status, guest))
    return 0


def _status_fields(status: Status, guest: GuestStatus) -> dict[str, object]:
    return {
        "daemon": f"{status.version}, pid {status.pid}, up {ago(status.since)}",
        "state": f"{_lifecycle(status)}, since {ago(status.lifecycle.since)}",
        "sharing": _contribution(status),
        "verdict": f"{guest.verdict}: {guest.reason}" if guest.verdict else "",
        "local API": f"{status.api.url}/v1",
        "guessed ahead": _speculation(status.speculation),
        "swarm": f"{status.swarm}, {status.peers} other peer{'s' * (status.peers != 1)} in view",
        "member": _membership(status.membership),
        "found by": "; ".join(_directory(d.name, d.up, d.reason) for d in status.directories),
        "reached": _network(status.network),
        "clock": status.network.clock,
        "peer": f"{status.peer_id} ({status.name})",
        "join it by": "  ".join(status.addresses),
    }


def _speculation(now: SpeculationStatus) -> str:
    if not now.enabled:
        return "off"
    by = f", also by {', '.join(now.draft_models)}" if now.draft_models else ""
    if not now.rounds:
        return f"where that is faster{by}"
    held = f"{now.accepted_tokens} of {now.drafted_tokens} tokens were right"
    return f"where that is faster{by}: {held}, {now.accepted_tokens / now.rounds:.1f} per round"


def _network(now: NetworkStatus) -> str:
    only = ", connecting to local networks only" if now.lan_only else ""
    only += f"; direct sockets at port {now.direct_port}" if now.direct_port else ""
    return f"{now.reach}: {now.reason}{only}" if now.reason else f"{now.reach}{only}"


def _membership(now: MembershipStatus) -> str:
    if now.public:
        return "of a PUBLIC swarm: whoever can reach this machine can use what it lends and read what passes through it"
    if now.problem or not now.expires_at:
        return now.problem
    may = ", may let others in" if now.may_issue else ""
    return f"until {day(now.expires_at)}{may}" + (f"; {now.renewal}" if now.renewal else "")


def _lifecycle(status: Status) -> str:
    state = status.lifecycle
    progress = "" if state.progress is None else f" {state.progress:.0%}"
    return f"{state.name}{progress}" + (f": {state.reason}" if state.reason else "")


def _contribution(status: Status) -> str:
    lent = status.contribution
    if not lent.enabled:
        return "off (`peerllm share on` lends this machine)"
    if lent.in_group:
        return f"on, {lent.model}: {lent.reason}"
    if not lent.span:
        return f"on, {lent.model}, no blocks yet" + (f": {lent.reason}" if lent.reason else "")
    slots = f"{lent.slots_used} of {lent.slots_used + lent.slots_free} sessions"
    others = len(lent.members)
    together = f", together with {others} other{'s' * (others != 1)}" if others else ""
    return f"on, blocks {lent.span} of {lent.model} ({lent.blocks}){together}, {slots}, {lent.engine} {lent.dtype}"


def _directory(name: str, up: bool, reason: str) -> str:
    return f"{name} {'up' if up else 'down'}" + (f" ({reason})" if reason else "")
