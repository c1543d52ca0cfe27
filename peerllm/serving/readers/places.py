"""Where on this machine is looked: its own files, buses and screen, or those of a test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Places:
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    x_sockets: Path = Path("/tmp/.X11-unix")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    user_id: int = field(default_factory=lambda: os.getuid() if hasattr(os, "getuid") else 0)

    @property
    def system_bus(self) -> str:
        """A D-Bus address."""
        return self.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket")

    @property
    def session_bus(self) -> str:
        """The D-Bus address of the user's own bus: a daemon started by ssh or cron is not told, but systemd has one."""
        return self.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={self.runtime_dir / 'bus'}"

    @property
    def runtime_dir(self) -> Path:
        return Path(self.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{self.user_id}")
