"""The daemon under this user's systemd."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peerllm.atomic_write import write_atomically
from peerllm.errors import NoServiceManager
from peerllm.service.ask import ask
from peerllm.service.status import ServiceStatus, definition_of
from peerllm.service.systemd_unit import NAME, systemd_unit

_INSTEAD = (
    "without systemd `peerllm up` starts the daemon, and `Start at login` in the menu of `peerllm tray` does at login"
)
_SYSTEMCTL = ("systemctl", "--user")


@dataclass(frozen=True)
class Systemd:
    """`folder` is where the user's own units lie."""

    folder: Path
    command: Sequence[str]
    home: str = ""

    @property
    def file(self) -> Path:
        return self.folder / NAME

    def install(self, *, start: bool) -> None:
        """Write the unit and enable it; raises `NoServiceManager`, with nothing written, if systemd does not answer."""
        self._ask("show-environment")
        write_atomically(self.file, self._text(), mode=0o644)
        self._ask("daemon-reload")
        self._ask("enable", *(["--now"] if start else []), NAME)

    def uninstall(self) -> bool:
        """Stop, disable and delete; was there anything? Where systemd does not answer, the files are deleted alone."""
        there = self.file.exists()
        try:
            if there:
                self._ask("disable", "--now", NAME)
        except NoServiceManager:
            (self.folder / "default.target.wants" / NAME).unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)
        with suppress(NoServiceManager):  # one that starts later reads what is there
            self._ask("daemon-reload")
        return there

    def status(self) -> ServiceStatus:
        definition = definition_of(self.file, self._text())
        try:
            told = self._ask("show", NAME, "--property=UnitFileState,ActiveState,SubState")
        except NoServiceManager as error:
            return ServiceStatus("systemd", self.file, definition, reachable=False, problem=str(error))
        said = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        state = f"{said.get('ActiveState', '?')} ({said.get('SubState', '?')})"
        return ServiceStatus("systemd", self.file, definition, True, said.get("UnitFileState") or "no", state)

    def _text(self) -> bytes:
        return systemd_unit(self.command, home=self.home).encode()

    def _ask(self, *words: str) -> str:
        return ask([*_SYSTEMCTL, *words], instead=_INSTEAD)
