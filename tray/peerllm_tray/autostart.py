"""Start the tray when its owner logs in: an XDG autostart entry, a launchd agent, or a Run key of Windows."""

from __future__ import annotations

import contextlib
import importlib
import os
import plistlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peerllm.atomic_write import write_atomically

LABEL = "org.peerllm.tray"

_ENTRY = """\
[Desktop Entry]
Type=Application
Name=peerllm
Comment=Lend this computer to your swarm, or stop
Exec={command}
Icon=peerllm
Terminal=false
X-GNOME-Autostart-enabled=true
"""
_HIDDEN = "[Desktop Entry]\nType=Application\nName=peerllm\nHidden=true\n"
_RUN_KEY = r"Software\Microsoft\Windows\CurrentVersion\Run"


class Autostart(Protocol):
    """Whether the tray starts at login, and have it so or not."""

    def enabled(self) -> bool: ...

    def enable(self, command: Sequence[str]) -> None: ...

    def disable(self) -> None: ...


@dataclass(frozen=True)
class DesktopEntry:
    """The user's own entry goes before the one that a package installed for everybody.

    Source: Desktop Application Autostart Specification 0.5.
    """

    file: Path
    of_package: tuple[Path, ...] = ()

    @classmethod
    def of(cls, env: Mapping[str, str]) -> DesktopEntry:
        own = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config")
        others = (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
        name = Path("autostart") / "peerllm.desktop"
        return cls(own / name, tuple(Path(folder) / name for folder in others if folder))

    def enabled(self) -> bool:
        for file in (self.file, *self.of_package):
            if file.is_file():
                return "\nHidden=true" not in file.read_text(encoding="utf-8", errors="replace")
        return False

    def enable(self, command: Sequence[str]) -> None:
        content = _ENTRY.format(command=" ".join(map(_quoted, command)))
        write_atomically(self.file, content.encode(), mode=0o644)

    def disable(self) -> None:
        if any(file.is_file() for file in self.of_package):
            write_atomically(self.file, _HIDDEN.encode(), mode=0o644)
        else:
            self.file.unlink(missing_ok=True)


@dataclass(frozen=True)
class LaunchAgent:
    """launchd reads the folder at login: nothing is loaded or unloaded now."""

    file: Path

    @classmethod
    def of(cls, env: Mapping[str, str]) -> LaunchAgent:
        return cls(Path(env.get("HOME", "~")).expanduser() / "Library" / "LaunchAgents" / f"{LABEL}.plist")

    def enabled(self) -> bool:
        return self.file.is_file()

    def enable(self, command: Sequence[str]) -> None:
        agent = {"Label": LABEL, "ProgramArguments": list(command), "RunAtLoad": True, "LimitLoadToSessionType": "Aqua"}
        write_atomically(self.file, plistlib.dumps(agent), mode=0o644)

    def disable(self) -> None:
        self.file.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunKey:
    """A value of HKEY_CURRENT_USER's Run key; `registry` is the module winreg."""

    registry: Any
    name: str = "peerllm"

    def enabled(self) -> bool:
        with self._key() as key:
            try:
                self.registry.QueryValueEx(key, self.name)
            except FileNotFoundError:
                return False
        return True

    def enable(self, command: Sequence[str]) -> None:
        with self._key() as key:
            self.registry.SetValueEx(key, self.name, 0, self.registry.REG_SZ, subprocess.list2cmdline(command))

    def disable(self) -> None:
        with self._key() as key, contextlib.suppress(FileNotFoundError):
            self.registry.DeleteValue(key, self.name)

    def _key(self) -> Any:
        return self.registry.CreateKey(self.registry.HKEY_CURRENT_USER, _RUN_KEY)


def autostart(platform: str = sys.platform, env: Mapping[str, str] = os.environ) -> Autostart:
    """That of this system."""
    if platform == "win32":
        return RunKey(importlib.import_module("winreg"))
    return LaunchAgent.of(env) if platform == "darwin" else DesktopEntry.of(env)


def _quoted(argument: str) -> str:
    """As the Desktop Entry Specification wants arguments of Exec."""
    escaped = "".join(f"\\{character}" if character in '"`$\\' else character for character in argument)
    escaped = escaped.replace("\\", "\\\\").replace("%", "%%")
    return f'"{escaped}"' if set(argument) - _UNRESERVED else escaped


_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%")
