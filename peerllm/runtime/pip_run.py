"""Run the pip of an environment and tell how far it is, by its output and by what lies on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peerllm.errors import SetUpFailed
from peerllm.folder_size import largest_file_bytes
from peerllm.runtime.pip_output import PipState, after

Report = Callable[[str, float | None], None]
"""Told what is going on, and the fraction of that where it can be known."""

_POLL_S = 0.1
_STALLED_AFTER_S = 1800.0
"""pip's own timeouts and retries come first; a slow disk takes minutes to unpack torch."""
_OPTIONS = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")


@dataclass(frozen=True)
class Pip:
    """The pip of one environment; what it prints is added to `log`."""

    environment: Path
    log: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    def install(self, arguments: Sequence[str], report: Report) -> str:
        """Its output if it failed, else "". Interrupted, no pip is left; what is installed stays.

        Raises:
            SetUpFailed: pip has done nothing for a long time.
        """
        began_at = self.log.stat().st_size if self.log.exists() else 0
        with tempfile.TemporaryDirectory(dir=self.environment, prefix=".pip-") as scratch:
            with self.log.open("ab") as output:
                pip = self._start(["install", *_OPTIONS, *arguments], output.fileno(), scratch)
            try:
                self._follow(pip, began_at, Path(scratch), report)
            finally:
                _end(pip)
        return self._read(began_at).decode(errors="replace") if pip.returncode else ""

    def _start(self, arguments: Sequence[str], output: int, scratch: str) -> subprocess.Popen[bytes]:
        # pip downloads into its temporary folder: inside ours, progress shows and an interrupted one leaves nothing
        return subprocess.Popen(
            [str(self.python), "-m", "pip", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": scratch, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    def _follow(self, pip: subprocess.Popen[bytes], at: int, scratch: Path, report: Report) -> None:
        state, packages_before, rest = PipState(), self._installed(), b""
        moved_at, last = time.monotonic(), (at, 0)
        while pip.poll() is None:
            fresh = self._read(at)
            at += len(fresh)
            *lines, rest = (rest + fresh).split(b"\n")
            for line in lines:
                state = after(state, line.decode(errors="replace"))
            arrived = largest_file_bytes(scratch)
            installed = self._installed() - packages_before
            report(state.words, _fraction(state, arrived, installed))
            if (at, arrived + installed) != last:
                moved_at, last = time.monotonic(), (at, arrived + installed)
            elif time.monotonic() > moved_at + _STALLED_AFTER_S:
                raise SetUpFailed(
                    f"pip has done nothing for {_STALLED_AFTER_S / 60:.0f} min; its output is in {self.log}"
                )
            time.sleep(_POLL_S)

    def _read(self, at: int) -> bytes:
        with self.log.open("rb") as log:
            log.seek(at)
            return log.read()

    def _installed(self) -> int:
        return sum(1 for _ in self.environment.glob("lib/python3.*/site-packages/*.dist-info"))


def _fraction(state: PipState, arrived: int, installed: int) -> float | None:
    if state.installing:
        return min(1.0, max(0, installed) / state.installing)
    return min(1.0, arrived / state.file_bytes) if state.file_bytes else None


def _end(pip: subprocess.Popen[bytes]) -> None:
    """Nothing of it is left running, compilers included."""
    if pip.poll() is None:
        os.killpg(pip.pid, signal.SIGKILL)
        pip.wait(5)
