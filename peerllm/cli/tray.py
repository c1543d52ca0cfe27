"""``peerllm tray``: an icon that shows what this machine lends, with a menu to change it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from peerllm.cli.environment import locations
from peerllm_tray.backend import BACKENDS

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.locations import Locations


def add_commands(verbs: Subparsers) -> None:
    tray = verbs.add_parser(
        "tray",
        help="an icon that shows what this machine lends, with a menu to change it",
        description="Show the icon until its menu says quit; starts a daemon if none runs. One per home.",
    )
    tray.add_argument("--wait", type=float, default=0.0, metavar="S", help="so long for a panel to come up; 0 s")
    tray.add_argument("--backend", choices=BACKENDS, help="show the icon in this way")
    tray.set_defaults(run=_tray)


def _tray(arguments: argparse.Namespace) -> int:
    from peerllm.file_lock import lock_file

    home = locations()
    home.create()
    with home.tray_lock_file.open("a+") as file:
        if not lock_file(file):
            print(f"a tray runs already for {home.state_dir}: look for its icon")
            return 0
        return _show(home, arguments)


def _show(home: Locations, arguments: argparse.Namespace) -> int:
    from peerllm_tray.hosting import first_host, show

    found = first_host(arguments.wait)
    import psutil

    from peerllm_tray.app import Tray
    from peerllm_tray.autostart import autostart
    from peerllm_tray.deeds import Deeds
    from peerllm_tray.moment import Machine

    machine = Machine(psutil.virtual_memory().total, psutil.cpu_count() or 1)
    tray = Tray(Deeds(home, autostart()), machine)
    show(tray, found, arguments.backend)
    tray.stop()
    return 0
