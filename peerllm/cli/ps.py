"""``peerllm ps``: the models that can be asked for now."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peerllm.cli.environment import connect
from peerllm.cli.output import print_json, print_table

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers


def add_commands(verbs: Subparsers) -> None:
    ps = verbs.add_parser("ps", help="the models that answer now, load, or would be loaded")
    ps.add_argument("--all", action="store_true", help="also those that no machine of the swarm may serve")
    ps.add_argument("--json", action="store_true", help="as JSON")
    ps.set_defaults(run=_ps)


def _ps(arguments: argparse.Namespace) -> int:
    with connect() as client:
        models = [model for model in client.models() if arguments.all or model.get("state") != "unavailable"]
    if arguments.json:
        print_json(models)
    elif models:
        print_table(("MODEL", "STATE", "BLOCKS", "PEERS", "CONTEXT", "ENGINE"), [_row(model) for model in models])
    else:
        print("nobody in the swarm serves a model or may; `peerllm share on` lends this machine")
    return 0


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    blocks = model.get("blocks")
    return (
        str(model.get("id", "")),
        _state(model),
        f"{model.get('covered', 0)}/{blocks}" if blocks else "-",
        str(model.get("peers") or "-"),
        str(model.get("context_tokens") or "-"),
        " ".join(str(model[key]) for key in ("engine", "dtype") if model.get(key)) or "-",
    )


def _state(model: Mapping[str, Any]) -> str:
    state, fraction, eta_s = str(model.get("state", "")), model.get("fraction"), model.get("eta_s")
    if state != "loading" or not isinstance(fraction, float):
        return state
    left = f", {eta_s:.0f} s left" if isinstance(eta_s, float) else ""
    return f"{state} {fraction:.0%}{left}"
