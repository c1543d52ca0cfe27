"""Make the environment that the daemon runs in: a virtual environment with torch and the node's packages.

It goes on where an earlier attempt was stopped: what pip has installed stays, and what it has fetched is in its cache.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import peerllm
from peerllm.errors import NotSetUp, SetUpFailed
from peerllm.runtime.interpreter import (
    environment,
    node_folder,
    node_python,
    remove_stamp,
    shipped_wheel,
    write_stamp,
)
from peerllm.runtime.origin import Origin, origin
from peerllm.runtime.pip_output import is_hopeless, why_it_failed
from peerllm.runtime.pip_run import Pip, Report
from peerllm.runtime.progress import SetUpProgress, end_progress, read_progress, write_progress
from peerllm.sizes import format_bytes

ROOM_BYTES = 3 << 30
"""Free space that the CPU build of torch, the rest, and pip's unpacking and cache take at most."""

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_WAIT_S = 0.5
_TORCH = re.compile(r"(?m)^torch==([\w.]+)")


def set_up(report: Report, *, requirement: str = "") -> Path:
    """The interpreter of a complete environment; a second process that wants one waits for the first.

    Args:
        requirement: what pip is to install there; this very program with what a node needs, unless given.
    Raises:
        NotSetUp: there is no way to do that here (Windows, a source folder).
        SetUpFailed: offline, no room, no venv module, or pip failed; says what to do.
    """
    if sys.platform == "win32":
        raise NotSetUp("the daemon needs Linux or macOS; on Windows run it in WSL2 (wsl --install)")
    requirement = requirement or requirement_of(origin(), shipped_wheel())
    folder = node_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _ended_cleanly(), _alone(folder, report):
        if python := node_python():
            return python
        try:
            return _make(folder, requirement, _told(folder, report))
        finally:
            end_progress(folder)


def requirement_of(came: Origin, wheel: Path | None) -> str:
    """What pip is to install: exactly this program, from where it came."""
    if wheel:
        return f"{wheel}[node]"
    if came.way == "source":
        raise NotSetUp("this is a source folder without the node's packages; run `./dev setup` in it")
    return f"peerllm[node] @ {came.url}" if came.url else f"peerllm[node]=={peerllm.__version__}"


def remove() -> bool:
    """Delete the environment, also an unfinished one; was there any?"""
    folder = environment()
    if not folder.exists():
        return False
    with _alone(node_folder(), lambda *_: None):
        remove_stamp(folder)
        shutil.rmtree(folder)
    _log_file().unlink(missing_ok=True)
    return True


def _log_file() -> Path:
    return node_folder() / "set-up.log"


def _make(folder: Path, requirement: str, report: Report) -> Path:
    _require_room(folder)
    _make_environment(report)
    pip = Pip(environment(), _log_file())
    pip.log.write_bytes(b"")
    constraints = constraints_file()
    bound = ["--constraint", str(constraints)] if constraints else []
    _install_torch(pip, bound, lambda words, fraction: report(f"step 2 of 3: {words}", fraction))
    extras = requirement.replace("[node]", "[node,cuda]") if has_gpu() else requirement
    output = pip.install([*bound, extras], lambda words, fraction: report(f"step 3 of 3: {words}", fraction))
    if output:
        raise SetUpFailed(f"set-up stopped: {why_it_failed(output)} ({pip.log})")
    write_stamp(environment())
    return pip.python


def _make_environment(report: Report) -> None:
    """Keep what an interrupted set-up has left, unless it belongs to another Python."""
    report("step 1 of 3: making a virtual environment", None)
    folder = environment()
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise SetUpFailed("Python's venv module is missing: sudo apt install python3-venv")
    remove_stamp(folder)
    for leftover in folder.glob(".pip-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if (folder / "lib" / python / "site-packages" / "pip" / "__main__.py").is_file() and (
        folder / "bin" / python
    ).exists():
        return
    done = subprocess.run(
        [sys.executable, "-I", "-m", "venv", "--clear", str(folder)], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise SetUpFailed(f"the virtual environment could not be made: {why_it_failed(done.stdout + done.stderr)}")


def _install_torch(pip: Pip, bound: list[str], report: Report) -> None:
    """The CPU build unless there is an NVIDIA GPU: on Linux the default build brings gigabytes of CUDA."""
    output = ""
    for attempt in torch_sources(torch_version(constraints_file()), gpu=has_gpu(), env=os.environ):
        output = pip.install([*bound, *attempt], report)
        if not output:
            return
        if len(attempt) == 1 and is_hopeless(output):
            break
    raise SetUpFailed(f"torch could not be installed: {why_it_failed(output)} ({pip.log})")


def torch_sources(version: str, *, gpu: bool, env: Mapping[str, str]) -> list[list[str]]:
    """Arguments of pip, to be tried in this order; PEERLLM_TORCH_INDEX names an index that carries CPU builds."""
    plain = f"torch=={version}" if version else "torch"
    if gpu or sys.platform != "linux":
        return [[plain]]
    built_for_cpu = f"torch=={version}+cpu" if version else "torch"
    index = env.get("PEERLLM_TORCH_INDEX", _CPU_INDEX)
    return [[built_for_cpu], ["--extra-index-url", index, built_for_cpu], [plain]]


def torch_version(constraints: Path | None) -> str:
    """The version that this program was tested with, "" if it does not say."""
    found = _TORCH.search(constraints.read_text(encoding="utf-8")) if constraints else None
    return found[1] if found else ""


def constraints_file() -> Path | None:
    """The versions that this program was tested with, which its wheel carries."""
    file = Path(peerllm.__file__).with_name("constraints.txt")
    return file if file.is_file() else None


def has_gpu() -> bool:
    """Is there an NVIDIA GPU with a driver?"""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _require_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < ROOM_BYTES:
        raise SetUpFailed(
            f"set-up needs {format_bytes(ROOM_BYTES)} in {folder}, {format_bytes(free)} are free; free some space, or "
            "set XDG_DATA_HOME to a folder on another disk"
        )


def _told(folder: Path, report: Report) -> Report:
    """Report what has changed, by whole percents, and write it for others to read."""
    told: SetUpProgress | None = None

    def tell(words: str, fraction: float | None) -> None:
        nonlocal told
        now = SetUpProgress(words, None if fraction is None else round(fraction, 2), os.getpid())
        if now != told:
            told = now
            write_progress(folder, now)
            report(now.words, now.fraction)

    return tell


@contextmanager
def _ended_cleanly() -> Iterator[None]:
    """SIGTERM unwinds the stack as Ctrl-C does, so that no pip goes on without us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def _alone(folder: Path, report: Report) -> Iterator[None]:
    """Hold the folder's lock, which the system drops when its holder dies; meanwhile show what the holder does."""
    import fcntl

    with (folder / "set-up.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                other = read_progress(folder)
                report(other.words if other else "waiting for another set-up", other.fraction if other else None)
                time.sleep(_WAIT_S)
        yield
