"""``peerllm service``: have the daemon started at login."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from peerllm.cli.environment import connect, locations
from peerllm.cli.output import print_fields, print_json
from peerllm.errors import NotRunning

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.service.chosen import ServiceManager


def add_commands(verbs: Subparsers) -> None:
    service = verbs.add_parser(
        "service",
        help="have the daemon started at login",
        description="Install the daemon as a service of your session: systemd on Linux, launchd on macOS, the task "
        "scheduler on Windows. It lends nothing until you say so: `peerllm share on`.",
    )
    actions = service.add_subparsers(title="actions", metavar="ACTION", required=True)
    install = actions.add_parser("install", help="start it at every login, and now")
    install.add_argument("--no-start", action="store_true", help="from the next login on")
    install.set_defaults(run=_install)
    uninstall = actions.add_parser("uninstall", help="stop it, and start it no more")
    uninstall.set_defaults(run=_uninstall)
    status = actions.add_parser("status", help="what is installed, and what the service manager says of it")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(run=_status)


def _install(arguments: argparse.Namespace) -> int:
    manager = _manager()
    running = _daemon_runs()
    manager.install(start=not (arguments.no_start or running))
    print(f"installed: {manager.file}")
    if running:
        print("a daemon runs already and goes on; the service takes over at the next login, or after `peerllm down`")
    return 0


def _uninstall(_: argparse.Namespace) -> int:
    manager = _manager()
    print(f"deleted: {manager.file}" if manager.uninstall() else f"there was no service at {manager.file}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    status = _manager().status()
    fields = {**asdict(status), "file": str(status.file)}
    if arguments.json:
        print_json(fields)
        return 0
    print_fields(
        {
            "service": f"{status.definition}, {status.file}",
            "at login": status.enabled,
            "now": status.state,
            status.manager: "answers" if status.reachable else f"does not answer: {status.problem}",
            "daemon": "runs" if _daemon_runs() else "does not run",
        }
    )
    return 0


def _manager() -> ServiceManager:
    from peerllm.runtime.interpreter import own_command
    from peerllm.service.chosen import service_manager

    return service_manager(sys.platform, own_command(), locations(), os.environ, Path.home())


def _daemon_runs() -> bool:
    try:
        with connect() as client:
            client.status()
    except NotRunning:
        return False
    return True
