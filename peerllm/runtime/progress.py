"""How far set-up is: written beside its environment, so that a tray, a screen or a second command can show it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from peerllm.atomic_write import write_atomically

_FILE = "progress.json"


@dataclass(frozen=True)
class SetUpProgress:
    """`fraction` of what `words` say, None where that cannot be known; `pid` is the process that sets up."""

    words: str
    fraction: float | None
    pid: int


def write_progress(folder: Path, now: SetUpProgress) -> None:
    write_atomically(folder / _FILE, json.dumps(asdict(now)).encode(), mode=0o644)


def end_progress(folder: Path) -> None:
    (folder / _FILE).unlink(missing_ok=True)


def read_progress(folder: Path) -> SetUpProgress | None:
    """Of the set-up that is under way; None if none is, or its process has ended without a word."""
    try:
        now = SetUpProgress(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return now if psutil.pid_exists(now.pid) else None
