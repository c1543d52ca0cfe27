"""The property list of the launchd agent (launchd.plist(5))."""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from pathlib import Path

LABEL = "org.peerllm.daemon"


def launch_agent(command: Sequence[str], *, log_dir: Path, home: str = "") -> bytes:
    """The agent that runs `command serve` at login, with the least claim on processor and disk.

    Args:
        home: value of PEERLLM_HOME, "" for the platform's folders.
    """
    agent: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": [*command, "serve", "--quiet"],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ExitTimeOut": 60,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": 10,
        "Umask": 0o077,
        "StandardOutPath": str(log_dir / "daemon.out"),
        "StandardErrorPath": str(log_dir / "daemon.out"),
    }
    if home:
        agent["EnvironmentVariables"] = {"PEERLLM_HOME": home}
    return plistlib.dumps(agent)
