"""The lowest class for threads that work for others: they compute and read the disk only when nobody else wants to.

Linux knows such classes per thread, and the threads that one starts begin in its own: OpenMP's and ggml's helpers
follow the engine's thread. macOS and Windows have them per thread, too, but helpers begin as any other thread.
What was measured, and what it does not help against: docs/adr/0018-the-idle-class-and-a-pause.md.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from peerllm.engine.reply import Reply

log = logging.getLogger(__name__)

T = TypeVar("T")

LOWEST_NICE = 19
"""For kernels that group tasks so that the class alone does not count, and for tools that show it to people."""

_IOPRIO_SET = {"x86_64": 251, "i686": 289, "armv7l": 314, "ppc64le": 273, "s390x": 282}
_IOPRIO_SET_GENERIC = 30  # aarch64, riscv64, loongarch64: the system calls of all newer architectures
_IOPRIO_WHO_PROCESS, _THIS_THREAD = 1, 0
_IOPRIO_IDLE = 3 << 13

_PRIO_DARWIN_THREAD, _PRIO_DARWIN_BG = 3, 0x1000
_THREAD_MODE_BACKGROUND_BEGIN = 0x00010000


def lower_this_thread() -> tuple[str, ...]:
    """Put the calling thread, and those it will start, below all others of this machine; what that changed.

    There is no way back for a thread of an ordinary user. Where the system refuses, it stays as it was.
    """
    if sys.platform == "linux":
        steps: dict[str, Callable[[], object]] = {"nice": _lowest_nice, "cpu": _idle_cpu, "io": _idle_io}
    elif sys.platform == "darwin":
        steps = {"background": lambda: os.setpriority(_PRIO_DARWIN_THREAD, _THIS_THREAD, _PRIO_DARWIN_BG)}
    elif sys.platform == "win32":
        steps = {"background": _begin_background_mode}
    else:
        steps = {}
    changed = tuple(name for name, step in steps.items() if _took(name, step))
    log.info("thread lowered name=%s by=%s", threading.current_thread().name, ",".join(changed) or "nothing")
    return changed


async def on_thread(work: Callable[[], T], *, polite: bool) -> T:
    """What `work` returns; like `asyncio.to_thread`, it runs on if cancelled. `polite`: in the lowest class."""
    if not polite:
        return await asyncio.to_thread(work)
    reply: Reply[T] = Reply()

    def run() -> None:
        lower_this_thread()
        reply.give_outcome(work)

    threading.Thread(target=run, name="lowest").start()
    return await reply


def _took(name: str, step: Callable[[], object]) -> bool:
    try:
        step()
    except OSError as error:  # forbidden by a sandbox, unknown to the kernel
        log.warning("thread not lowered by=%s: %s", name, error)
        return False
    return True


def _lowest_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, _THIS_THREAD, LOWEST_NICE)  # Linux keeps it per thread, against POSIX


def _idle_cpu() -> None:
    if sys.platform == "linux":  # for the type checker
        os.sched_setscheduler(_THIS_THREAD, os.SCHED_IDLE, os.sched_param(0))


def _idle_io() -> None:
    number = _IOPRIO_SET.get(platform.machine(), _IOPRIO_SET_GENERIC)
    libc: Any = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _IOPRIO_WHO_PROCESS, _THIS_THREAD, _IOPRIO_IDLE) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ioprio_set: {os.strerror(error)}")


def _begin_background_mode() -> None:
    """Lowest priority for the processor, the disk and memory pages."""
    kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]  # Windows alone has it
    kernel.GetCurrentThread.restype = ctypes.c_void_p
    kernel.SetThreadPriority.argtypes = [ctypes.c_void_p, ctypes.c_int]
    if not kernel.SetThreadPriority(kernel.GetCurrentThread(), _THREAD_MODE_BACKGROUND_BEGIN):
        raise OSError(f"SetThreadPriority: error {ctypes.get_last_error()}")  # type: ignore[attr-defined]
