"""The demo's daemons: real ones, each with a home of its own, all gone when the demo ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peerllm.errors import NotRunning, PeerllmError
from peerllm.local.client import LocalClient
from peerllm.local.schema import Status
from peerllm.locations import Locations
from peerllm.shared_swarm import share_swarm

NO_GUEST: Mapping[str, str] = {
    "PEERLLM_GUEST_POLICY": "custom",
    "PEERLLM_GUEST_IDLE_AFTER_S": "0",
    "PEERLLM_GUEST_HOURS": "",
    "PEERLLM_GUEST_ON_BATTERY": "true",
    "PEERLLM_GUEST_MIN_BATTERY": "0",
    "PEERLLM_GUEST_POWER_SAVER": "true",
    "PEERLLM_GUEST_METERED": "true",
    "PEERLLM_GUEST_MOST_OTHERS_CORES": "1",
    "PEERLLM_GUEST_MOST_OTHERS_GPU": "1",
    "PEERLLM_ENGINE_PRIORITY": "normal",
}
"""For daemons that somebody starts to watch: they lend on a laptop's battery, too, and several of them on one machine
would starve one another in the lowest class, where whoever computes waits for all that merely listen."""

STOP_S = 10.0
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class DemoPeer:
    """One daemon process and where it keeps its things."""

    locations: Locations
    process: subprocess.Popen[bytes]

    def status(self) -> Status | None:
        """None until the local API answers; raises `PeerllmError` if the daemon has ended."""
        if self.process.poll() is not None:
            raise PeerllmError(f"a peer ended with exit code {self.process.returncode}; see {self.locations.log_file}")
        try:
            with LocalClient.connect(self.locations) as client:
                return client.status()
        except NotRunning:
            return None

    def client(self) -> LocalClient:
        return LocalClient.connect(self.locations)


@contextlib.contextmanager
def demo_peers(home: Path, count: int, settings: Mapping[str, str]) -> Iterator[list[DemoPeer]]:
    """`count` daemons in a private swarm of their own; they end with the context, whatever happens in it."""
    environments = [_environment(home / f"peer-{index + 1}", settings) for index in range(count)]
    _share_new_swarm([Locations.of(environment) for environment in environments])
    peers: list[DemoPeer] = []
    try:
        for environment in environments:
            peers.append(_start(environment))
        yield peers
    finally:
        _stop_all(peers)


def wait_until_served(peers: Sequence[DemoPeer], timeout_s: float) -> Iterator[list[Status | None]]:
    """The status of every peer, again and again, until all of them serve.

    Raises `PeerllmError` when a peer ends, or when they do not serve within the time (says what each is doing).
    """
    deadline = time.monotonic() + timeout_s
    while True:
        now = [peer.status() for peer in peers]
        yield now
        if all(status and status.lifecycle.name == "serving" for status in now):
            return
        if time.monotonic() > deadline:
            doing = ", ".join(f"{s.lifecycle.name} ({s.lifecycle.reason})" if s else "starting" for s in now)
            raise PeerllmError(f"not all blocks are served after {timeout_s:.0f} s; the peers are: {doing}")
        time.sleep(_POLL_S)


def _environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PEERLLM_")}
    return {**outside, **NO_GUEST, **settings, "PEERLLM_HOME": str(home)}


def _share_new_swarm(homes: Sequence[Locations]) -> None:
    """A swarm whose peers have never met: the records of an earlier demo may live for a minute."""
    for home in homes:
        shutil.rmtree(home.state_dir / "swarms", ignore_errors=True)
    share_swarm("demo", homes)


def _start(environment: Mapping[str, str]) -> DemoPeer:
    locations = Locations.of(environment)
    with locations.output_file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "peerllm", "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is the demo's to handle, once
            preexec_fn=_end_with_parent if _LIBC else None,
        )
    return DemoPeer(locations, process)


def _end_with_parent() -> None:
    """Even if the demo itself is killed, its daemons get a SIGTERM (and their p2pd ends with them)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop_all(peers: Sequence[DemoPeer]) -> None:
    for peer in peers:
        peer.process.terminate()
    deadline = time.monotonic() + STOP_S
    for peer in peers:
        try:
            peer.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            peer.process.kill()
            peer.process.wait()
