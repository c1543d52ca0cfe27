"""One short call of a service manager's own command."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from peerllm.errors import NoServiceManager

_ANSWER_S = 60.0
"""`systemctl` waits until a unit has stopped."""


def ask(command: Sequence[str], *, instead: str) -> str:
    """What it printed; raises `NoServiceManager` with its last words and what to do instead."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_ANSWER_S)
    except FileNotFoundError:
        raise NoServiceManager(f"{command[0]} is not here; {instead}") from None
    except subprocess.TimeoutExpired:
        raise NoServiceManager(f"{command[0]} has not answered for {_ANSWER_S:.0f} s; {instead}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoServiceManager(f"`{' '.join(command)}` failed: {said[-1]}; {instead}")
    return done.stdout
