"""Programs that are started from here and outlive the tray."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from typing import Any


def start_apart(command: Sequence[str]) -> None:
    """Start a program in a session of its own; raises `OSError`."""
    nowhere = subprocess.DEVNULL
    reap(subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True))


def reap(process: subprocess.Popen[Any]) -> None:
    """Have somebody wait for it, or it stays as a zombie when it ends."""
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
