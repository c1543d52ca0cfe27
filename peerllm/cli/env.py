"""``peerllm env``: the lines by which other programs of this machine find the local endpoint."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from peerllm.cli.environment import locations, read_config

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers

NO_KEY = "unused"
"""Programs insist on some key where none is needed."""

SHELLS: dict[str, Callable[[str, str], str]] = {
    "sh": lambda name, value: f"export {name}={shlex.quote(value)}",
    "fish": lambda name, value: f"set -gx {name} {_single_quoted(value)};",
    "powershell": lambda name, value: f"$env:{name} = '{value.replace(chr(39), chr(39) * 2)}'",
    "cmd": lambda name, value: f"set {name}={value}",
    "dotenv": lambda name, value: f"{name}={json.dumps(value)}",
}


def add_commands(verbs: Subparsers) -> None:
    env = verbs.add_parser("env", help="print the exports for OpenAI clients: eval $(peerllm env)")
    env.add_argument("--shell", choices=(*SHELLS, "json"), default="sh", help="in whose words (default: sh)")
    env.set_defaults(run=_env)


def _env(arguments: argparse.Namespace) -> int:
    from peerllm.local.rendezvous import find_daemon

    address, _ = find_daemon(locations())
    exports = client_environment(address.url, read_config().config.api.key)
    if arguments.shell == "json":
        print(json.dumps(exports, indent=2))
    else:
        print("\n".join(SHELLS[arguments.shell](name, value) for name, value in exports.items()))
    return 0


def client_environment(url: str, key: str) -> Mapping[str, str]:
    """What OpenAI clients read; the second name is that of older ones (litellm, aider)."""
    base = f"{url}/v1"
    return {"OPENAI_BASE_URL": base, "OPENAI_API_BASE": base, "OPENAI_API_KEY": key or NO_KEY}


def _single_quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
