"""``peerllm chat``: conversations with any model of the swarm, as screens or line by line."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from peerllm.cli.environment import locations
from peerllm.errors import NoPeers, NoTerminal

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.local.client import LocalClient


def add_commands(verbs: Subparsers) -> None:
    chat = verbs.add_parser(
        "chat",
        help="chat, see the swarm and what this machine lends, in the terminal",
        description="Open the screens: chat (F1), swarm (F2), contribute (F3). Conversations are kept on this disk, "
        "for you alone.",
    )
    chat.add_argument("--model", metavar="M", default="", help="as in GET /v1/models; without it, one that is ready")
    chat.add_argument("--inline", action="store_true", help="no screens: line by line, as `peerllm run MODEL`")
    chat.add_argument("--no-history", action="store_true", help="keep nothing: conversations are gone when you leave")
    chat.add_argument("--delete-history", action="store_true", help="delete every conversation that is kept, and end")
    chat.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> int:
    if arguments.inline:
        return _inline(arguments.model)
    if arguments.delete_history:
        return _delete_history()
    if not _has_screen():
        raise NoTerminal("there is no terminal for screens here; `peerllm run MODEL PROMPT` or `peerllm web` need none")
    check_screens_installed("textual")
    from peerllm_tui.app import PeerllmApp

    app = PeerllmApp(locations(), model=arguments.model, keep_history=not arguments.no_history)
    app.run()
    return app.return_code or 0


def _inline(model: str) -> int:
    from peerllm.cli.run import Chat, connect_or_start

    with connect_or_start() as client:
        return Chat(client, model or _first_model(client)).converse()


def _first_model(client: LocalClient) -> str:
    """The list begins with one that is ready, if any is."""
    models = [str(model.get("id", "")) for model in client.models() if model.get("state") != "unavailable"]
    if not models:
        raise NoPeers("nobody in the swarm serves a model or may; `peerllm share on` lends this machine")
    return models[0]


def _delete_history() -> int:
    check_screens_installed("textual")
    from peerllm_tui.history import History

    file = locations().conversations_file
    if not file.exists():
        print("no conversation is kept")
        return 0
    with History(file) as history:
        deleted = history.delete_all()
    print(f"{deleted} conversation{'s' * (deleted != 1)} deleted")
    return 0


def check_screens_installed(module: str) -> None:
    """Raises `NoTerminal` if what the screens need is not there."""
    if importlib.util.find_spec(module) is None:
        raise NoTerminal(
            "the screens need Textual, which is not installed: `pip install 'peerllm[chat]'`; "
            "`peerllm chat --inline` does without"
        )


def _has_screen() -> bool:
    """A terminal, or the browser for which `peerllm web --terminal` has started this process."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return True
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
