"""``peerllm setup``: fetch what the daemon needs, where only the clients are installed."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from peerllm.cli.output import ProgressLine
from peerllm.errors import EngineUnavailable

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers


def add_commands(verbs: Subparsers) -> None:
    setup = verbs.add_parser(
        "setup",
        help="fetch what the daemon needs, where only the clients are installed",
        description="Make a virtual environment with torch and the packages of a node. The first `peerllm up` does it "
        "by itself; a set-up that was stopped goes on where it was.",
    )
    setup.add_argument("--remove", action="store_true", help="delete that environment; settings, keys and models stay")
    setup.add_argument("--no-llama", action="store_true", help="do not compile llama.cpp, which is faster on CPUs")
    setup.set_defaults(run=_setup)


def _setup(arguments: argparse.Namespace) -> int:
    from peerllm.runtime.interpreter import environment, has_node_part, node_python
    from peerllm.runtime.set_up import remove, set_up

    if arguments.remove:
        print(f"{environment()} is deleted" if remove() else f"there is nothing to delete at {environment()}")
        return 0
    if has_node_part():
        print("nothing to do: the daemon's packages are installed beside this command")
        return 0
    if node_python() is None:
        with ProgressLine() as line:
            set_up(line.show)
    python = set_up(lambda *_: None)
    if not arguments.no_llama:
        _build_llama(python)
    print(f"set up in {environment()}; next: peerllm up")
    return 0


def _build_llama(python: Path) -> None:
    """In that environment; without a compiler torch answers, more slowly."""
    from peerllm.engine.llama_build import why_not_buildable

    if missing := why_not_buildable():
        print(f"torch will answer; llama.cpp, which is faster on CPUs, was left out: {missing}")
        return
    if subprocess.run([python, "-P", "-m", "peerllm.engine.llama_build", "--wait"]).returncode:
        raise EngineUnavailable("llama.cpp could not be compiled; torch answers without it: peerllm setup --no-llama")
