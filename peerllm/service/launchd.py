"""The daemon under this user's launchd."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peerllm.atomic_write import write_atomically
from peerllm.errors import NoServiceManager
from peerllm.service.ask import ask
from peerllm.service.launch_agent import LABEL, launch_agent
from peerllm.service.status import ServiceStatus, definition_of

_INSTEAD = "`peerllm up` starts the daemon without launchd"


@dataclass(frozen=True)
class Launchd:
    """`folder` is where the user's own agents lie."""

    folder: Path
    command: Sequence[str]
    log_dir: Path
    home: str = ""

    @property
    def file(self) -> Path:
        return self.folder / f"{LABEL}.plist"

    def install(self, *, start: bool) -> None:
        """Write the agent and, to start it, hand it to launchd; raises `NoServiceManager` if that refuses."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, self._text(), mode=0o644)
        if start:
            self._ask("bootstrap", _domain(), str(self.file))

    def uninstall(self) -> bool:
        """Stop and delete; was there anything?"""
        there = self.file.exists()
        with suppress(NoServiceManager):  # it was not running
            self._ask("bootout", f"{_domain()}/{LABEL}")
        self.file.unlink(missing_ok=True)
        return there

    def status(self) -> ServiceStatus:
        definition = definition_of(self.file, self._text())
        enabled = "at login" if self.file.exists() else "no"
        try:
            told = self._ask("print", f"{_domain()}/{LABEL}")
        except NoServiceManager as error:
            return ServiceStatus("launchd", self.file, definition, reachable=False, problem=str(error))
        states = [line.split("=", 1)[1].strip() for line in told.splitlines() if line.strip().startswith("state =")]
        return ServiceStatus("launchd", self.file, definition, True, enabled, (states or ["?"])[0])

    def _text(self) -> bytes:
        return launch_agent(self.command, log_dir=self.log_dir, home=self.home)

    def _ask(self, *words: str) -> str:
        return ask(["launchctl", *words], instead=_INSTEAD)


def _domain() -> str:
    return f"gui/{os.getuid()}"
