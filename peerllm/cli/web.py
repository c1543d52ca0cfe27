"""``peerllm web``: the daemon's chat-and-status page in a browser."""

from __future__ import annotations

import argparse
import html
import os
import sys
from typing import TYPE_CHECKING

from peerllm.cli.chat import check_screens_installed
from peerllm.cli.environment import locations
from peerllm.errors import PeerllmError

if TYPE_CHECKING:
    from pathlib import Path

    from peerllm.cli.models import Subparsers

_WAY_IN = """\
<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<title>peerllm</title>
<a href="{address}">to the page</a>
"""


def add_commands(verbs: Subparsers) -> None:
    web = verbs.add_parser(
        "web",
        help="chat and see the swarm in a browser",
        description="Open the daemon's page in a browser, which is let in by a code in the address, once.",
    )
    web.add_argument(
        "--terminal", action="store_true", help="the screens of `peerllm chat` in the browser instead, until Ctrl+C"
    )
    web.add_argument("--print", action="store_true", dest="only_print", help="print the address: good once, for 5 min")
    web.set_defaults(run=_web)


def _web(arguments: argparse.Namespace) -> int:
    if arguments.terminal:
        return _terminal(only_print=arguments.only_print)
    from peerllm.local.client import LocalClient
    from peerllm.local.rendezvous import find_daemon, page_address

    home = locations()
    where, token = find_daemon(home)
    with LocalClient(where, token) as client:
        client.status()  # an address that nobody answers at helps nobody
    address = page_address(where, token)
    if arguments.only_print:
        print(address)
        return 0
    if not (_has_display() and _opened(home.page_file, address)):
        raise PeerllmError(
            "no browser can be opened here; `peerllm web --print` prints the address. From another machine: "
            f"ssh -L {where.port}:127.0.0.1:{where.port} THIS-MACHINE, then open that address there"
        )
    print(f"opened {where.url}/ in your browser; if it finds no file, open what `peerllm web --print` prints")
    return 0


def _terminal(*, only_print: bool) -> int:
    """Serve the screens, each tab a `peerllm chat` of its own, until interrupted."""
    check_screens_installed("textual_serve")
    from peerllm.runtime.interpreter import own_command
    from peerllm_tui.web_terminal import serve_terminal

    home = locations()
    home.create()
    way_in = home.page_file.with_name("terminal.html")

    def ready(address: str) -> None:
        opened = not only_print and _has_display() and _opened(way_in, address)
        print("opened in your browser" if opened else address, flush=True)
        print("good once, for 5 minutes; Ctrl+C ends it", file=sys.stderr, flush=True)

    try:
        serve_terminal([*own_command(), "chat"], ready)
    finally:
        way_in.unlink(missing_ok=True)
    return 0


def _has_display() -> bool:
    """Without one, Python would start a text browser, which runs no scripts."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _opened(file: Path, address: str) -> bool:
    """Whether a browser took the address, by way of a file: arguments of processes can be read by every user here."""
    import webbrowser

    from peerllm.atomic_write import write_atomically

    write_atomically(file, _WAY_IN.format(address=html.escape(address)).encode(), mode=0o600)
    return webbrowser.open(file.as_uri())
