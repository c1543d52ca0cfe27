"""Carry out what was clicked. Everything here may take a while: it runs on a thread of its own.

The client of the daemon is imported there too: that takes longer than to show the icon.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from dataclasses import dataclass

from peerllm.errors import NotRunning
from peerllm.locations import Locations
from peerllm.runtime.interpreter import own_command
from peerllm_tray.actions import (
    Action,
    AskConsent,
    OpenChat,
    OpenPage,
    Pause,
    Quit,
    SetLimit,
    Share,
    StartAtLogin,
    StartDaemon,
    pause_until,
)
from peerllm_tray.autostart import Autostart
from peerllm_tray.children import reap, start_apart
from peerllm_tray.terminal import terminal_command

_START_S = 30.0
_THIS = own_command()
_LOGIN_WAIT = ("tray", "--wait", "60")
"""Panels may come up after the programs of a session."""


@dataclass(frozen=True)
class Deeds:
    """The owner's wishes, done to the daemon of a home and to this desktop."""

    locations: Locations
    autostart: Autostart
    serve: tuple[str, ...] = (*_THIS, "serve", "--quiet")
    """What starts a daemon."""

    def carry_out(self, action: Action) -> None:
        """Raises `PeerllmError`, `OSError`."""
        match action:
            case StartDaemon():
                self._start_daemon()
            case OpenChat():
                start_apart(terminal_command(sys.platform, (*_THIS, "chat")))
            case OpenPage():
                start_apart((*_THIS, "web"))
            case StartAtLogin(on):
                self._start_at_login(on)
            case Quit(stop_sharing=True):
                with contextlib.suppress(NotRunning):  # then nothing is lent
                    self._tell(Share(False))
            case Share() | Pause() | SetLimit():
                self._tell(action)
            case Quit() | AskConsent():
                pass  # nothing to be done outside of the tray

    def _tell(self, action: Share | Pause | SetLimit) -> None:
        from peerllm.local.client import LocalClient

        with LocalClient.connect(self.locations) as client:
            match action:
                case Share(on, finish):
                    client.share(on, finish=finish)
                case Pause():
                    client.pause(pause_until(action, time.time()))
                case SetLimit(key, value):
                    client.set_limits({key: value})

    def _start_daemon(self) -> None:
        from peerllm.local.launch import launch_daemon, wait_until_answering

        process = launch_daemon(self.locations, command=self.serve)
        reap(process)
        wait_until_answering(self.locations, process, timeout_s=_START_S).close()

    def _start_at_login(self, on: bool) -> None:
        if on:
            self.autostart.enable((*_installed_command(), *_LOGIN_WAIT))
        else:
            self.autostart.disable()


def _installed_command() -> tuple[str, ...]:
    """The command as its owner knows it, which outlasts an upgrade; else this very installation."""
    found = shutil.which("peerllm")
    return (found,) if found else _THIS
