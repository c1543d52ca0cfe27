"""Which service manager this machine has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from peerllm.locations import Locations
from peerllm.service.launchd import Launchd
from peerllm.service.status import ServiceStatus
from peerllm.service.systemd import Systemd
from peerllm.service.task_scheduler import TaskScheduler


class ServiceManager(Protocol):
    @property
    def file(self) -> Path: ...
    def install(self, *, start: bool) -> None: ...
    def uninstall(self) -> bool: ...
    def status(self) -> ServiceStatus: ...


def service_manager(
    platform: str, command: Sequence[str], locations: Locations, env: Mapping[str, str], user_home: Path
) -> ServiceManager:
    """The one of that platform (`sys.platform`), for the daemon of those locations."""
    home = env.get("PEERLLM_HOME", "")
    home = str(Path(home).expanduser().absolute()) if home else ""
    if platform == "win32":
        return TaskScheduler(locations.state_dir, rf"{env.get('USERDOMAIN', '.')}\{env.get('USERNAME', '')}")
    if platform == "darwin":
        return Launchd(user_home / "Library" / "LaunchAgents", command, locations.log_dir, home)
    units = Path(env.get("XDG_CONFIG_HOME") or user_home / ".config") / "systemd" / "user"
    return Systemd(units, command, home)
