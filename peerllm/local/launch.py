"""Start the daemon as a process of its own, and stop it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence

import psutil

from peerllm.errors import NotRunning, PeerllmError
from peerllm.local.client import LocalClient
from peerllm.locations import Locations
from peerllm.runtime.interpreter import node_folder, own_command
from peerllm.runtime.progress import read_progress

_POLL_S = 0.05
_KILL_S = 5.0
_SERVE = (*own_command(), "serve", "--quiet")


def launch_daemon(
    locations: Locations, arguments: Sequence[str] = (), *, command: Sequence[str] = _SERVE
) -> subprocess.Popen[bytes]:
    """A daemon that outlives this process and its terminal; what it prints goes to ``daemon.out``."""
    locations.create()
    with locations.output_file.open("wb") as output:
        return subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=locations.state_dir,
            start_new_session=True,
            creationflags=getattr(subprocess, "DETACHED_PROCESS", 0) if os.name == "nt" else 0,
        )


def wait_until_answering(
    locations: Locations,
    daemon: subprocess.Popen[bytes],
    *,
    timeout_s: float,
    report: Callable[[str, float | None], object] = lambda words, fraction: None,
) -> LocalClient:
    """A client of the daemon that was launched; raises `PeerllmError` with its last words if it ended.

    Args:
        timeout_s: without the time that a first run takes to fetch what the daemon needs.
        report: told how far that is.
    """
    deadline = time.monotonic() + timeout_s
    while daemon.poll() is None:
        client = _answering(locations, daemon.pid)
        if client:
            return client
        if (setting_up := read_progress(node_folder())) and setting_up.pid == daemon.pid:
            deadline = time.monotonic() + timeout_s
            report(setting_up.words, setting_up.fraction)
        if time.monotonic() > deadline:
            raise PeerllmError(
                f"the daemon (pid {daemon.pid}) did not answer in {timeout_s:g} s; see {locations.log_file}"
            )
        time.sleep(_POLL_S)
    raise PeerllmError(f"the daemon ended with exit code {daemon.returncode}: {_last_words(locations)}")


def stop_daemon(locations: Locations, *, timeout_s: float, kill: bool = False) -> float:
    """Have the daemon drain and end; returns the seconds that took.

    Args:
        timeout_s: how long running answers may take to end.
        kill: then end it by force; without, `PeerllmError` says that it is still there.
    """
    started = time.monotonic()
    with LocalClient.connect(locations) as client:
        process = _process(client.status().pid, locations)
        client.stop()
    if not _ended(process, timeout_s):
        if not kill:
            raise PeerllmError(
                f"the daemon (pid {process.pid}) still finishes answers after {timeout_s:g} s; "
                "wait, or end it with `peerllm down --now`"
            )
        process.kill()
        _ended(process, _KILL_S)
    return time.monotonic() - started


def _answering(locations: Locations, pid: int) -> LocalClient | None:
    """A client if the process of that id, not an older daemon's leftover, answers."""
    try:
        client = LocalClient.connect(locations)
    except NotRunning:
        return None
    try:
        if client.address.pid == pid and client.status().pid == pid:
            return client
    except PeerllmError:
        pass  # its port is open before its state is known: ask again
    client.close()
    return None


def _process(pid: int, locations: Locations) -> psutil.Process:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise NotRunning(f"the daemon of {locations.state_dir} has ended by itself") from None


def _ended(process: psutil.Process, timeout_s: float) -> bool:
    """Whether it ends in time. A zombie has ended: in containers nobody may be there to reap it."""
    deadline = time.monotonic() + timeout_s
    try:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
    except psutil.NoSuchProcess:
        pass
    return True


def _last_words(locations: Locations) -> str:
    lines = locations.output_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("peerllm: ") if lines else f"it said nothing; see {locations.log_file}"
