"""All verbs and their flags. A verb's module is imported when it is named, and imports what it needs when it runs."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

_EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage or a second daemon, 3 no daemon, 4 no terminal, 5 no peers, 130 interrupted
environment: PEERLLM_HOME puts all files under one folder, PEERLLM_SECTION_FIELD overrides config.toml,
PEERLLM_KEEP_ALIVE (5m, 0, -1) is asking.keep_alive_s, PEERLLM_DEBUG=1 shows tracebacks, NO_COLOR is honoured"""

COMMANDS = {
    "daemon": ("serve", "up", "down", "status"),
    "chat": ("chat",),
    "run": ("run",),
    "ps": ("ps",),
    "web": ("web",),
    "tray": ("tray",),
    "swarm": ("peers", "swarm"),
    "share": ("share",),
    "membership": ("invite", "join", "leave", "members", "revoke"),
    "env": ("env",),
    "explain": ("explain",),
    "ledger": ("ledger",),
    "simulate": ("simulate",),
    "models": ("pull", "list", "show", "rm"),
    "configuration": ("config",),
    "demo": ("demo",),
    "setup": ("setup",),
    "service": ("service",),
    "update": ("update",),
    "doctor": ("doctor",),
    "version": ("version",),
}
"""The verbs of each module of `peerllm.cli`, which adds them with its `add_commands`; in the order of ``--help``."""


def build_parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Every verb sets ``run``: a function from the parsed arguments to an exit code.

    With `arguments` that begin with a verb, a parser for just that module's verbs: screens are painted 60 ms sooner.
    """
    parser = argparse.ArgumentParser(
        prog="peerllm",
        description="Run a language model that none of your machines could hold alone.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    verb = arguments[0] if arguments else None
    named = [module for module, verbs_of_it in COMMANDS.items() if verb in verbs_of_it]
    for module in named or COMMANDS:
        importlib.import_module(f"peerllm.cli.{module}").add_commands(verbs)
    return parser
