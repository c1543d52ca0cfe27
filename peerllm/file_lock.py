"""A lock on an open file, which the system drops when the process ends, however it ends."""

from __future__ import annotations

import sys
from typing import IO, Any


def lock_file(file: IO[Any]) -> bool:
    """Whether the lock is this process's now; never waits."""
    try:
        _lock(file.fileno())
    except OSError:
        return False
    return True


def _lock(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
