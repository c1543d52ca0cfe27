"""Memory that was freed goes back to the system, so that the owner's programs have it."""

from __future__ import annotations

import ctypes
import gc
import sys


def return_memory() -> None:
    """Have the allocator give back what it keeps for later: after a span, whole arenas of it. Takes some 10 ms."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl gives back by itself
        if trim is not None:
            trim(0)
