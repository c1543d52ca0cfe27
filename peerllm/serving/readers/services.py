"""Services of a Linux desktop that know something of use: power profiles, the network, GNOME's idle time, GameMode."""

from __future__ import annotations

from pathlib import Path

from peerllm.serving.readers.bus import Bus
from peerllm.serving.readers.source import Unreadable

_POWER_PROFILES = (
    ("org.freedesktop.UPower.PowerProfiles", "/org/freedesktop/UPower/PowerProfiles"),
    ("net.hadess.PowerProfiles", "/net/hadess/PowerProfiles"),  # before power-profiles-daemon 0.20
)
_NETWORK = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager")
_METERED = {1: True, 2: False, 3: True, 4: False}
"""NMMetered: yes, no, and NetworkManager's own guess of either (a telephone's hotspot); 0 is unknown."""
_MUTTER = ("org.gnome.Mutter.IdleMonitor", "/org/gnome/Mutter/IdleMonitor/Core", "org.gnome.Mutter.IdleMonitor")
_GAMEMODE = ("com.feralinteractive.GameMode", "/com/feralinteractive/GameMode", "com.feralinteractive.GameMode")


async def saver_profile(system_bus: Bus) -> bool:
    """Whether the user chose the profile that saves power; asks power-profiles-daemon or tuned-ppd."""
    why = ""
    for service, path in _POWER_PROFILES:
        try:
            return await system_bus.property(service, path, service, "ActiveProfile") == "power-saver"
        except Unreadable as error:
            why = why or str(error)
    raise Unreadable(why)


def saver_firmware(sys_files: Path) -> bool:
    """Whether the firmware is set to save power. Source: Documentation/ABI/testing/sysfs-platform_profile."""
    try:
        return (sys_files / "firmware" / "acpi" / "platform_profile").read_text().strip() == "low-power"
    except OSError as error:
        raise Unreadable("no platform_profile in the firmware") from error


async def metered(system_bus: Bus) -> bool:
    found = _METERED.get(await system_bus.property(*_NETWORK, "Metered"))
    if found is None:
        raise Unreadable("NetworkManager does not know")
    return found


async def gnome_idle_s(session_bus: Bus) -> float:
    return (await session_bus.call(*_MUTTER, "GetIdletime")).body[0] / 1000


async def gaming(session_bus: Bus) -> bool:
    """Whether a game has asked Feral's GameMode for the machine."""
    return await session_bus.property(*_GAMEMODE, "ClientCount") > 0


def lid_button(proc: Path) -> bool:
    """Whether the kernel's button driver sees the lid closed."""
    states = [file.read_text() for file in sorted((proc / "acpi" / "button" / "lid").glob("*/state"))]
    if not states:
        raise Unreadable("no lid in /proc/acpi")
    return all("closed" in state for state in states)
