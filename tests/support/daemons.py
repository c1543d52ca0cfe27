"""Real daemons as processes, each with a home of its own, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from peerllm.demo.peers import NO_GUEST
from peerllm.errors import NotRunning
from peerllm.local.client import LocalClient
from peerllm.local.schema import Status
from peerllm.locations import Locations

_POLL_S = 0.05


@dataclass
class Daemon:
    """`peerllm serve` with this home and these settings (names as in the environment, without ``PEERLLM_``)."""

    home: Path
    settings: Mapping[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "peerllm", "serve"], env=self.environment, stdout=output, stderr=output
            )

    @property
    def environment(self) -> dict[str, str]:
        return peerllm_environment(self.home, self.settings)

    @property
    def output(self) -> str:
        return (self.home / "output").read_text()

    def client(self) -> LocalClient:
        return LocalClient.connect(Locations.of(self.environment))

    def status(self) -> Status | None:
        """None until the local API answers."""
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.output[-2000:]}")
        try:
            with self.client() as client:
                return client.status()
        except NotRunning:
            return None

    def run(self, *verb: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """The command line with this daemon's home."""
        command = [sys.executable, "-m", "peerllm", *verb]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout_s)

    def wait(self, condition: Callable[[Status], bool], within_s: float = 60.0) -> Status:
        """The first status for which the condition holds."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            status = self.status()
            if status is not None and condition(status):
                return status
            time.sleep(_POLL_S)
        raise AssertionError(f"not within {within_s:g} s: {self.status()}\n{self.output[-2000:]}")

    def wait_until_serving(self, within_s: float = 120.0) -> Status:
        return self.wait(lambda status: status.lifecycle.name == "serving", within_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def peerllm_environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with one home and these settings, and none of the caller's."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PEERLLM_")}
    own = {f"PEERLLM_{name}": value for name, value in settings.items()}
    return {**outside, **NO_GUEST, **own, "PEERLLM_HOME": str(home)}


def processes_of(home: Path, within_s: float = 0.0) -> list[str]:
    """Command lines of the processes whose home is there or below; waits that long for them to end."""
    deadline = time.monotonic() + within_s
    while (found := list(_processes_of(home))) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return found


def _processes_of(home: Path) -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("PEERLLM_HOME", "").startswith(str(home)):
                yield f"{process.pid} {' '.join(process.cmdline())}"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
