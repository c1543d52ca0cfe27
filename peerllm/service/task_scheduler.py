"""The daemon under the Windows task scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peerllm.atomic_write import write_atomically
from peerllm.errors import NoServiceManager
from peerllm.service.ask import ask
from peerllm.service.scheduled_task import NAME, scheduled_task
from peerllm.service.status import ServiceStatus, definition_of

_INSTEAD = "`wsl -d Debian -- peerllm up` starts the daemon without the task scheduler"


@dataclass(frozen=True)
class TaskScheduler:
    """`folder` keeps the task's XML, which the scheduler takes a copy of."""

    folder: Path
    user: str

    @property
    def file(self) -> Path:
        return self.folder / "task.xml"

    def install(self, *, start: bool) -> None:
        """Register the task; raises `NoServiceManager` if the scheduler refuses it."""
        write_atomically(self.file, self._text())
        self._ask("/Create", "/F", "/TN", NAME, "/XML", str(self.file))
        if start:
            self._ask("/Run", "/TN", NAME)

    def uninstall(self) -> bool:
        """End and delete; was there anything?"""
        there = self.file.exists()
        for words in (("/End", "/TN", NAME), ("/Delete", "/F", "/TN", NAME)):
            try:
                self._ask(*words)
            except NoServiceManager:
                continue  # not running, or gone
        self.file.unlink(missing_ok=True)
        return there

    def status(self) -> ServiceStatus:
        definition = definition_of(self.file, self._text())
        try:
            told = self._ask("/Query", "/TN", NAME, "/NH")
        except NoServiceManager as error:
            return ServiceStatus("task scheduler", self.file, definition, reachable=False, problem=str(error))
        state = (told.split() or ["?"])[-1]
        return ServiceStatus("task scheduler", self.file, definition, True, "at login", state)

    def _text(self) -> bytes:
        return scheduled_task(user=self.user)

    def _ask(self, *words: str) -> str:
        return ask(["schtasks", *words], instead=_INSTEAD)
