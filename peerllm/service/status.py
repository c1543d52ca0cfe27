"""What is known of the service, whichever manager looks after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServiceStatus:
    """`definition` is "absent", "as installed" or "changed by hand"; `reachable` whether the manager answers.

    `enabled` and `state` are the manager's own words, "" where it does not answer; `problem` says why it does not.
    """

    manager: str
    file: Path
    definition: str
    reachable: bool
    enabled: str = ""
    state: str = ""
    problem: str = ""


def definition_of(file: Path, wanted: bytes) -> str:
    """Compare what is there with what would be written."""
    try:
        return "as installed" if file.read_bytes() == wanted else "changed by hand"
    except OSError:
        return "absent"
