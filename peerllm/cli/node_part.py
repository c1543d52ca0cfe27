"""Verbs that need the node's packages go on in the interpreter that has them, which the first of them sets up."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from peerllm.cli.output import ProgressLine
from peerllm.errors import SetUpFailed

_SET_UP_FIRST = frozenset({"serve", "pull", "demo"})
_NEED_THE_NODE_PART = _SET_UP_FIRST | {"ledger", "list", "show", "rm", "simulate"}
_BETTER_THERE = frozenset({"doctor"})
"""Works without, and then says that it is missing."""


def go_where_it_runs(verb: str, arguments: Sequence[str]) -> None:
    """Become the same command in the node's interpreter, if this verb needs that and this one is not it.

    Raises:
        NotSetUp: there is none yet, and the verb is none that makes one.
        SetUpFailed: it could not be made.
    """
    if verb not in _NEED_THE_NODE_PART | _BETTER_THERE:
        return
    from peerllm.runtime.interpreter import (
        become,
        environment,
        has_node_part,
        is_environment,
        node_command,
        node_python,
    )

    if has_node_part() or (verb in _BETTER_THERE and (is_environment() or not node_python())):
        return
    if is_environment():
        raise SetUpFailed(f"{environment()} is damaged; make it anew: peerllm setup --remove && peerllm setup")
    if verb in _SET_UP_FIRST:
        set_up_if_needed()
    become(node_command(), list(arguments))


def set_up_if_needed() -> None:
    """Have the node's packages somewhere on this machine; fetching them shows what it does.

    Raises:
        SetUpFailed: it could not be done (says why), or `swarm.lan_only` forbids to fetch anything.
    """
    from peerllm.runtime.interpreter import environment, has_node_part, node_python

    if has_node_part() or node_python():
        return
    from peerllm.cli.environment import read_config
    from peerllm.runtime.set_up import set_up

    if read_config().config.swarm.lan_only:
        raise SetUpFailed("swarm.lan_only is on, so nothing is fetched by itself; `peerllm setup` does it when told to")
    print(
        f"first run: fetching what the daemon needs into {environment()}, once (Ctrl-C: go on later)", file=sys.stderr
    )
    with ProgressLine() as line:
        set_up(line.show)
