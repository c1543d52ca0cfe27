"""``peerllm version``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import peerllm
from peerllm.cli.output import print_json

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers


def add_commands(verbs: Subparsers) -> None:
    version = verbs.add_parser("version", help="the version of this program")
    version.add_argument("--json", action="store_true", help="as JSON")
    version.set_defaults(run=_version)


def _version(arguments: argparse.Namespace) -> int:
    import platform

    versions = {"peerllm": peerllm.__version__, "python": platform.python_version(), "system": platform.platform()}
    if arguments.json:
        print_json(versions)
    else:
        print(f"peerllm {peerllm.__version__} (Python {versions['python']}, {versions['system']})")
    return 0
